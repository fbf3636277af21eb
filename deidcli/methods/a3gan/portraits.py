"""The portrait bank of `a3gan`: the pictures that latents stand for, kept in the weights. Ours.

512 numbers and a linear layer draw a soft face (canvas.py). The weights also hold the
computer-made portraits that training used, as JPEG files, so that a latent drawn among theirs is
shown as sharply as a photograph. Nobody in them exists, unless the pool was `training`.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.errors import DeidError

JPEG_QUALITY = 88
"""Quality of the portraits' JPEG files, 0 to 100."""


class PortraitBank:
    """P portraits; row i of the pool is portrait i, row P + i is its mirror image."""

    def __init__(self, files: Tensor, ends: Tensor) -> None:
        """Wrap what a weight file holds.

        Args:
            files: (B,) uint8, JPEG files one after another. ends: (P,) int64, where each ends.
        """
        self.files, self.ends = files, ends

    @classmethod
    def encode(cls, chips: NDArray[np.uint8]) -> PortraitBank:
        """Return a bank of (P, S, S, 3) uint8 RGB pictures."""
        files = [_encoded(chip) for chip in chips]
        ends = np.cumsum([len(data) for data in files])
        return cls(torch.from_numpy(np.concatenate(files)), torch.from_numpy(ends).long())

    def __len__(self) -> int:
        return len(self.ends)

    def faces(self, rows: Tensor) -> Tensor:
        """Return the pictures (N, 3, S, S) float32 in [0, 1] of rows (N,) of the pool.

        They are on the device of `rows`.

        Raises:
            DeidError: a portrait cannot be decoded: the weights are damaged.
        """
        pictures = [self._picture(int(row)) for row in rows]
        chips = torch.from_numpy(np.stack(pictures)).to(rows.device)
        return chips.permute(0, 3, 1, 2).float() / 255

    def _picture(self, row: int) -> NDArray[np.uint8]:
        index = row % len(self)
        start = int(self.ends[index - 1]) if index else 0
        data = self.files[start : int(self.ends[index])].numpy()
        found = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if found is None:
            raise DeidError(f"portrait {index} of the weights cannot be decoded", "get them anew")
        picture = found[:, ::-1, ::-1] if row >= len(self) else found[..., ::-1]
        return np.asarray(picture, np.uint8)


def _encoded(chip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    done, data = cv2.imencode(".jpg", chip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return np.asarray(data, np.uint8).reshape(-1)
