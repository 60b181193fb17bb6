"""What is made of figures: JSON (``document``), tables, a page in Markdown, plots, and the comparison of two runs.

All of it is made from a ``Document``, measured now or read from JSON that was written before.
"""
