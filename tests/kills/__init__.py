"""Real kills by the thousand, under load: ``python -m tests.kills`` from the repository's root."""
