"""The settings of a run, and the fingerprint that distinguishes two runs."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from deidcli.errors import UsageError
from deidcli.version import __version__

OutputKind = Literal["frames", "crops"]
DetectorName = Literal["auto", "cnn", "hog", "none"]
BoxesAre = Literal["add", "replace"]
BoxFormat = Literal["xyxy", "xywh"]
OnNoFace = Literal["withhold", "blackout", "copy"]
Names = Literal["keep", "random"]
DeviceName = Literal["auto", "cpu", "cuda"]

RECOGNIZER_NAMES = ("dlib", "mobilefacenet", "w600k_mbf", "facenet")
"""The keys of `faces.recognizers.RECOGNIZERS`, which takes seconds to import."""

GATE_DISTANCE = 0.6
"""dlib's own threshold: at or below it, its recognizer considers two faces the same person."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines what is published. The manifest records all of it."""

    method: str
    method_settings: dict[str, Any] = field(default_factory=dict)
    """All of the method's settings, including defaults."""
    attributes: tuple[str, ...] | None = None
    """CelebA names of the requested attributes; None: all that the source has labels for."""
    output: OutputKind = "frames"
    detector: DetectorName = "auto"
    on_no_face: OnNoFace = "withhold"
    yes: bool = False
    """With on_no_face = copy: also copy pictures in which a second search finds a face."""
    boxes: str | None = None
    """The user's own face boxes: `column:NAME`, or `sha256:...` of the table."""
    boxes_are: BoxesAre = "add"
    box_format: BoxFormat = "xyxy"
    gate: float | None = GATE_DISTANCE
    """dlib distance that a published face must exceed; None: no gate."""
    names: Names = "random"
    columns: tuple[str, ...] = ()
    """Columns published beside the picture; only `all`: every one that cannot hide a picture."""
    keep_identity: bool = False
    publish_geometry: bool = False
    """Publish where faces are, as boxes rounded to a grid."""
    mark: bool = True
    """Store in each picture, as a fixed XMP packet, how it was made."""
    follow_links: bool = False
    seed: int | None = None
    """None: all randomness is derived from the run's own secret."""
    jpeg_quality: int = 95
    seal: bool = False
    """Also publish the original pixels of each face, encrypted."""
    max_megapixels: float = 150.0

    def __post_init__(self) -> None:
        for name, kind in (
            ("output", OutputKind),
            ("detector", DetectorName),
            ("on_no_face", OnNoFace),
            ("boxes_are", BoxesAre),
            ("box_format", BoxFormat),
            ("names", Names),
        ):
            if getattr(self, name) not in get_args(kind):
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} {getattr(self, name)} is not known",
                    f"one of: {', '.join(get_args(kind))}",
                )
        if self.gate is not None and not 0 < self.gate <= 2:  # nan fails too
            raise UsageError(f"--gate {self.gate} is out of range", "0.6 is dlib's own threshold")
        if not 1 <= self.jpeg_quality <= 100:
            raise UsageError("--jpeg-quality must lie between 1 and 100", "the default is 95")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        values["attributes"] = None if self.attributes is None else list(self.attributes)
        values["columns"] = list(self.columns)
        return values

    def published(self) -> dict[str, Any]:
        """Return the values for manifest.json, without the hash of the user's boxes, which would
        confirm a guess of the data set."""
        values = self.as_dict()
        if self.boxes is not None and self.boxes.startswith("sha256:"):
            values["boxes"] = "table"
        return values


def fingerprint(settings: RunSettings, weights: dict[str, str], signature: str) -> str:
    """Return the sha256 of all that determines the output: settings, version, weights, inputs.

    Args:
        weights: name -> sha256 of every weight file in use.
        signature: `Source.signature`.
    """
    values = {
        "version": __version__,
        "settings": settings.as_dict(),
        "weights": weights,
        "inputs": signature,
    }
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Return `name (was -> is)` for each setting in which two recorded runs differ."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} ({old} -> {new})")
    return found


def published_print(print_of_run: str, secret: bytes) -> str:
    """Return the 64 hex digits that a manifest has in place of the fingerprint.

    The fingerprint itself depends on the names and sizes of the inputs, so it would confirm a
    guessed source folder.
    """
    return hmac.new(secret, b"deid 1 run\0" + print_of_run.encode(), hashlib.sha256).hexdigest()


def face_seed(seed: int | bytes, key: str, face: int) -> int:
    """Return a face's 64-bit seed, the only source of its randomness.

    Args:
        seed: --seed, or the run's secret, so that knowing the source's names does not reveal which
            choice was made for which picture.
    """
    text = f"{key}\0{face}"
    if isinstance(seed, bytes):
        digest = hmac.new(seed, b"deid 1 face\0" + text.encode(), hashlib.sha256).digest()
    else:
        digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
