"""What fleets need beside the primitives, over both engines."""
