# C types of ``reader.py``.
from shoal.coordinator.log.format cimport decode_commit, decode_record
