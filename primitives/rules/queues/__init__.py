"""The rules of task queues: which task is next, who has claimed it, and what becomes of it."""
