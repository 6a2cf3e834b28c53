"""The parts of `experiments/gpu.py`, which measure within minutes what one GPU gives, the most valuable first."""
