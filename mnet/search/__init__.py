"""Architecture search: NetAdapt, which narrows a network, and a search over the blocks of one. Source: V3 §4."""
