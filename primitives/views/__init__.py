"""The methods of each primitive for one run, over an engine: written once, for transactions and for facades."""
