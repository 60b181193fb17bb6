"""From files to a segment, and what is wrong with files."""
