"""The worker pool: a ``concurrent.futures.Executor`` whose worker processes may die at any moment.

- ``executor``: what a caller uses. ``pool_state``: what the threads of a pool share.
- ``supervisor``: one thread per worker; it starts the worker, gives it tasks, and learns its death.
- ``task``: a call and its future. ``worker``: the inside of a worker process.
- ``worker_process``: a process as its supervisor sees it. ``fork_template``: the process that forks workers.
- ``helper_processes``: the processes that ``multiprocessing`` starts beside the workers.
- ``life``: how a worker learns that the pool's process is gone.
- ``channel``: messages to and from a worker. ``outcome``: results and exceptions as bytes.
"""
