"""Names of pictures below OUT/images."""

from __future__ import annotations

import os
from collections.abc import Sequence

from deidcli.data.images import FORMAT_OF_EXTENSION
from deidcli.data.listing import File


class Names:
    """Unique output names: the input's own, changed only if two would collide."""

    def __init__(self, files: Sequence[File]) -> None:
        self._stems: dict[str, int] = {}
        for file in files:
            if file.is_picture:
                stem = _stem(file.key)
                self._stems[stem] = self._stems.get(stem, 0) + 1
        self._taken = {file.key for file in files if file.is_picture}

    def stem(self, key: str) -> str:
        """Return `a/b` for `a/b.jpg`, or `a/b.jpg` if `a/b.png` exists too."""
        stem = _stem(key)
        return stem if self._stems[stem] == 1 and stem not in self._taken else key

    def name(self, key: str) -> str:
        """Return the key; `.png` is appended if deid does not write its format."""
        if os.path.splitext(key)[1].lower() in FORMAT_OF_EXTENSION:
            return key
        name = key + ".png"
        while name in self._taken:
            name = name[: -len(".png")] + "_.png"
        self._taken.add(name)
        return name


def _stem(key: str) -> str:
    return os.path.splitext(key)[0]
