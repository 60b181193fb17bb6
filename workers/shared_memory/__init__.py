"""The engine over a shared segment: attach, read at a snapshot, submit, survive a coordinator."""
