"""The options of `deid anonymize`.

Each line is an option of the command line, a key of `--config` and an argument of
`pipeline.anonymize.anonymize`. Options that affect the pixels are also in `RunSettings`, under the
same name, and are copied there automatically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from deidcli.settings import (
    BoxesAre,
    BoxFormat,
    DetectorName,
    DeviceName,
    Names,
    OnNoFace,
    OutputKind,
)


def option(
    default: Any,
    *flags: str,
    help: str,
    metavar: str | None = None,
    least: int | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """Return a field of `Options`.

    Args:
        flags: if not derived from the field's name: `-m` is added to it, `--set` replaces it.
        least: the smallest integer that is accepted.
        choices: completions for the shell, only looked up then.
    """
    told = {"flags": flags, "help": help, "metavar": metavar, "least": least, "choices": choices}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: dict(default), metadata=told)
    return field(default=default, metadata=told)


def method_names() -> Iterable[str]:
    """Return the values of `--method`."""
    from deidcli.methods import METHODS

    return METHODS


@dataclass(frozen=True)
class Options:
    """All options of a run, in the order of `deid anonymize --help`."""

    method: str = option("blackout", "-m", help="See: deid methods.", choices=method_names)
    attrs: str | None = option(None, help="Kept attributes: letters GSBEY, or CelebA's names.")
    settings: Mapping[str, str] = option(
        {}, "--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."
    )
    output: str = option(
        "frames",
        help="frames: whole pictures; crops: one a face.",
        choices=lambda: get_args(OutputKind),
    )
    detector: str = option(
        "auto",
        help="auto, cnn, hog, none (pictures are faces).",
        choices=lambda: get_args(DetectorName),
    )
    on_no_face: str = option(
        "withhold", help="withhold, blackout or copy.", choices=lambda: get_args(OnNoFace)
    )
    yes: bool = option(False, help="With --on-no-face copy: also where a second look finds a face.")
    boxes: str | None = option(
        None,
        metavar="FILE|column:NAME",
        help="Your own face boxes: CSV, JSON or parquet with file_name, or a column.",
    )
    boxes_are: str = option(
        "add", help="add to what is found, or replace it.", choices=lambda: get_args(BoxesAre)
    )
    box_format: str = option(
        "xyxy",
        help="Of boxes in lists: xyxy or xywh, in pixels.",
        choices=lambda: get_args(BoxFormat),
    )
    gate: float | None = option(
        None, help="dlib distance from its original that a face must exceed, usually 0.6."
    )
    no_gate: bool = option(False, help="Publish without that check.")
    names: str = option(
        "random",
        help="random, in random order; or keep: the input's names and order.",
        choices=lambda: get_args(Names),
    )
    columns: str | None = option(
        None,
        metavar="A,B|all",
        help="Columns published beside the picture; without it CelebA's attributes (see --attrs) "
        "and partitions alone. all: every column of numbers, text or dates that names no person, "
        "embedding or long text. Look at them first: text can name people.",
    )
    keep_identity: bool = option(False, help="Publish the columns that name people too.")
    publish_geometry: bool = option(
        False, help="Publish faces' boxes, rounded outwards to 8 px: they can tell photographs."
    )
    follow_links: bool = option(False, help="Follow links out of INPUT.")
    seed: int | None = option(
        None, help="The same faces again in another OUT; else each run draws its own."
    )
    seal: bool = option(False, help="Publish the original faces too, encrypted.")
    no_mark: bool = option(False, help="No XMP packet that says how the pictures were made.")
    jpeg_quality: int = option(95, help="Of published JPEG and WebP.")
    device: str = option("auto", help="auto, cpu or cuda.", choices=lambda: get_args(DeviceName))
    batch_size: int = option(16, least=1, help="Faces a batch.")
    workers: int | None = option(None, least=1, help="Processes; default: one a core.")
    overwrite: bool = option(False, help="Discard what an earlier run wrote to OUT.")
