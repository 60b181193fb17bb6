"""The segment: its layout, and how any process reads it."""
