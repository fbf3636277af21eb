"""The album of `a3gan`: the portraits that latents stand for, as the weights hold them. Ours.

512 numbers and a linear layer draw a soft face (a3gan_canvas). Of the computer-made portraits that
training saw, the weights also hold the pictures, so that a latent drawn among theirs is drawn as
sharply as a photograph. Nobody on them exists.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.errors import DeidError

QUALITY = 88
"""Of the JPEG files."""


class Album:
    """P portraits; row P + i of the pool is i's mirror image."""

    def __init__(self, files: Tensor, ends: Tensor) -> None:
        """Args:
        files: (B,) uint8, JPEG files one after another. ends: (P,) int64, where each ends.
        """
        self.files, self.ends = files, ends

    @classmethod
    def of(cls, chips: NDArray[np.uint8]) -> Album:
        """Encode (P, S, S, 3) uint8 RGB."""
        files = [_encoded(chip) for chip in chips]
        ends = np.cumsum([len(data) for data in files])
        return cls(torch.from_numpy(np.concatenate(files)), torch.from_numpy(ends).long())

    def __len__(self) -> int:
        return len(self.ends)

    def faces(self, rows: Tensor) -> Tensor:
        """(N,) rows of the pool -> (N, 3, S, S) float32 in [0, 1], where the rows are.

        Raises:
            DeidError: bytes that are no picture: the weights are damaged.
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
    done, data = cv2.imencode(".jpg", chip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return np.asarray(data, np.uint8).reshape(-1)
