"""The filters: shapes, strength sized by the face, and parity with OpenCV's own blur."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from deidcli.faces.align import chip_from_unit, paste, scale_of
from deidcli.faces.regions import HEAD_PADDING, REGIONS, region_mask
from deidcli.methods import load_method
from deidcli.methods.base import Context
from deidcli.methods.filters import blurred


def context(count: int, scale: float = 1.0) -> Context:
    return Context(seeds=np.arange(count, dtype=np.uint64), scales=np.full(count, scale))


@pytest.mark.parametrize("name", ["blackout", "pixelate", "blur"])
def test_shape_range_and_batch_independence(name: str) -> None:
    method = load_method(name, {}, "cpu")
    chips = torch.rand(5, 3, method.chip.size, method.chip.size)
    out = method(chips, context(5))
    assert out.shape == chips.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(out[2:3], method(chips[2:3], context(1)))


def test_pixelate_blocks_are_means() -> None:
    method = load_method("pixelate", {"blocks": "4"}, "cpu")
    chips = torch.rand(1, 3, 128, 128)
    out = method(chips, context(1))
    values = out[0, 0].unique()
    assert 8**2 < len(values) < 14**2  # 4 blocks across the face are some 11 across the chip
    assert torch.allclose(out.mean((2, 3)), chips.mean((2, 3)), atol=2e-3)


def test_pixelate_in_frame_pixels() -> None:
    method = load_method("pixelate", {"block_px": "8"}, "cpu")
    size = method.chip.size
    for scale in (1.0, 2.0):
        out = method(torch.rand(1, 3, size, size), context(1, scale))
        cells = round(size / (8 * scale)) ** 2
        assert 0.99 * cells < len(out[0, 0].unique()) <= cells


def test_blur_equals_opencv() -> None:
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    ours = blurred(image, 4.0)
    theirs = cv2.GaussianBlur(image, (25, 25), 4.0, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("side", [40, 160, 1200])
def test_black_covers_the_whole_region_at_any_size(side: int) -> None:
    """Within the region no pixel of the original is left, for small and large faces alike."""
    frame = np.full((side * 4, side * 4, 3), 255, np.uint8)
    unit = np.array([[1 / side, 0, -1.5], [0, 1 / side, -1.5]])
    affine = chip_from_unit(unit, 128, HEAD_PADDING)
    assert np.isclose(scale_of(affine) * side, 128 / (1 + 2 * HEAD_PADDING))
    paste(frame, np.zeros((128, 128, 3), np.uint8), affine, region_mask("head", 128, HEAD_PADDING))
    ellipse = REGIONS["head"]
    y, x = np.mgrid[0 : side * 4, 0 : side * 4]
    inside = np.hypot(
        (x / side - 1.5 - ellipse.x) / ellipse.half_width,
        (y / side - 1.5 - ellipse.y) / ellipse.half_height,
    )
    assert frame[inside < 0.97].max() <= 2
    assert (frame[inside > 1.25] == 255).all()
