"""The public classes: one file each."""
