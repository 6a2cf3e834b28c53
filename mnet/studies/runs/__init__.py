"""One run: its job, its files, its training, its checkpoints."""
