"""Stands in for the module ``cython`` in the few leaves that call C, where Cython is not installed.

Such a leaf says ``try: from cython import compiled`` first, because Cython looks for that, and takes this one
otherwise.
"""

compiled = False
