"""The write-ahead log, and the room on the disk that is kept for the next checkpoint."""
