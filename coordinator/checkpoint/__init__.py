"""When and where a checkpoint is written, and by whom."""
