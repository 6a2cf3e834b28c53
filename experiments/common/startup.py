"""What a program does before its own imports, to start sooner. It imports nothing large itself."""

from __future__ import annotations

import gc


def hold_collection() -> None:
    """Collect no garbage until `main` begins: imports leave little, and looking for it takes a tenth of the start."""
    gc.disable()


def allow_collection() -> None:
    """Collect garbage again, but not among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
