"""Every system call of a reference workload, met by every fault it can meet: ``python -m tests.system_calls``."""

import tests.support.plain_python  # noqa: F401 (first)
