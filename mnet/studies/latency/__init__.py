"""The latency of a study's networks, and the frontier of accuracy over latency."""
