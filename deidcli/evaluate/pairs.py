"""Match published faces with originals, from deid's own records or by file name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.geometry import read_private
from deidcli.data.images import BadImage, decode
from deidcli.data.journal import Journal, private_folder, recorded_roots
from deidcli.data.labels import Labels, read_label_files
from deidcli.data.listing import Locator, some
from deidcli.data.manifest import read_manifest
from deidcli.data.parquet import plan_file
from deidcli.data.source import FolderShard, Item, open_source
from deidcli.errors import DeidError
from deidcli.faces.align import MEAN_FACE_5, Affine, Image, Points, apply_affine, invert
from deidcli.faces.detect import Detector, Face

CHUNK = 64
"""Number of pictures that a worker takes at a time."""


@dataclass(frozen=True)
class FaceRef:
    """One face of a published picture, as recorded in OUT.private."""

    affine: tuple[float, ...]
    """Frame pixels -> chip pixels."""
    size: int
    padding: float
    is_crop: bool
    """Whether the published picture is the chip itself."""


@dataclass(frozen=True)
class PairRef:
    """A published picture and its original, not opened yet."""

    source: str
    """Path below the originals' root; for parquet `path#row`."""
    output: str
    """Path below the published root; for parquet `data/path#row`."""
    faces: tuple[FaceRef, ...] | None
    """None if not recorded; then detected in the original."""
    labels: Labels
    person: str | None


@dataclass(frozen=True)
class PairSet:
    """Everything to be scored."""

    kind: Literal["ours", "folder"]
    published: Path
    originals: tuple[Path, ...]
    """One or several inputs."""
    pairs: tuple[PairRef, ...]
    withheld: int
    """Number of input pictures without a published picture: no face found, or failed."""
    attributes: tuple[str, ...]
    """Attributes that the publisher kept."""
    signature: str
    unmatched: int = 0
    """Number of published pictures without an original of that name (`folder`)."""


@dataclass(frozen=True)
class Pair:
    """An opened pair: pixels, and each face's five landmarks in both pictures."""

    ref: PairRef
    original: Image
    published: Image
    faces: tuple[tuple[Points, Points], ...]
    boxes: tuple[Face, ...] = field(default=())


def collect(published: Path, against: Path | None) -> PairSet:
    """Match published pictures with their originals.

    Raises:
        DeidError: the originals are unknown, or nothing matches.
    """
    record = read_manifest(published)
    if record is not None:
        return _ours(published, against, record)
    if not published.is_dir():
        raise DeidError(f"{published} is not a folder", "give an output of deid anonymize")
    if against is None:
        raise DeidError(
            f"{published} is no output of deid, so its originals are not known",
            "name them: deid score FOLDER --against ORIGINALS",
        )
    return _foreign(published, against)


def _ours(published: Path, against: Path | None, record: dict[str, Any]) -> PairSet:
    journal = Journal(published)
    run = journal.read_run()
    if run is None and against is None:
        private = journal.folder.name
        raise DeidError(
            f"{private} is not beside it, so its originals and faces are not known",
            f"bring {private}, or name the originals: --against ORIGINALS",
        )
    recorded = tuple(Path(path) for path in recorded_roots(run)) if run else ()
    roots = (against,) if against else recorded
    gone = [str(root) for root in roots if not root.exists()]
    if gone or not roots:
        where = f" ({some(gone)} is gone)" if gone else ""
        raise DeidError(f"the originals are not known{where}", "name them: --against ORIGINALS")
    rows = pq.read_table(published / "metadata.parquet").to_pylist()
    link = journal.folder / "link.parquet"
    places = read_private(published) if link.exists() else None
    if places is None:
        sources = _by_name(published, rows, record, against is not None)
    else:
        sources = _linked(link)
    people = _people(roots, bool(record["settings"].get("follow_links")))
    chip, crops = record["chip"], record["settings"]["output"] == "crops"
    pairs = []
    for row in rows:
        source = sources.get(row["file_name"])
        if source is None:
            continue
        faces = None if places is None else tuple(
            FaceRef(tuple(face["affine"]), chip["size"], chip["padding"], crops)
            for face in places[row["file_name"]]
            if face["fitted"] is not False  # blacked out without landmarks, cannot be cropped
        )  # fmt: skip
        labels = {n: row[n] for n in CELEBA_ATTRIBUTES if row.get(n) is not None}
        known, person = people.get(source, ({}, None))
        pairs.append(PairRef(source, row["file_name"], faces, {**known, **labels}, person))
    counts = record["counts"]
    withheld = counts["failed"] + (
        counts["no_face"] if record["settings"]["on_no_face"] == "withhold" else 0
    )
    signature = hashlib.sha256((published / "SHA256SUMS").read_bytes()).hexdigest()
    return PairSet(
        "ours", published, roots, tuple(pairs), withheld, tuple(record["attributes"]), signature
    )


def _linked(link: Path) -> dict[str, str]:
    return {
        output: row["source"]
        for row in pq.read_table(link, columns=["source", "outputs"]).to_pylist()
        for output in row["outputs"]
    }


def _by_name(
    published: Path, rows: Sequence[Mapping[str, Any]], record: dict[str, Any], has_originals: bool
) -> dict[str, str]:
    """Match by kept names without OUT.private, as for another tool's output; faces are those that
    the detector finds in the originals."""
    settings = record["settings"]
    by_name = settings["names"] == "keep" and settings["output"] == "frames"
    private = private_folder(published).name
    if not by_name or record["input"]["kind"] != "folder":
        raise DeidError(
            f"{private} is not beside it: which original a picture has, and where its faces were, "
            "is known there alone",
            f"score where the output was made, or bring {private}",
        )
    if not has_originals:
        raise DeidError(
            f"{private} is not beside it: where the faces were is known there alone",
            f"bring {private}, or name the originals: --against ORIGINALS looks for faces in them",
        )
    return {row["file_name"]: row["file_name"].removeprefix("images/") for row in rows}


def _people(roots: tuple[Path, ...], follow_links: bool) -> dict[str, tuple[Labels, str | None]]:
    """Map source keys to labels and person, if the originals have them."""
    source = open_source(roots, follow_links)
    found: dict[str, tuple[Labels, str | None]] = {}
    for shard in source.shards:
        if isinstance(shard, FolderShard):
            for item in shard.items:
                found[item.key] = (item.labels, item.identity)
            continue
        layout = shard.layout
        columns = [c for c in (layout.identity, *layout.labels) if c]
        with pq.ParquetFile(shard.path) as file:
            rows = file.read_row_groups(list(shard.groups), columns=columns).to_pylist()
        for number, row in enumerate(rows):
            person = row.get(layout.identity) if layout.identity else None
            labels = {name: int(row[name]) for name in layout.labels if row[name] is not None}
            name = None if person is None else str(person)
            found[f"{shard.key}#{shard.first_row + number}"] = (labels, name)
    return found


def _foreign(published: Path, against: Path) -> PairSet:
    theirs, originals = open_source(published), open_source(against)
    if theirs.kind != "folder" or originals.kind != "folder":
        raise DeidError("--against works on folders of pictures", "give two folders")
    by_key = {item.key: item for item in _pictures(originals.shards)}
    by_stem = {item.key.rpartition(".")[0]: item for item in by_key.values()}
    items = [item for s in originals.shards if isinstance(s, FolderShard) for item in s.items]
    files = read_label_files((item.key, Path(item.path)) for item in items)
    pairs, unmatched = [], 0
    for item in _pictures(theirs.shards):
        original = by_key.get(item.key) or by_stem.get(item.key.rpartition(".")[0])
        if original is None:
            unmatched += 1
            continue
        labels, _, person = files.of(original.key)
        pairs.append(PairRef(original.key, item.key, None, labels, person))
    if not pairs:
        raise DeidError(
            f"no picture of {published} has the name of one in {against}",
            "the two folders must have the same relative file names",
        )
    signature = hashlib.sha256((theirs.signature + originals.signature).encode()).hexdigest()
    withheld = len(by_key) - len(pairs)
    return PairSet(
        "folder", published, (against,), tuple(pairs), withheld, (), signature, unmatched
    )


def _pictures(shards: Sequence[Any]) -> Iterator[Item]:
    for shard in shards:
        if isinstance(shard, FolderShard):
            yield from (item for item in shard.items if not item.status)


# ---------------------------------------------------------------------------- opening


def open_pairs(pair_set: PairSet, refs: Sequence[PairRef], device: str) -> Iterator[Pair]:
    """Decode pairs one after another. A pair that cannot be opened is skipped."""
    originals = _Reader(pair_set.originals)
    published = _Reader((pair_set.published,))
    detector = Detector("auto", device)
    for ref in refs:
        try:
            before = decode(originals.read(ref.source, refs, "source")).pixels
            after = decode(published.read(ref.output, refs, "output")).pixels
        except (BadImage, OSError, KeyError):
            continue
        yield Pair(ref, before, after, tuple(_faces(ref, before, after, detector)))


def _faces(
    ref: PairRef, before: Image, after: Image, detector: Detector
) -> Iterator[tuple[Points, Points]]:
    if ref.faces is None:
        ratio = np.array([after.shape[1] / before.shape[1], after.shape[0] / before.shape[0]])
        for found in detector(before):
            yield found.landmarks, found.landmarks * ratio
        return
    for face in ref.faces:
        chip_points = _chip_points(face)
        affine: Affine = np.array(face.affine).reshape(2, 3)
        in_frame = apply_affine(invert(affine), chip_points)
        yield in_frame, (chip_points if face.is_crop else in_frame)


def _chip_points(face: FaceRef) -> Points:
    """Return the mean face's landmarks in a chip, see `align.chip_from_unit`."""
    return (face.padding + MEAN_FACE_5) / (2 * face.padding + 1) * face.size - 0.5


class _Reader:
    """Reads pictures by key: a file below the roots, or a row `path#number` of parquet."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self._locate = Locator(roots)
        self._rows: dict[str, bytes] = {}

    def read(self, key: str, refs: Sequence[PairRef], side: str) -> bytes:
        path, _, row = key.rpartition("#")
        if not path.endswith(".parquet") or not row.isdigit():
            return self._locate(key).read_bytes()
        if key not in self._rows:
            wanted = [getattr(ref, side) for ref in refs]
            self._rows = self._read_rows(path, {k for k in wanted if k.startswith(path + "#")})
        return self._rows[key]

    def _read_rows(self, path: str, keys: set[str]) -> dict[str, bytes]:
        """Read all wanted rows of one file in one pass over the row groups that contain them."""
        file_path = self._locate(path)
        image = plan_file(file_path).layout.image
        wanted = {int(key.rpartition("#")[2]) for key in keys}
        found: dict[str, bytes] = {}
        first = 0
        with pq.ParquetFile(file_path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                rows = wanted & set(range(first, first + count))
                if rows:
                    column = file.read_row_group(group, columns=[image])[image]
                    for row in rows:
                        value = column[row - first].as_py()
                        data = value["bytes"] if isinstance(value, dict) else value
                        found[f"{path}#{row}"] = data
                first += count
        return found
