"""Weights: other libraries' layouts, transfer between networks, truncation to fewer channels."""
