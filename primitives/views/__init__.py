"""The methods of one run, over an engine."""
