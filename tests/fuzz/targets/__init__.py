"""The decoders that are fuzzed, and their seeds."""
