"""Fixtures and helpers for single primitives."""
