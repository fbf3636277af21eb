"""dlib's CNN face detector (mmod) as a torch module, on dlib's own weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.faces.align import Image
from deidcli.faces.dlib_nets import Rect, convolutions, tensor_table
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_DETECTOR

WINDOW = 80
"""Side of the detector's window in pixels: faces of this size are found without enlarging."""
LEVEL_RATE = 5.0 / 6.0
"""Ratio of a pyramid level's size to the previous one's (dlib's `pyramid_down<6>`)."""
TILE_PADDING = 10
TILE_OUTER_PADDING = 11
SMALLEST_LEVEL = 5
"""The lowest pyramid level, in pixels (dlib, image_transforms/image_pyramid.h)."""
SMALLEST_TILE = 29
"""The detector's three downsampling layers need at least this many pixels per side."""
NMS_IOU = 0.338276
"""Overlap above which the weaker box is dropped; stored in dlib's weight file."""


class CnnDetection(NamedTuple):
    """A face that the detector found."""

    box: Rect
    """x0, y0, x1, y1 in frame pixels by dlib's convention: x1 and y1 are the last column and row
    inside the box, so it is x1 - x0 + 1 wide. May reach outside the frame."""
    score: float
    """The network's output; dlib reports those above 0, a plain frontal face scores about 1."""


class DlibDetector(nn.Module):
    """dlib's `cnn_face_detection_model_v1`, without the pyramid around it."""

    mean: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        table = tensor_table(DLIB_DETECTOR)
        *body, head = convolutions(weights.read_bytes(), table["tensors"])
        self.body = nn.ModuleList(body)
        # One output channel would leave vector units idle. The 9x9 filter is the sum of its rows,
        # so 9 filters of 1x9 run instead, and their outputs are added, each shifted by its row.
        self.head_rows = nn.Parameter(
            head.weight[0].transpose(0, 1)[:, :, None].contiguous(), requires_grad=False
        )  # (9, 45, 1, 9)
        assert head.bias is not None
        self.head_bias = nn.Parameter(head.bias, requires_grad=False)
        self.register_buffer("mean", torch.tensor(table["mean_rgb"]).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Score every window.

        Args:
            tiles: (N, 3, H, W) float32 RGB as `tile_pyramid` makes them, H and W at least 29.

        Returns:
            (N, h, w) float32. Entry (y, x) scores the window around tile pixel
            (8 x + 14, 8 y + 14).
        """
        x = tiles.contiguous(memory_format=torch.channels_last)
        for layer in self.body:
            x = F.relu_(layer(x))
        rows = F.conv2d(x, self.head_rows, padding=(4, 4))  # (N, 9, h + 8, w)
        height = x.shape[2]
        scores = sum(rows[:, k, k : k + height] for k in range(rows.shape[1]))
        return scores + self.head_bias


def load_detector(device: str | torch.device = "cpu") -> DlibDetector:
    """Load the detector in eval mode, with frozen weights.

    Raises:
        DeidError: pip has not installed the weights, or their bytes differ.
    """
    model = DlibDetector(pip_file(DLIB_DETECTOR)).eval()
    model.to(memory_format=torch.channels_last)
    return model.to(device)


def _unsigned(value: int) -> int:
    """Convert to C's unsigned long, as dlib compares differences; negative ones become huge."""
    return value % 2**64


def tile_layout(height: int, width: int) -> tuple[list[Rect], int, int]:
    """Return where dlib puts the pyramid levels of a picture.

    The levels go down the left edge, then up the right edge once a level fits beside its
    neighbor (dlib, `compute_tiled_image_pyramid_details`).

    Returns:
        The levels' rectangles, largest first, and the tile's height and width in pixels.
    """
    sizes = [(height, width)]
    while True:
        next_height, next_width = (math.floor(LEVEL_RATE * side) for side in sizes[-1])
        if next_height < SMALLEST_LEVEL or next_width == 0:
            break
        sizes.append((next_height, next_width))
    rest = sum(h + TILE_PADDING for h, _ in sizes) - 2 * TILE_PADDING - height
    column, last_width = 0, 0
    for h, w in sizes:
        fits = w <= _unsigned(width - last_width - TILE_PADDING)
        if fits and _unsigned((column - height) * 2) >= _unsigned(rest):
            break
        column += h + TILE_PADDING
        last_width = w
    column -= TILE_PADDING
    rects: list[Rect] = []
    y = TILE_OUTER_PADDING
    while y < column + TILE_OUTER_PADDING and len(rects) < len(sizes):
        h, w = sizes[len(rects)]
        rects.append((TILE_OUTER_PADDING, y, TILE_OUTER_PADDING + w - 1, y + h - 1))
        y += h + TILE_PADDING
    y -= TILE_PADDING
    right = TILE_OUTER_PADDING + width - 1
    for h, w in sizes[len(rects) :]:
        left, top = right - w + 1, y - h
        if top < TILE_OUTER_PADDING + height:
            break  # it would cover the picture itself
        rects.append((left, top, right, y - 1))
        y = top - TILE_PADDING
    return rects, column + 2 * TILE_OUTER_PADDING, width + 2 * TILE_OUTER_PADDING


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (1, 3, H, W) float32 like dlib's bilinear `resize_image`, aligning corner pixels."""
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=True)


def tile_pyramid(image: Tensor, mean: Tensor) -> tuple[Tensor, list[Rect]]:
    """Lay out a picture's pyramid as dlib does (dlib, dnn/input.h, `input_rgb_image_pyramid`).

    Args:
        image: (1, 3, H, W) float32 RGB in [0, 255].
        mean: (1, 3, 1, 1) float32, dlib's mean color in [0, 255].

    Returns:
        (1, 3, tile height, tile width) float32, and the levels' rectangles in it.
    """
    rects, height, width = tile_layout(image.shape[2], image.shape[3])
    tile = image.new_zeros(1, height, width, 3).permute(0, 3, 1, 2)  # channels last
    level = (image - mean) / 256.0
    for left, top, right, bottom in rects:
        level = _resized(level, bottom - top + 1, right - left + 1)
        tile[:, :, top : bottom + 1, left : right + 1] = level
    return tile, rects


def _round(value: float) -> int:
    """Round like C's `lround`, halves away from zero; Python rounds them to even."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _nearest_rect(rects: list[Rect], x: int, y: int) -> int:
    """Return the level that a tile pixel belongs to, the first of the nearest ones."""
    distances = [
        math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))
        for left, top, right, bottom in rects
    ]
    return distances.index(min(distances))


def _window(rects: list[Rect], row: int, column: int) -> Rect:
    """Return an output cell's detection window, in pixels of the pyramid's largest level."""
    x, y = 8 * column + 14, 8 * row + 14
    level = _nearest_rect(rects, x, y)
    reach = (WINDOW - 1) / 2
    left, top = rects[level][:2]
    sides = [x - left - reach, y - top - reach, x - left + reach, y - top + reach]
    for _ in range(level):
        sides = [side / LEVEL_RATE + 0.3 for side in sides]
    x0, y0, x1, y1 = map(_round, sides)
    return x0, y0, x1, y1


def _area(left: int, top: int, right: int, bottom: int) -> int:
    return max(0, right - left + 1) * max(0, bottom - top + 1)


def _overlap(a: Rect, b: Rect) -> bool:
    """Test overlap like dlib's `test_box_overlap`, over the box around both, not their union."""
    inner = _area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    outer = _area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return inner > NMS_IOU * outer


def _suppressed(
    scores: NDArray[np.float32], threshold: float, rects: list[Rect]
) -> list[CnnDetection]:
    """Return windows above the threshold, best first, without those overlapped by a better one."""
    rows, columns = np.nonzero(scores > threshold)
    order = np.argsort(-scores[rows, columns], kind="stable")
    kept: list[CnnDetection] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        box = _window(rects, row, column)
        if not any(_overlap(box, other.box) for other in kept):
            kept.append(CnnDetection(box, float(scores[row, column])))
    return kept


def _enlarged(image: Tensor) -> Tensor:
    """Enlarge like dlib's `pyramid_up`: a little more than twofold, in whole gray levels."""
    # dlib truncates. The margin keeps flat areas flat; dlib's own rounding darkens
    # some of their pixels by one gray level, which moves a score by less than 0.001.
    return _resized(image, 2 * image.shape[2] + 1, 2 * image.shape[3] + 2).add(1e-3).floor()


def _scaled(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(scale * side)) for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=scale < 1)


def _in_frame(box: Rect, upsample: int, ratios: tuple[float, float]) -> Rect:
    """Undo `_enlarged` (`upsample` times), then `_scaled` (by `ratios` in x and y)."""
    sides = [float(side) for side in box]
    for _ in range(upsample):
        sides = [side / 2 - shift for side, shift in zip(sides, (1.25, 0.75) * 2, strict=True)]
    (x0, y0, x1, y1), (x, y) = sides, ratios
    # Pixel i covers i to i + 1, and its center is at i + 0.5.
    x0, y0, x1, y1 = x0 / x, y0 / y, (x1 + 1) / x - 1, (y1 + 1) / y - 1
    return _round(x0), _round(y0), _round(x1), _round(y1)


@torch.inference_mode()
def detect_cnn(
    detector: DlibDetector,
    image: Image,
    upsample: int = 0,
    threshold: float = 0.0,
    scale: float = 1.0,
) -> list[CnnDetection]:
    """Find faces with dlib's CNN detector; with `scale` 1 the result is dlib's own.

    Args:
        image: (H, W, 3) uint8 RGB.
        upsample: how often to double the picture, as in dlib; finds faces from 80 / 2**upsample px.
        threshold: lowest score, excluded. dlib's is 0; lower values give many false positives.
        scale: enlarge (or reduce) the picture by this much first, instead of or before doubling.

    Returns:
        Faces in the frame's pixels, best first. They depend on this picture alone.
    """
    pixels = torch.tensor(np.ascontiguousarray(image), device=detector.mean.device)
    pixels = pixels.permute(2, 0, 1)[None].float()
    height, width = pixels.shape[2:]
    if scale != 1.0:
        pixels = _scaled(pixels, scale)
    ratios = pixels.shape[3] / width, pixels.shape[2] / height
    for _ in range(upsample):
        pixels = _enlarged(pixels)
    tile, rects = tile_pyramid(pixels, detector.mean)
    if min(tile.shape[2:]) < SMALLEST_TILE:
        return []
    scores = detector(tile)[0].cpu().numpy()
    found = _suppressed(scores, threshold, rects)
    return [CnnDetection(_in_frame(box, upsample, ratios), score) for box, score in found]
