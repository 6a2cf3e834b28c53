"""Architecture search: NetAdapt, which narrows a network, and a search over a network's blocks. Source: V3 §4."""
