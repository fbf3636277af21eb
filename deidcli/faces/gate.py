"""The gate: does a published face still match its original?

Both are cropped by the original's landmarks and compared by dlib's recognizer. Its own threshold,
0.6, is the default: at or below it, dlib considers two faces the same person. What
follows from it is in `pipeline/gating.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deidcli.faces.align import Affine, Image, chip_from_unit, crop
from deidcli.faces.dlib_nets import DlibRecognizer, embed, load_recognizer

CHIP_SIZE, CHIP_PADDING = 150, 0.25
"""The chip that dlib's recognizer was trained on."""


class Gate:
    """Compares published faces with their originals."""

    def __init__(self, distance: float, device: str) -> None:
        self.distance = distance
        self._device = device
        self._network: DlibRecognizer = load_recognizer(device)

    def cut(self, frame: Image, unit: Affine) -> Image:
        """Crop the (150, 150, 3) uint8 RGB chip that the gate compares."""
        return crop(frame, chip_from_unit(unit, CHIP_SIZE, CHIP_PADDING), CHIP_SIZE)

    def distances(
        self, originals: Sequence[Image], published: Sequence[Image]
    ) -> NDArray[np.float64]:
        """Return (N,) Euclidean distances between N original and N published chips."""
        both = torch.from_numpy(np.stack([*originals, *published]))
        chips = both.to(self._device).permute(0, 3, 1, 2).float() / 255
        codes = embed(self._network, chips).cpu().numpy().astype(np.float64)
        count = len(originals)
        distances = np.linalg.norm(codes[:count] - codes[count:], axis=1)
        return np.asarray(distances, dtype=np.float64)

    def holds(self, distance: float) -> bool:
        """Return whether a published face is far enough from its original."""
        return distance > self.distance
