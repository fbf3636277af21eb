"""Scans and plans of methods that see the whole set first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deidcli.errors import DeidError
from deidcli.methods.base import PlanFace
from deidcli.pipeline import plans


def small_disk(folder: Path, size: str) -> None:
    """A file system of this size, or the test is skipped."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")


@pytest.mark.parametrize("step", ["scan", "plan"])
def test_a_full_disk_in_the_pass_over_the_whole_set(tmp_path: Path, step: str) -> None:
    disk = tmp_path / "disk"
    small_disk(disk, "200k")
    try:
        chip = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        faces = [PlanFace(seed, chip, None) for seed in range(4)]
        with pytest.raises(DeidError, match="no space left") as caught:
            if step == "scan":
                plans.write_scan(disk / "scan", 0, faces)
            else:
                plans.write_plan(disk / "plan", {"averages": np.stack([chip] * 4)})
        assert "it resumes" in caught.value.hint
        assert not plans.is_scanned(disk / "scan", 0) and not plans.has_plan(disk / "plan")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_scans_are_read_back(tmp_path: Path) -> None:
    chip = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    plans.write_scan(tmp_path, 0, [PlanFace(5, chip, "a"), PlanFace(6, chip + 1, None)])
    plans.write_scan(tmp_path, 1, [])
    found = list(plans.read_scans(tmp_path, 2))
    assert [(face.seed, face.person) for face in found] == [(5, "a"), (6, None)]
    assert np.array_equal(found[1].chip, chip + 1)
