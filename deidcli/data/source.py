"""The inputs: folders of any depth, parquet files, single pictures.

`open_source` lists every input once, in a fixed order, and divides the list into shards: slices of
the listed pictures, or row groups of a parquet file. Shards are pickled and sent to workers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from deidcli.data import parquet
from deidcli.data.columns import (
    NO_COLUMNS,
    NO_WISH,
    PARTITIONS,
    Columns,
    Table,
    Wish,
    check_wish,
    fitted,
)
from deidcli.data.formats import refusal
from deidcli.data.labels import LabelFiles, Labels, lfw_identity, read_label_files
from deidcli.data.listing import File, Root, is_shard, list_files, name_roots, printable
from deidcli.data.names import Names
from deidcli.data.parquet_files import ParquetFiles
from deidcli.data.people import names_people
from deidcli.data.reading import file_print
from deidcli.errors import DeidError
from deidcli.faces.align import Box

Kind = Literal["folder", "parquet", "mixed"]
LABEL_FILE = "label file"
"""The reason for skipping a file whose labels were read."""


@dataclass(frozen=True)
class Item:
    """One input file that is not parquet."""

    key: str
    """Path relative to the input, with `/` as separator, printable."""
    path: str
    status: str = ""
    """Empty for a picture to be read; otherwise `skipped` or `failed`, decided while listing."""
    reason: str = ""
    passes: bool = False
    """Whether the failure may be temporary."""
    stem: str = ""
    """Output name of its crops below `images/`, without `_0.png`; unique."""
    name: str = ""
    """Output name of the frame below `images/`; unique."""
    labels: Labels = field(default_factory=dict)
    partition: str | None = None
    identity: str | None = None
    size: int = 0
    """Bytes."""
    boxes: tuple[Box, ...] = ()
    """Faces that the user marked (`--boxes`)."""
    root: str = ""
    """The real path that the file must lie inside; empty: links are followed."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the requested columns, see `Source.fields`."""


@dataclass(frozen=True)
class FolderShard:
    """A slice of the listed files."""

    index: int
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def weight(self) -> int:
        """The approximate amount of work, in bytes."""
        return sum(item.size for item in self.items)


Shard = FolderShard | parquet.ParquetShard


@dataclass(frozen=True)
class Source:
    """Everything found in the inputs before any picture is opened."""

    kind: Kind
    root: Path
    """The first input."""
    shards: tuple[Shard, ...]
    total: int
    """Number of inputs: files, or rows (an unreadable parquet file is one input)."""
    signature: str
    """Changes when a file is added, removed or renamed, or a parquet file is divided differently.
    Changed contents are detected by the files' prints, shard by shard: see `resume`."""
    warnings: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    """Attributes that at least one input has a label for, sorted."""
    has_partition: bool = False
    names_people: bool = False
    """Whether folders or files seem to be named after people."""
    has_identity: bool = False
    private_warnings: tuple[str, ...] = ()
    """Warnings that name files: shown to the user, never published."""
    roots: tuple[Path, ...] = ()
    """All inputs without duplicates, in the order of their keys."""
    linked: tuple[Path, ...] = ()
    """Real paths of outside folders reached through links (--follow-links)."""
    columns: Columns = NO_COLUMNS
    """Which of the inputs' columns are published."""
    fields: tuple[tuple[str, pa.DataType], ...] = ()
    """The columns of folders' tables that are published in metadata.parquet."""

    @property
    def has_pictures(self) -> bool:
        """Whether files are published below OUT/images."""
        return self.kind != "parquet"

    @property
    def has_parquet(self) -> bool:
        """Whether rows are published below OUT/data."""
        return self.kind != "folder"


def open_source(
    roots: Path | Sequence[Path], follow_links: bool = False, wish: Wish = NO_WISH
) -> Source:
    """List the inputs: pictures and parquet files, in folders of any depth or listed singly.

    Args:
        roots: one or several folders or files. If there are several, keys begin with a root's name,
            made unique; duplicates are listed once.
        wish: which columns are published beside the pictures.

    Raises:
        UsageError: no input has a requested column.
        DeidError: an input does not exist, cannot be read or is not something that contains
            pictures, or there is no picture in any.
    """
    given = [roots] if isinstance(roots, Path) else list(roots)
    if not given:
        raise DeidError("no input was named", "give a folder of pictures or a parquet file")
    for path in given:
        _check_root(path)
    named = name_roots(given)
    listing = list_files(named, follow_links)
    twice = listing.twice + len(given) - len(named)
    said = [f"inputs named twice, or within another one, and listed once: {twice}"] if twice else []
    return _source(named, listing.files, tuple(listing.linked), said, wish)


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")


def _check_root(path: Path) -> None:
    """Refuse invalid inputs before anything is listed."""
    address = _ADDRESS.fullmatch(str(path))
    if address and not path.exists():
        raise DeidError(
            f"{printable(address[1])}://{printable(address[2])} is an address; deid reads files "
            "of this machine only",
            "download it first, then give the folder",
        )
    if not path.exists():
        shown = printable(str(path))
        raise DeidError(f"{shown} does not exist", "give a folder of pictures or a parquet file")
    is_picture = path.is_file() and path.suffix.lower() != ".parquet"
    if printable(str(path)) != str(path) and not is_picture:
        raise DeidError("the input's path is not UTF-8", "rename the folder")


def _source(
    roots: Sequence[Root],
    files: list[File],
    linked: tuple[Path, ...],
    said: list[str],
    wish: Wish,
) -> Source:
    """Build the source from the listed files: pictures, parquet shards, or both."""
    has_pictures = any(f.is_picture and f.status == "" for f in files)
    tables = ParquetFiles([f for f in files if is_shard(f)], has_pictures, wish)
    others = [f for f in files if f.key not in tables.keys]
    label_files = read_label_files(
        ((f.key, f.path) for f in others if f.status == ""),
        wish.wants if has_pictures else lambda name: False,
    )
    if not has_pictures and not tables.slices:
        _refuse(roots, files, tables)
    # Without pictures, a table beside parquet files describes nothing that is published.
    in_tables = label_files.seen if has_pictures else {}
    check_wish(wish, in_tables, tables.summary.seen, tables.summary.images)
    table = fitted(wish, label_files.cells)
    items = _items(others, label_files, tables, table)
    size = shard_size(len(items))
    shards: list[Shard] = [
        FolderShard(number, tuple(items[start : start + size]))
        for number, start in enumerate(range(0, len(items), size))
    ]
    shards += tables.shards(len(shards))
    private = list(label_files.warnings)
    warnings = [f"{len(private)} label files could not be read"] if private else []
    return Source(
        "folder" if not tables.slices else "mixed" if has_pictures else "parquet",
        roots[0].path,
        tuple(shards),
        sum(len(shard) for shard in shards),
        _signature(files, tables),
        (*said, *warnings, *tables.warnings(label_files.used)),
        tuple(sorted({n for i in items for n in i.labels} | tables.summary.labels)),
        any(item.partition for item in items) or tables.summary.has_partition,
        _names_people(items, tables),
        any(item.identity for item in items) or tables.summary.has_identity,
        tuple(private),
        tuple(root.path for root in roots),
        linked,
        _columns(items, label_files, tables, table, wish),
        table.fields,
    )


def _names_people(items: Sequence[Item], tables: ParquetFiles) -> bool:
    keys = [item.key for item in items if not item.status]
    return any(map(lfw_identity, keys)) or any(map(names_people, (*keys, *tables.keys)))


def _columns(
    items: Sequence[Item], files: LabelFiles, tables: ParquetFiles, table: Table, wish: Wish
) -> Columns:
    """Return the published columns of label files, other tables and parquet files."""
    labels = sorted({name for item in items for name in item.labels})
    kept = [name for name in labels if wish.labels is None or name in wish.labels]
    if any(item.partition for item in items):
        kept += [name for name in PARTITIONS if name in files.seen]
    kept += [name for name, _ in table.fields]
    return Columns.of([*kept, *tables.summary.published], [*files.seen, *tables.summary.seen])


def _refuse(roots: Sequence[Root], files: Sequence[File], tables: ParquetFiles) -> None:
    """Raise if there is nothing to do; return only if an input failed and can be listed."""
    only, shown = len(roots) == 1, printable(str(roots[0].path))
    if tables.errors:
        key, first = tables.errors[0]
        raise DeidError(f"{key}: {first.message}", first.hint)
    known = refusal(f.path for f in files)
    if known:
        raise DeidError(f"{shown if only else 'the inputs'}: {known[0]}", known[1])
    if only and roots[0].is_file and files[0].status == "failed":
        raise DeidError(
            f"{shown}: {files[0].reason}", "deid methods and README.md say what is read"
        )
    if only and roots[0].is_file and not tables.empty:
        raise DeidError(
            f"{shown} is neither a picture nor a parquet file",
            "give a folder of pictures, pictures, or parquet files",
        )
    if any(f.status == "failed" for f in files):
        return
    found = f"{len(files)} other files" if files else "nothing"
    if tables.empty:
        found = f"{tables.empty} parquet files without rows"
    where = f"{shown} holds" if only else f"the {len(roots)} inputs hold"
    raise DeidError(f"{where} no picture ({found} found)", "give a folder of pictures")


def _signature(files: Sequence[File], tables: ParquetFiles) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.key}\n".encode())
    for file, groups, _, rows, _ in tables.slices:
        digest.update(f"{file.key}\0{groups}\0{rows}\n".encode())
    return digest.hexdigest()


def content_signature(source: Source) -> str:
    """Return a signature like `Source.signature` that also changes with the files' contents (see
    `reading.data_print`). It opens every file."""
    digest = hashlib.sha256(source.signature.encode())
    for path in dict.fromkeys(_paths(source)):
        digest.update(f"{file_print(path)}\n".encode())
    return digest.hexdigest()


def _paths(source: Source) -> Iterator[str]:
    for shard in source.shards:
        if isinstance(shard, FolderShard):
            yield from (item.path for item in shard.items)
        else:
            yield shard.path


# ---------------------------------------------------------------------------- pictures


def shard_size(inputs: int) -> int:
    """Return the inputs per shard: few enough to distribute and resume, for any worker count."""
    return max(2, min(64, inputs // 64))


def _items(
    files: Sequence[File], label_files: LabelFiles, tables: ParquetFiles, table: Table
) -> list[Item]:
    names = Names(files)
    return [_item(file, label_files, names, tables, table) for file in files]


def _item(
    file: File, label_files: LabelFiles, names: Names, tables: ParquetFiles, table: Table
) -> Item:
    status, reason = file.status, file.reason
    if not status and file.key in label_files.used:
        status, reason = "skipped", LABEL_FILE
    elif not status and file.key in tables.problems:
        status, reason = tables.problems[file.key]
    elif not status and not file.is_picture:
        status, reason = "skipped", "not a picture"
    if status:
        return Item(file.key, str(file.path), status, reason, file.passes)
    labels, partition, identity = label_files.of(file.key)
    return Item(
        file.key,
        str(file.path),
        stem=names.stem(file.key),
        name=names.name(file.key),
        labels=labels,
        partition=partition,
        identity=identity,
        size=file.size,
        root=file.root,
        columns=table.row(file.key),
    )
