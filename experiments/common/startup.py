"""What a program does before its own imports, to start sooner. It imports nothing large itself."""

from __future__ import annotations

import gc


def hold_collection() -> None:
    """Collect no garbage until `main` begins: imports leave little, and looking for it takes a tenth of a start."""
    gc.disable()


def allow_collection() -> None:
    """The opposite; what was imported stays, and is not looked through again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
