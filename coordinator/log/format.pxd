cimport cython

cpdef bytes encode_record(version, synced_version, boot_id, client_id, commit_id, bytes mutations, bytes decided)
