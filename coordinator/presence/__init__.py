"""Who waits for a change, who stands in line, and who holds something: known to the coordinator, in its memory only."""
