"""The family: what a MobileNet is, as data; the networks built from it; what they cost."""
