"""Where pictures come from: a folder of any depth, or parquet shards.

`open_source` lists every input once, in a fixed order, and cuts the list into shards: slices of
the sorted folder, or row groups of a parquet file. A shard is pickled to whoever works on it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from deidcli.data import parquet
from deidcli.data.attributes import LabelFiles, Labels, lfw_identity, read_label_files
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
from deidcli.data.images import FORMAT_OF_EXTENSION, READ_ONLY_EXTENSIONS, looks_like_image
from deidcli.data.people import names_people
from deidcli.errors import DeidError

Kind = Literal["folder", "parquet"]


@dataclass(frozen=True)
class Item:
    """One file of a folder."""

    key: str
    """Path relative to the input, `/` between its parts, printable."""
    path: str
    status: str = ""
    """Empty: a picture to be read. Otherwise `skipped` or `failed`, decided while listing."""
    reason: str = ""
    stem: str = ""
    """Output name of its crops below `images/`, without `_0.png`; unique."""
    name: str = ""
    """Output name of the frame below `images/`; unique."""
    labels: Labels = field(default_factory=dict)
    partition: str | None = None
    identity: str | None = None
    size: int = 0
    """Bytes."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the columns that were asked for, see `Source.fields`."""


@dataclass(frozen=True)
class FolderShard:
    """A slice of the sorted folder."""

    index: int
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def weight(self) -> int:
        """About how much work it is, in bytes."""
        return sum(item.size for item in self.items)


Shard = FolderShard | parquet.ParquetShard


@dataclass(frozen=True)
class Source:
    """Everything that was found at the input, before any picture is opened."""

    kind: Kind
    root: Path
    shards: tuple[Shard, ...]
    total: int
    """Inputs: files of a folder, or rows (an unreadable parquet file is one input)."""
    signature: str
    """Changes when a file is added, removed, renamed or resized."""
    warnings: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    """Attributes that at least one input has a label for, sorted."""
    has_partition: bool = False
    names_people: bool = False
    """Folders or files are named after people, as it seems."""
    has_identity: bool = False
    private_warnings: tuple[str, ...] = ()
    """Warnings that name files: shown to the user, never published."""
    columns: Columns = NO_COLUMNS
    """What is published of the inputs' columns."""
    fields: tuple[tuple[str, pa.DataType], ...] = ()
    """Folders: the columns of its tables that are published in metadata.parquet."""


def open_source(root: Path, follow_links: bool = False, wish: Wish = NO_WISH) -> Source:
    """List the inputs below a folder, or of one parquet file.

    Args:
        wish: which columns are published beside the pictures.

    Raises:
        UsageError: no input has a column that was asked for.
        DeidError: nothing there, not readable, or no picture in it.
    """
    if printable(str(root)) != str(root):
        raise DeidError("the input's path is not UTF-8", "rename the folder")
    if not root.exists():
        raise DeidError(f"{root} does not exist", "give a folder of pictures or a parquet file")
    if root.is_file():
        if root.suffix.lower() != ".parquet":
            raise DeidError(
                f"{root} is neither a folder nor a parquet file",
                "give the folder that holds the pictures",
            )
        return _parquet_source(root, [_File(root.name, root)], wish)
    files = list(_walk(root, follow_links))
    pictures = [f for f in files if f.status == "" and f.is_picture]
    shards = [f for f in files if f.status == "" and f.key.lower().endswith(".parquet")]
    if shards and not pictures:
        return _parquet_source(root, files, wish)
    if not pictures and not any(f.status == "failed" for f in files):
        found = f"{len(files)} other files" if files else "nothing"
        raise DeidError(f"{root} holds no picture ({found} found)", "give a folder of pictures")
    return _folder_source(root, files, wish)


# ---------------------------------------------------------------------------- listing


@dataclass(frozen=True)
class _File:
    key: str
    path: Path
    size: int = 0
    status: str = ""
    reason: str = ""
    is_picture: bool = False


def printable(name: str) -> str:
    """A file name as text that parquet and JSON can hold: undecodable bytes become %XX."""
    return "".join(
        f"%{ord(char) - 0xDC00:02X}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in name
    )


def _walk(root: Path, follow_links: bool) -> Iterator[_File]:
    """Every file below a folder in a fixed order; folders that cannot be read count as one."""
    inside = root.resolve()
    stack: list[tuple[Path, str]] = [(root, "")]
    seen = {inside}
    while stack:
        folder, prefix = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda e: os.fsencode(e.name))
        except OSError as error:
            if not prefix:
                raise DeidError(
                    f"{root} cannot be read: {error.strerror}", "check its permissions"
                ) from None
            reason = f"folder cannot be read: {error.strerror}"
            yield _File(prefix.rstrip("/"), folder, status="failed", reason=reason)
            continue
        folders = []
        raw = {entry.name for entry in entries}
        for entry in entries:
            key, path = prefix + _unique_name(entry.name, raw), Path(entry.path)
            link = _link_problem(entry, inside, follow_links)
            if link is not None:
                yield _File(key, path, status=link[0], reason=link[1])
            elif entry.is_dir():
                if entry.is_symlink():
                    target = path.resolve()
                    if target in seen:
                        yield _File(key, path, status="skipped", reason="link to a listed folder")
                        continue
                    seen.add(target)
                folders.append((path, key + "/"))
            else:
                yield _classify(entry, key, path)
        stack.extend(reversed(folders))


def _unique_name(name: str, siblings: set[str]) -> str:
    """`printable`, made different from the siblings' own names where it had to change."""
    shown = printable(name)
    while shown != name and shown in siblings:
        shown += "~"
    return shown


def _link_problem(entry: os.DirEntry[str], inside: Path, follow: bool) -> tuple[str, str] | None:
    if not entry.is_symlink():
        return None
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        return "failed", "broken link"
    if target.is_dir() and not follow:
        return "skipped", "link to a folder (--follow-links follows it)"
    if not follow and not target.is_relative_to(inside):
        return "skipped", "link out of the input (--follow-links follows it)"
    return None


def _classify(entry: os.DirEntry[str], key: str, path: Path) -> _File:
    if entry.name.startswith("."):
        return _File(key, path, status="skipped", reason="hidden file")
    try:
        info = entry.stat()
        if not stat.S_ISREG(info.st_mode):
            return _File(key, path, status="skipped", reason="not a regular file")
        suffix = path.suffix.lower()
        if suffix in FORMAT_OF_EXTENSION or suffix in READ_ONLY_EXTENSIONS:
            return _File(key, path, info.st_size, is_picture=True)
        if suffix == ".parquet":
            return _File(key, path, info.st_size)
        with path.open("rb") as file:
            is_picture = looks_like_image(file.read(16))
    except OSError as error:
        return _File(key, path, status="failed", reason=f"cannot be read: {error.strerror}")
    return _File(key, path, info.st_size, is_picture=is_picture)


def _signature(files: Sequence[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.key}\0{file.size}\0{file.status}\n".encode())
    return digest.hexdigest()


# ---------------------------------------------------------------------------- folders


def shard_size(inputs: int) -> int:
    """Inputs a shard: few enough to spread and to resume, the same for every worker count."""
    return max(2, min(64, inputs // 64))


def _folder_source(root: Path, files: list[_File], wish: Wish) -> Source:
    label_files = read_label_files(((f.key, f.path) for f in files if not f.status), wish.wants)
    check_wish(wish, label_files.seen)
    table = fitted(wish, label_files.cells)
    names = _Names(files)
    items = [_item(file, label_files, names, table) for file in files]
    labels = tuple(sorted({name for item in items for name in item.labels}))
    has_partition = any(item.partition for item in items)
    size = shard_size(len(items))
    shards = [
        FolderShard(number, tuple(items[start : start + size]))
        for number, start in enumerate(range(0, len(items), size))
    ]
    skipped = sum(f.key.lower().endswith(".parquet") for f in files) - sum(
        key.endswith(".parquet") for key in label_files.used
    )
    private = list(label_files.warnings)
    warnings = [f"{len(private)} label files could not be read"] if private else []
    if skipped > 0:
        warnings.append(f"{skipped} parquet files stand between the pictures and were skipped")
    return Source(
        "folder",
        root,
        tuple(shards),
        len(items),
        _signature(files),
        tuple(warnings),
        labels,
        has_partition,
        any(lfw_identity(i.key) or names_people(i.key) for i in items if not i.status),
        any(item.identity for item in items),
        tuple(private),
        _folder_columns(label_files, labels, has_partition, table, wish),
        table.fields,
    )


def _folder_columns(
    files: LabelFiles, labels: Sequence[str], has_partition: bool, table: Table, wish: Wish
) -> Columns:
    kept = [name for name in labels if wish.labels is None or name in wish.labels]
    split = [name for name in PARTITIONS if name in files.seen] if has_partition else []
    return Columns.of([*kept, *split, *(name for name, _ in table.fields)], files.seen)


def _item(file: _File, label_files: LabelFiles, names: _Names, table: Table) -> Item:
    if file.status:
        return Item(file.key, str(file.path), file.status, file.reason)
    if not file.is_picture:
        used = file.key in label_files.used
        reason = "label file" if used else "not a picture"
        return Item(file.key, str(file.path), "skipped", reason)
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
        columns=table.row(file.key),
    )


class _Names:
    """Unique output names: the input's own, changed only where two would collide."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._stems: dict[str, int] = {}
        for file in files:
            if file.is_picture:
                stem = _stem(file.key)
                self._stems[stem] = self._stems.get(stem, 0) + 1
        self._taken = {file.key for file in files if file.is_picture}

    def stem(self, key: str) -> str:
        """`a/b` for `a/b.jpg`, or `a/b.jpg` where `a/b.png` exists too."""
        stem = _stem(key)
        return stem if self._stems[stem] == 1 and stem not in self._taken else key

    def name(self, key: str) -> str:
        """The key itself; `.png` is added where its own format is not written."""
        if os.path.splitext(key)[1].lower() in FORMAT_OF_EXTENSION:
            return key
        name = key + ".png"
        while name in self._taken:
            name = name[: -len(".png")] + "_.png"
        self._taken.add(name)
        return name


def _stem(key: str) -> str:
    return os.path.splitext(key)[0]


# ---------------------------------------------------------------------------- parquet


def _parquet_source(root: Path, files: list[_File], wish: Wish) -> Source:
    shards: list[Shard] = []
    summary = parquet.Summary()
    rest: list[Item] = []
    missing: list[DeidError] = []
    for file in files:
        if not file.status and printable(str(file.path)) != str(file.path):
            rest.append(Item(file.key, str(file.path), "failed", "its name is not UTF-8"))
            continue
        if file.status or not file.key.lower().endswith(".parquet"):
            status, reason = file.status or "skipped", file.reason or "not a parquet file"
            rest.append(Item(file.key, str(file.path), status, reason))
            continue
        try:
            plan = parquet.plan_file(file.path, wish)
        except DeidError as error:
            missing.append(error)
            rest.append(Item(file.key, str(file.path), "failed", error.message))
            continue
        for groups, first_row, rows in plan.slices:
            shards.append(
                parquet.ParquetShard(
                    len(shards), str(file.path), file.key, groups, first_row, rows, plan.layout
                )
            )
        summary = summary.add(plan)
    if not shards and missing:
        raise DeidError(f"{root.name}: {missing[0].message}", missing[0].hint)
    if rest:
        shards.append(FolderShard(len(shards), tuple(rest)))
    check_wish(wish, summary.seen, summary.images)
    return Source(
        "parquet",
        root,
        tuple(shards),
        sum(len(shard) for shard in shards),
        _signature([_sized(file) for file in files]),
        (),
        tuple(sorted(summary.labels)),
        summary.has_partition,
        any(names_people(shard.key) for shard in shards if isinstance(shard, parquet.ParquetShard)),
        summary.has_identity,
        columns=summary.columns(),
    )


def _sized(file: _File) -> _File:
    size = file.path.stat().st_size if file.status == "" and not file.size else file.size
    return _File(file.key, file.path, size, file.status)
