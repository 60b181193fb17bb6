"""What catches the mutants: single moments in this process, and histories of real processes."""
