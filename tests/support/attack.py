"""What a hostile file holds: a pickle whose reading runs code, which leaves a folder behind."""

import os
from pathlib import Path


class Attack:
    """Pickled, it makes the folder `marker` when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)
