"""Retention: policies as they are stored, and the rules by which the coordinator removes what they do not keep."""
