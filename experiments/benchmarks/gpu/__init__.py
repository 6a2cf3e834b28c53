"""The parts of `experiments/gpu.py`, the most valuable first: what one GPU gives, within minutes."""
