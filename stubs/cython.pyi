# What leaves that call C use of ``cython``, for mypy. It takes ``cython.compiled`` for False (``always_false``).
compiled: bool
