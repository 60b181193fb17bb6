"""Trimmed logs and retention policies over each engine."""
