"""What is durable: write-ahead log files and checkpoints."""
