"""Watches, followers and consumers in many processes."""
