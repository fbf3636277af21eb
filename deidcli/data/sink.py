"""Write a shard's results: temporary file, fsync, os.replace, and the journal entry last."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.crypto.sealing import SealedFace
from deidcli.data import parquet
from deidcli.data.samples import Sample
from deidcli.errors import DeidError


@dataclass(frozen=True)
class FaceRecord:
    """One published face, as in `metadata.parquet`."""

    box: tuple[float, float, float, float]
    score: float
    affine: tuple[float, ...]
    """Six numbers, row-major 2x3, frame pixels -> chip pixels."""
    method: str
    gate_distance: float | None
    nonce: str | None = None
    """As hex; the face's bits are derived from it and the password, if the method needs one."""
    fitted: bool = True
    """Whether the face has landmarks; without them it was blacked out by its box."""


@dataclass(frozen=True)
class Doubt:
    """A place in a picture that may be a face and was left unchanged. Never published."""

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Output:
    """One published picture."""

    name: str
    data: bytes
    width: int
    height: int
    faces: tuple[FaceRecord, ...] = ()
    sealed: tuple[SealedFace, ...] = ()
    """With --seal: the original pixels of each face, encrypted."""


@dataclass(frozen=True)
class Result:
    """The result for one input."""

    sample: Sample
    status: str
    """ok, fallback, no_face, failed or skipped."""
    reason: str = ""
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    faces: int = 0
    """Faces found, published or not."""
    covered: int = 0
    """Faces without landmarks, which were blacked out instead of passed to the method."""
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class Written:
    """A published picture as recorded in the journal."""

    output: Output
    """The output without its bytes, including the sealed ones."""
    sha256: str

    @classmethod
    def of(cls, output: Output) -> Written:
        """Return the record of a picture that was written."""
        digest = hashlib.sha256(output.data).hexdigest()
        return cls(dataclasses.replace(output, data=b"", sealed=()), digest)


class Unwritable(Exception):
    """One picture cannot be written, others can. The text gives the reason, see reasons.py."""


_OF_THE_NAME = (
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ),
    errno.ENOTEMPTY,
)


class Sink(Protocol):
    """The destination of a shard's results."""

    def write(self, result: Result) -> tuple[Written, ...]: ...

    def close(self) -> None: ...


@contextmanager
def writing() -> Iterator[None]:
    """Convert errors of a full or read-only disk into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DeidError(
                f"no space left for the output: {error.strerror}",
                "free some space, then run the same command again: it resumes",
            ) from None
        raise DeidError(
            f"the output cannot be written: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            "check the folder and its permissions, or choose another with --out",
        ) from None


def scratch(root: Path) -> Path:
    """Return the folder of unfinished files below an output folder; finished runs remove it."""
    return root / ".incomplete"


def _fsync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


SAME_TIME = 946684800
"""Modification time of files published with `--names random` (2000-01-01). The real times would
reveal the order in which they were written, and so the order of the source."""


def write_atomic(path: Path, data: bytes, temporary: Path, time: int | None = None) -> None:
    """Write a file atomically: at any moment it is either complete or absent.

    Args:
        temporary: a folder on the same file system.
        time: modification time to set, seconds since 1970.

    Raises:
        Unwritable: the name itself is the problem.
        DeidError: the disk is full or not writable.
    """
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    unfinished = temporary / f"{os.getpid()}-{digest}"
    with writing():
        temporary.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            _fsync(file)
        if time is not None:
            os.utime(unfinished, (time, time))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, path)
        except OSError as error:
            if error.errno not in _OF_THE_NAME:
                raise
            unfinished.unlink(missing_ok=True)
            raise Unwritable(f"its name cannot be written: {error.strerror}") from None


class FolderSink:
    """Pictures below OUT/images, under their own names."""

    def __init__(
        self, out: Path, same_time: bool, note: Callable[[list[str]], None] = lambda names: None
    ) -> None:
        """Create the sink; `note` is called with the names, relative to OUT, of the next files."""
        self._note = note
        self._images = out / "images"
        self._scratch = scratch(out)
        self._time = SAME_TIME if same_time else None

    def write(self, result: Result) -> tuple[Written, ...]:
        """Write the pictures of one input.

        Raises:
            Unwritable: the name is too long, or taken by a folder.
            DeidError: the disk is full or not writable.
        """
        written: list[Written] = []
        self._note([f"images/{output.name}" for output in result.outputs])
        for output in result.outputs:
            try:
                write_atomic(self._images / output.name, output.data, self._scratch, self._time)
            except Unwritable:
                for entry in written:
                    (self._images / entry.output.name).unlink(missing_ok=True)
                raise
            written.append(Written.of(output))
        return tuple(written)

    def close(self) -> None:
        pass


class ParquetSink:
    """Writes the rows of one shard to a staging file, one row group each, so that `order.merge` can
    later read and join them in any order."""

    def __init__(self, shard: parquet.ParquetShard, staging: Path) -> None:
        schema = parquet.published_schema(parquet.source_schema(shard), shard.layout)
        self._layout = shard.layout
        self._file = AtomicParquet(staging / staged_name(shard.index), schema, staging)
        self._file.__enter__()

    def write(self, result: Result) -> tuple[Written, ...]:
        written = []
        for output in result.outputs:
            assert result.sample.row is not None
            self._file.write(self._row(result.sample.row, output))
            written.append(Written.of(output))
        return tuple(written)

    def _row(self, source: pa.RecordBatch, output: Output) -> pa.Table:
        schema, layout = self._file.schema, self._layout
        columns = []
        for name, kind in zip(schema.names, schema.types, strict=True):
            if name == layout.image:
                columns.append(parquet.image_array(kind, [output.data], [output.name]))
                continue
            try:
                values = pa.chunked_array([source.column(name)])
                columns.append(parquet.published_column(name, values, layout))
            except (pa.ArrowException, ValueError, OverflowError) as error:
                raise Unwritable(f"its columns cannot be written: {error}") from None
        return pa.Table.from_arrays(columns, schema=schema)

    def close(self) -> None:
        self._file.__exit__(None, None, None)


def staged_name(index: int) -> str:
    """Return the name of a shard's staging file."""
    return f"{index:06d}.parquet"


@dataclass
class AtomicParquet:
    """A parquet file that appears under its name only when it is complete."""

    path: Path
    schema: pa.Schema
    temporary: Path
    time: int | None = None
    """Modification time to set, seconds since 1970."""
    _writer: pq.ParquetWriter | None = field(default=None, init=False)

    @property
    def _unfinished(self) -> Path:
        return self.temporary / f"{os.getpid()}-{self.path.name}"

    def __enter__(self) -> AtomicParquet:
        with writing():
            self.temporary.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._unfinished, self.schema)
        return self

    def write(self, table: pa.Table) -> None:
        """Append a table as a row group."""
        assert self._writer is not None
        with writing():
            self._writer.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._writer is not None
        with writing():
            self._writer.close()
            if kind is not None:
                self._unfinished.unlink(missing_ok=True)
                return
            with self._unfinished.open("rb") as file:
                os.fsync(file.fileno())
            if self.time is not None:
                os.utime(self._unfinished, (self.time, self.time))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._unfinished, self.path)
