"""The public classes, one file each. Every call is a transaction of its own."""
