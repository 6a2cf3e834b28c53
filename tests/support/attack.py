"""The content of a hostile file: a pickle that runs code when it is read, which leaves a folder behind."""

import os
from pathlib import Path


class Attack:
    """Pickled, it makes the folder `marker` when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)
