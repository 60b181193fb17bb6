"""Processes that hold something or wait for others, and are killed, stopped, closed, forked and interrupted."""
