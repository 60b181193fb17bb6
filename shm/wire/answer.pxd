cimport cython

@cython.locals(body=bytes)
cpdef bytes encode_answer(commit_id, unsigned long long status, version=*, details=*)
cpdef tuple decode_answer(bytes message)
