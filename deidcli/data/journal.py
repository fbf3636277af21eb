"""The journal of a run: its settings, and one file per finished shard.

It is stored in OUT.private, which is never published. A shard is done when its part exists: its
pictures are written, flushed and named before the part is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.sink import AtomicParquet, Result, Written, scratch, write_atomic, writing
from deidcli.errors import DeidError

FACE_TYPE = pa.struct(
    [
        pa.field("box", pa.list_(pa.float32(), 4)),
        pa.field("score", pa.float32()),
        pa.field("affine", pa.list_(pa.float64(), 6)),
        pa.field("method", pa.string()),
        pa.field("gate_distance", pa.float32()),
        pa.field("fitted", pa.bool_()),
    ]
)
"""A face in metadata.parquet."""
NONCE_FACE_TYPE = pa.struct([*FACE_TYPE, pa.field("nonce", pa.string())])
"""The same, for a method that needs a password."""
_OUTPUT_TYPE = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("faces", pa.list_(NONCE_FACE_TYPE)),
    ]
)
_DOUBT_TYPE = pa.struct(
    [pa.field("box", pa.list_(pa.float32(), 4)), pa.field("score", pa.float32())]
)
PART_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("passes", pa.bool_()),
        pa.field("print", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("faces", pa.int32()),
        pa.field("labels", pa.map_(pa.string(), pa.int8())),
        pa.field("partition", pa.string()),
        pa.field("outputs", pa.list_(_OUTPUT_TYPE)),
        pa.field("covered", pa.int32()),
        pa.field("doubts", pa.list_(_DOUBT_TYPE)),
    ]
)


_RECORDED = {"fingerprint", "run", "source", "secret", "started"}
"""Required keys of run.json."""
PUBLISHED = frozenset(
    {"images", "data", "sealed", "metadata.parquet", "manifest.json", "README.md", "SHA256SUMS"}
    | {".incomplete"}
)
PRIVATE = frozenset(
    {"run.json", "lock", "parts", "staging", "scan", "plan", "link.parquet", "faces.parquet"}
    | {"stages.json", "features", "scores.parquet", "scores.json", "position", "large"}
    | {"review.html", "review.json", "missed.json", "begun"}
)


def is_own(name: str, names: frozenset[str]) -> bool:
    """Return whether deid writes an entry with this name, including unfinished ones."""
    return name in names or bool(re.fullmatch(r"\d+-[0-9a-f]{16}|plan-\d+", name))


@dataclass(frozen=True)
class Journal:
    """The private folder of a run."""

    out: Path

    @property
    def folder(self) -> Path:
        """OUT.private."""
        return private_folder(self.out)

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def staging(self) -> Path:
        """The folder of unpublished parquet rows of finished shards, until the run is finished."""
        return self.folder / "staging"

    @property
    def plan(self) -> Path:
        """The file with the results of a whole-set method's pass over the input."""
        return self.folder / "plan"

    @property
    def begun(self) -> Path:
        """The list of files that are about to be written and are in no part yet."""
        return self.folder / "begun"

    def part(self, shard: int) -> Path:
        """Return the path of a shard's journal entry."""
        return self.parts / f"{shard:06d}.parquet"

    def read_run(self) -> dict[str, Any] | None:
        """Return the record of the run that made this folder, or None if no run did."""
        try:
            record = json.loads((self.folder / "run.json").read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise DeidError(
                f"{self.folder / 'run.json'} cannot be read: {type(error).__name__}",
                f"restore it, or remove {self.out} and {self.folder} and run again",
            ) from None
        if not isinstance(record, dict) or not record.keys() >= _RECORDED:
            raise DeidError(
                f"{self.folder / 'run.json'} is not the record of a run of deid",
                "choose another folder with --out",
            )
        return record

    def write_run(self, record: dict[str, Any]) -> None:
        """Record a run before it does any work."""
        data = json.dumps(record, indent=2, default=str).encode() + b"\n"
        write_atomic(self.folder / "run.json", data, self.folder)

    def note_stages(self, record: dict[str, Any]) -> None:
        """Record, once, how the loaded method crops faces and which detector is used."""
        path = self.folder / "stages.json"
        if not path.exists():
            write_atomic(path, json.dumps(record).encode(), self.folder)

    def read_stages(self) -> dict[str, Any]:
        """Return what `note_stages` recorded."""
        record: dict[str, Any] = json.loads((self.folder / "stages.json").read_text("utf-8"))
        return record

    def note_names(self, note: str, names: Sequence[str]) -> None:
        """Record names below OUT before they are written: no other file is ever removed."""
        if names:
            with writing():
                self.begun.mkdir(exist_ok=True)
                with open(self.begun / note, "a", encoding="utf-8") as file:
                    file.writelines(json.dumps(name) + "\n" for name in names)

    def require(self) -> None:
        """Check that the record of the run still exists.

        Raises:
            DeidError: it was removed during the run.
        """
        if not (self.folder / "run.json").is_file():
            raise DeidError(
                f"{self.folder} was removed while the run was under way",
                f"remove {self.out} and {self.folder}, then run the same command again",
            )

    def write_part(self, shard: int, rows: list[tuple[Result, tuple[Written, ...]]]) -> None:
        """Mark a shard as done."""
        self.require()
        table = pa.Table.from_pylist([_part_row(*row) for row in rows], schema=PART_SCHEMA)
        with AtomicParquet(self.part(shard), PART_SCHEMA, self.parts) as file:
            file.write(table)
        (self.begun / f"{shard:06d}").unlink(missing_ok=True)

    def read_part(self, shard: int) -> list[dict[str, Any]]:
        """Read the fields of a shard's part that `resume` needs to find out what is left to do."""
        columns = ["source", "status", "passes", "print", "outputs.list.element.name"]
        with pq.ParquetFile(self.part(shard)) as file:
            rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
        return rows

    def published_names(self, shard: int) -> list[str]:
        """Return the names of the pictures that a finished shard wrote."""
        column = pq.read_table(self.part(shard), columns=["outputs"])["outputs"]
        return [output["name"] for outputs in column.to_pylist() for output in outputs]

    def read_parts(self, shards: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of every shard's part, in order."""
        for number in range(shards):
            yield pq.read_table(self.part(number)).to_pylist()

    def create(self) -> None:
        """Create the folder, readable only by its owner."""
        with writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.folder, 0o700)
            self.parts.mkdir(exist_ok=True)

    def write_position(self, key: str) -> None:
        """Record the current input, in case it crashes its worker."""
        with writing():
            (self.folder / "position").write_text(key, encoding="utf-8")

    def take_position(self) -> str | None:
        """Return and clear the input recorded last."""
        path = self.folder / "position"
        if not path.exists():
            return None
        key = path.read_text(encoding="utf-8")
        path.unlink()
        return key

    def clean(self) -> None:
        """Remove unfinished files; keep parts and links."""
        for folder in (self.staging, scratch(self.out), self.folder / "scan", self.begun):
            shutil.rmtree(folder, ignore_errors=True)
        for unfinished in self.parts.glob("*-*.parquet"):
            unfinished.unlink(missing_ok=True)
        for name in ("large", "position"):
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            DeidError: another run is using it.
        """
        with writing():
            file = open(self.folder / "lock", "w")  # noqa: SIM115 - held until the run ends
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DeidError(
                    f"another run is writing to {self.out}", "wait for it, or choose another --out"
                ) from None
            yield
        finally:
            file.close()

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Wait until no other worker of this run holds this lock."""
        with writing():
            file = open(self.folder / "large", "w")  # noqa: SIM115 - closed below
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def private_folder(out: Path) -> Path:
    """Return the path of OUT.private, beside OUT."""
    return out.with_name(out.name + ".private")


def recorded_roots(record: Mapping[str, Any]) -> list[str]:
    """Return the real paths of a recorded run's inputs."""
    value = record["source"]
    return [str(value)] if isinstance(value, str) else [str(path) for path in value]


def new_secret() -> str:
    """Return a new random key, as hex, for `--names random` and a password's salt and nonces."""
    return secrets.token_hex(32)


def seeded_secret(seed: int, signature: str) -> str:
    """Return a key that is the same for the same seed and inputs, for runs repeatable elsewhere.

    Args:
        signature: `source.content_signature`.
    """
    return hashlib.sha256(f"deid secret\0{seed}\0{signature}".encode()).hexdigest()


def _part_row(result: Result, written: tuple[Written, ...]) -> dict[str, Any]:
    sample = result.sample
    return {
        "source": sample.key,
        "status": result.status,
        "reason": result.reason,
        "passes": sample.passes,
        "print": sample.print,
        "notes": list(result.notes),
        "faces": result.faces,
        "labels": sorted(sample.labels.items()),
        "partition": sample.partition,
        "covered": result.covered,
        "doubts": [{"box": doubt.box, "score": doubt.score} for doubt in result.doubts],
        "outputs": [
            {
                "name": entry.output.name,
                "width": entry.output.width,
                "height": entry.output.height,
                "sha256": entry.sha256,
                "faces": [
                    {
                        "box": face.box,
                        "score": face.score,
                        "affine": face.affine,
                        "method": face.method,
                        "gate_distance": face.gate_distance,
                        "fitted": face.fitted,
                        "nonce": face.nonce,
                    }
                    for face in entry.output.faces
                ],
            }
            for entry in written
        ],
    }
