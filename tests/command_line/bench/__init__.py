"""The benchmark as a command."""
