"""Finding networks: NetAdapt, which takes channels from one, and a search over its blocks. Source: V3 §4."""
