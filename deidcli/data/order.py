"""Published parquet files: what they are called, and in which order their rows stand.

With `--names random` a file is named by its split and a number, and its rows stand in the order of
their random names: neither the source's file names nor its order of rows can be read from them.
Which rows shared a source file stays visible.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.journal import Journal
from deidcli.data.parquet import ParquetShard
from deidcli.data.sink import SAME_TIME, AtomicParquet, scratch, staged_name
from deidcli.data.source import Shard
from deidcli.errors import DeidError

BYTES_A_WRITE = 16 << 20
ROWS_A_WRITE = 256
"""A published row group has at most so many rows, or about so many bytes: they are in memory at
once."""
OPEN_FILES = 64
_WORDS = {"test": ("test",), "validation": ("validation", "valid", "val", "dev")}


def split_of(name: str) -> str:
    """The split that a parquet file's name says, by the usual words; `train` where it says none."""
    words = re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower())
    return next((split for split, known in _WORDS.items() if set(known) & set(words)), "train")


def file_names(shards: Sequence[Shard], secret: bytes | None) -> dict[str, str]:
    """Source file -> its published name below OUT/data.

    Args:
        secret: of the run, with `--names random`: then split and number alone are told, numbered
            in an order that only the secret gives. None: the source's own names.
    """
    keys = list(dict.fromkeys(s.key for s in shards if isinstance(s, ParquetShard)))
    if secret is None:
        return {key: key for key in keys}
    label = b"deid 1 file\0"
    keys.sort(key=lambda key: hmac.new(secret, label + key.encode(), hashlib.sha256).digest())
    totals, found = Counter(map(split_of, keys)), Counter[str]()
    names = {}
    for key in keys:
        split = split_of(key)
        names[key] = f"{split}-{found[split]:05d}-of-{totals[split]:05d}.parquet"
        found[split] += 1
    return names


Order = list[tuple[int, int]]
"""(shard, row among those that it published), in the order of the published file."""


def row_orders(journal: Journal, shards: Sequence[Shard], shuffled: bool) -> dict[str, Order]:
    """Source file -> the order of its published rows.

    Args:
        shuffled: by their names, which are random; else as they stood in the source.
    """
    named: dict[str, list[tuple[str, int, int]]] = {}
    for shard in shards:
        if isinstance(shard, ParquetShard):
            rows = named.setdefault(shard.key, [])
            names = journal.published_names(shard.index)
            rows += [(name, shard.index, row) for row, name in enumerate(names)]
    for rows in named.values():
        if shuffled:
            rows.sort()
    return {key: [(shard, row) for _, shard, row in rows] for key, rows in named.items()}


def merge(
    out: Path, shards: Sequence[Shard], orders: dict[str, Order], names: dict[str, str],
    shuffled: bool,
) -> list[str]:  # fmt: skip
    """Join the staged rows of each source file into its published file.

    A file that is there while staged rows are not was joined before.

    Returns:
        The published files, relative to OUT.
    """
    journal = Journal(out)
    staging = journal.staging
    staged: dict[str, list[Path]] = {}
    for shard in shards:
        if isinstance(shard, ParquetShard):
            path = staging / staged_name(shard.index)
            # A shard whose rows all failed for its file's sake has none staged.
            if path.exists() or journal.published_names(shard.index):
                staged.setdefault(shard.key, []).append(path)
    found = []
    for key, paths in staged.items():
        name = f"data/{names[key]}"
        if all(path.exists() for path in paths):
            schema = pq.read_schema(paths[0])
            time = SAME_TIME if shuffled else None
            with AtomicParquet(out / name, schema, scratch(out), time) as file:
                _copy(staging, orders[key], file)
        elif not (out / name).exists():
            require_there(out, name)
        found.append(name)
    return sorted(found) if shuffled else found


def require_there(out: Path, name: str) -> None:
    """The last look before a manifest says that a file was published.

    Raises:
        DeidError: somebody removed it.
    """
    if not (out / name).is_file():
        raise DeidError(
            f"{out / name} was removed while the run was under way",
            "the same command again makes it anew",
        )


def _copy(staging: Path, order: Order, file: AtomicParquet) -> None:
    @lru_cache(maxsize=OPEN_FILES)
    def opened(shard: int) -> pq.ParquetFile:
        return pq.ParquetFile(staging / staged_name(shard))

    waiting: list[pa.Table] = []
    size = 0
    for shard, row in order:
        table = opened(shard).read_row_group(row)
        waiting.append(table)
        size += table.nbytes
        if size >= BYTES_A_WRITE or len(waiting) >= ROWS_A_WRITE:
            file.write(pa.concat_tables(waiting).combine_chunks())
            waiting, size = [], 0
    if waiting:
        file.write(pa.concat_tables(waiting).combine_chunks())
    opened.cache_clear()
