"""Names and row order of published parquet files.

With `--names random` a file is named by its split and a number, and its rows are sorted by their
random names, so neither the source's file names nor its row order can be recovered. Which rows
shared a source file stays visible.
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
"""The limits of a published row group in rows and (about) bytes; it is in memory at once."""
OPEN_FILES = 64
_WORDS = {"test": ("test",), "validation": ("validation", "valid", "val", "dev")}


def split_of(name: str) -> str:
    """Return the split in a parquet file's name, by common words; `train` if there is none."""
    words = re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower())
    return next((split for split, known in _WORDS.items() if set(known) & set(words)), "train")


def file_names(shards: Sequence[Shard], secret: bytes | None) -> dict[str, str]:
    """Map source files to their published names below OUT/data.

    Args:
        secret: the run's secret, with `--names random`: names then consist of split and number, in
            an order that depends on the secret. None: the source's own names.
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
    """Map source files to the order of their published rows.

    Args:
        shuffled: order by the random names; else the source's order.
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

    If a file exists and its staged rows do not, it was joined before.

    Returns:
        The published files, relative to OUT.
    """
    journal = Journal(out)
    staging = journal.staging
    staged: dict[str, list[Path]] = {}
    for shard in shards:
        if isinstance(shard, ParquetShard):
            path = staging / staged_name(shard.index)
            # If all rows of a shard failed because of its file, none are staged.
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
    """Check that a file exists before the manifest lists it as published.

    Raises:
        DeidError: it was removed.
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
