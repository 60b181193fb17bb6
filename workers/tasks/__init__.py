"""Calls of the synchronous face as tasks of an asyncio event loop: none of them blocks the thread."""
