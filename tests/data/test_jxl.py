"""JPEG XL: its size is read before its pixels, and its reader is left to the user."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from deidcli.data.images import BadImage, decode
from deidcli.data.jxl import jxl_size
from tests.datasets import jxl


def test_a_jxl_bomb_is_not_unpacked(portrait: np.ndarray) -> None:
    data = jxl(np.zeros((3000, 2000, 3), np.uint8))
    assert jxl_size(data) == (2000, 3000)
    for height, width in ((8, 8), (256, 256), (100, 300), (480, 640), (1, 5000), (720, 1280)):
        assert jxl_size(jxl(np.zeros((height, width, 3), np.uint8))) == (width, height)
    with pytest.MonkeyPatch.context() as patch:
        from pillow_jxl import JpegXLImagePlugin

        def opened(*_: object) -> None:
            raise AssertionError("it was decoded")

        patch.setattr(JpegXLImagePlugin.JXLImageFile, "_open", opened)
        with pytest.raises(BadImage, match="more megapixels than the limit: 6, above 5"):
            decode(data, max_megapixels=5)
    for cut in range(0, 14):
        with pytest.raises(BadImage):
            decode(data[:cut])


def test_without_its_reader_jpeg_xl_says_how_it_is_had(
    portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jxl(portrait)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(BadImage, match=r"deidcli\[jxl\]"):
        decode(data)
