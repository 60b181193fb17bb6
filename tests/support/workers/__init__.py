"""What worker processes of tests run."""
