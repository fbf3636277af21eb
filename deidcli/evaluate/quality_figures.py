"""The figures of picture quality whose weights are installed."""

from __future__ import annotations

import numpy as np

from deidcli.evaluate import quality
from deidcli.evaluate.intervals import bootstrap
from deidcli.evaluate.rows import Faces, Row

SMALL_FID = 2048
"""Below this many faces the covariance of Inception's 2,048 features is singular."""


_QUALITY = {
    "ssim": ("SSIM", "higher", "structural similarity of the face chip with its original"),
    "psnr": ("PSNR", "higher", "peak signal-to-noise ratio in dB, mean over finite values"),
    "lpips": ("LPIPS", "lower", "learned perceptual distance (AlexNet) of the face chip"),
}


def quality_rows(faces: Faces) -> list[Row]:
    """Return SSIM, PSNR, LPIPS, BRISQUE and FID, if installed; else rows with the reason."""
    missing = quality.available()
    rows = []
    for key, (metric, better, definition) in _QUALITY.items():
        if key in faces.data:
            values = faces.data[key].astype(np.float64)
            values = values[np.isfinite(values)]
            if len(values):
                low, high = bootstrap(values)
                mean = float(values.mean())
                rows.append(Row(metric, mean, len(values), definition, better, low, high))
        else:
            rows.append(Row(metric, None, 0, missing.get(key, "") or "not measured", better))
    rows += [_brisque_row(faces, missing), _fid_row(faces, missing)]
    rows.append(Row("PieAPP", None, 0, quality.PIEAPP, "lower"))
    return rows


def _brisque_row(faces: Faces, missing: dict[str, str]) -> Row:
    if "brisque_published" not in faces.data:
        return Row("BRISQUE", None, 0, missing.get("brisque", "") or "not measured", "lower")
    values = faces.data["brisque_published"].astype(np.float64)
    before = float(faces.data["brisque_original"].mean())
    low, high = bootstrap(values)
    text = "blind picture quality of the face chip"
    return Row("BRISQUE", float(values.mean()), len(values), text, "lower", low, high,
               original=before)  # fmt: skip


def _fid_row(faces: Faces, missing: dict[str, str]) -> Row:
    if "fid_published" not in faces.data:
        return Row("FID", None, 0, missing.get("fid", "") or "not measured", "lower")
    before, after = faces.data["fid_original"], faces.data["fid_published"]
    value = quality.fid(before, after)
    half = len(before) // 2
    order = np.random.default_rng(0).permutation(len(before))
    halves = quality.fid(before[order[:half]], before[order[half:]]) if half > 1 else None
    small = "; few faces, so the value is too high" if len(before) < SMALL_FID else ""
    text = f"Frechet distance of Inception features{small}; original: between two halves of them"
    return Row("FID", value, len(before), text, "lower", original=halves)
