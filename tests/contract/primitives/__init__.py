"""The five primitives over both engines."""
