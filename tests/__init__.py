"""The tests of shoal. What each folder proves is in README.md beside this file."""
