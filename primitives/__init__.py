"""The primitives that users store their data with: facades and views of a transaction, over the port of an engine."""
