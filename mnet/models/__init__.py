"""The MobileNet family: networks described as data, the modules built from them, and what they cost."""
