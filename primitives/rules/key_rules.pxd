from shoal.shm.operation cimport one_write
