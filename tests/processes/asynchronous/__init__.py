"""Programs with an event loop that use the store."""
