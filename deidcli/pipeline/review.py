"""OUT.private/review.html: pictures that a person should check before they are published.

It is one self-contained page. For each published picture with a possible face, it shows a thumbnail
and the enlarged place. It may show faces that are left, so it stays in OUT.private.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deidcli.data.finished_output import read_named
from deidcli.data.images import BadImage, decode, encode
from deidcli.data.journal import Journal
from deidcli.data.sink import write_atomic
from deidcli.faces.align import Box, Image

FILE, PLACES = "review.html", "review.json"
"""Relative to OUT.private."""
MOST = 300
"""Maximum number of pictures on the page; the most doubtful come first."""
THUMBNAIL, CLOSE_UP = 480, 112
"""Longer side of a thumbnail, and side of an enlarged place, in px."""


@dataclass(frozen=True)
class Spot:
    """A place to review."""

    box: Box
    score: float
    """In [0, 1] for a run's own doubts; 1 higher for a second search, whose places come first."""
    why: str
    """The reason, as text."""


def spots_of(doubts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Spot]]:
    """Return the most doubtful pictures' possible faces, by published name."""
    scores = {name: max(doubt["score"] for doubt in found) for name, found in doubts.items()}
    chosen = sorted(doubts, key=lambda name: (-scores[name], name))[:MOST]
    return {
        name: [Spot(tuple(d["box"]), float(d["score"]), "may be a face") for d in doubts[name]]
        for name in chosen
    }


def write_review(out: Path, spots: Mapping[str, Sequence[Spot]]) -> int:
    """Write the page, and the places for later calls; without places there is no page.

    Args:
        spots: published name -> places.

    Returns:
        The number of pictures on the page.
    """
    private = Journal(out).folder
    kept = {name: [dataclasses.asdict(spot) for spot in found] for name, found in spots.items()}
    write_atomic(private / PLACES, json.dumps(kept).encode(), private)
    listed = sorted(spots, key=lambda name: (-max(spot.score for spot in spots[name]), name))
    shown = set(listed[:MOST])
    if not shown:
        (private / FILE).unlink(missing_ok=True)
        return 0
    parts: dict[str, str] = {}
    for name, data in read_named(out, shown):
        if data is not None:
            parts[name] = _figure(name, data, spots[name])
    body = "\n".join(parts[name] for name in listed if name in parts)
    page = _PAGE.format(count=len(spots), shown=len(parts), body=body)
    write_atomic(private / FILE, page.encode(), private)
    return len(parts)


def read_spots(out: Path) -> dict[str, list[Spot]]:
    """Read the places that an earlier call wrote; empty if there was none."""
    path = Journal(out).folder / PLACES
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text("utf-8"))
    return {name: [Spot(**{**s, "box": tuple(s["box"])}) for s in kept[name]] for name in kept}


def _figure(name: str, data: bytes, spots: Sequence[Spot]) -> str:
    try:
        pixels = decode(data).pixels
    except BadImage as error:
        return f"<figure><figcaption>{html.escape(f'{name}: {error}')}</figcaption></figure>"
    pictures = [_img(_thumbnail(pixels, spots))]
    lines = []
    for spot, close_up in zip(spots, _close_ups(pixels, spots), strict=True):
        pictures.append(_img(close_up))
        box = ", ".join(f"{value:.0f}" for value in spot.box)
        score = spot.score - 1 if spot.score > 1 else spot.score
        lines.append(f"{spot.why}, {score:.2f}: {box}")
    text = html.escape(name) + "<br>" + "<br>".join(map(html.escape, lines))
    return f"<figure>{''.join(pictures)}<figcaption>{text}</figcaption></figure>"


def _thumbnail(pixels: Image, spots: Sequence[Spot]) -> Image:
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    for spot in spots:
        low, high = ([round(v * scale) for v in spot.box[i : i + 2]] for i in (0, 2))
        cv2.rectangle(small, low, high, (255, 60, 60), 2)
    return small


def _close_ups(pixels: Image, spots: Sequence[Spot]) -> Iterator[Image]:
    """Yield each place as a square, with as much again around it."""
    for spot in spots:
        x, y = (spot.box[0] + spot.box[2]) / 2, (spot.box[1] + spot.box[3]) / 2
        half = max(spot.box[2] - spot.box[0], spot.box[3] - spot.box[1])
        scale = CLOSE_UP / max(2 * half, 1)
        affine = np.array(
            [[scale, 0, CLOSE_UP / 2 - scale * x], [0, scale, CLOSE_UP / 2 - scale * y]]
        )
        yield np.asarray(cv2.warpAffine(pixels, affine, (CLOSE_UP, CLOSE_UP)), np.uint8)


def _img(pixels: Image) -> str:
    data = base64.b64encode(encode(pixels, "JPEG", 85)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="">'


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>deid: pictures to look at</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; background: #f4f4f2; color: #222; }}
figure {{ background: #fff; border: 1px solid #ddd; margin: 0 0 1em; padding: .8em; }}
img {{ margin: 0 .4em .4em 0; vertical-align: top; }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere; }}
</style>
<h1>Pictures to look at before they are published</h1>
<p><strong>Never publish this page</strong>: it shows what may be faces that were left.
{count} pictures have places that may be faces; {shown} are shown, the most doubtful first. Cover
what is a face with <code>--boxes</code>, or take the picture out.</p>
{body}
</html>
"""
