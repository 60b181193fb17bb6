"""The machine and the process that shoal runs in: descriptors, memory limits, waiting, starting Python processes."""
