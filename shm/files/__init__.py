"""Files of a store directory."""
