"""What a process does while it waits for others, or holds something."""
