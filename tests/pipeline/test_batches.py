"""Batches, workers and memory: how a run is worked changes nothing of its output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import (
    ROOT,
    Outcome,
    manifest_without_times,
    statuses,
    tree,
)

Deid = Callable[..., Outcome]


def test_output_does_not_depend_on_how_it_is_worked(
    tmp_path: Path, small_portraits: Path, deid: Deid
) -> None:
    """Batch size and worker count change no byte, the gate's distances included."""
    first = tmp_path / "first"
    base = ["anonymize", small_portraits, "--method", "blur", "--names", "keep"]
    assert deid(*base, "--out", first, "--batch-size", 1, "--workers", 1).code == 0
    for name, extra in {"b32": ["--batch-size", 32], "w2": ["--workers", 2]}.items():
        out = tmp_path / name
        assert deid(*base, "--out", out, *extra).code == 0
        assert tree(out) == tree(first)
        assert manifest_without_times(out) == manifest_without_times(first)


def test_huge_picture_in_bounded_memory(tmp_path: Path) -> None:
    """12000x9000: decoded (0.3 GB of pixels), searched at reduced size, withheld."""
    import subprocess
    import sys

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    picture_bytes_large = Image.new("RGB", (12000, 9000), (90, 120, 150))
    picture_bytes_large.save(folder / "huge.jpg", quality=60)
    program = (
        "import re, sys; from deidcli.cli import run; code = run(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(code, int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    args = ["anonymize", str(folder), "--out", str(out), "--workers", "1", "--detector", "hog"]
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, check=True
    )
    code, peak_mb = map(int, done.stdout.split()[-2:])
    assert code == 0
    assert statuses(out)["huge.jpg"][0] == "no_face"
    assert peak_mb < 1500, f"{peak_mb} MB"


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_of_a_large_picture_is_what_the_limit_says(tmp_path: Path) -> None:
    """40 MP of RGBA: 8 bytes a pixel (600 MB at 75 MP, 1.2 GB at 150), not 20."""
    pixels = np.zeros((5000, 8000, 4), np.uint8)
    pixels[..., 3] = 100
    Image.fromarray(pixels).save(tmp_path / "x.png", compress_level=1)
    program = (
        "import resource, sys; from deidcli.data.images import decode;"
        "data = open(sys.argv[1], 'rb').read();"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); decode(data); print((peak() - before) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.png")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    a_pixel = int(done.stdout) / (5000 * 8000)
    assert a_pixel < 9, f"{a_pixel:.1f} bytes a pixel"
