"""What the papers claim, and what our runs show about it."""
