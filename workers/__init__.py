"""The client side: attachment, transactions, take-over, and the process pool."""
