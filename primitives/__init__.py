"""What users store: facades and transaction views over one engine interface."""
