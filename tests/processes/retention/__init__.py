"""Retention by a coordinator that serves a store, and that dies."""
