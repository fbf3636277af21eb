"""The parquet files among the inputs: which are read, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence

from deidcli.data import parquet
from deidcli.data.columns import Wish
from deidcli.data.listing import File, printable
from deidcli.errors import DeidError


class ParquetFiles:
    """All parquet files, each inspected once."""

    def __init__(self, files: Sequence[File], has_pictures: bool, wish: Wish) -> None:
        self._wish = wish
        self.slices: list[tuple[File, tuple[int, ...], int, int, parquet.Layout]] = []
        """One entry per shard: file, row groups, first row, rows, layout."""
        self.keys: set[str] = set()
        """Keys of files that are read."""
        self.problems: dict[str, tuple[str, str]] = {}
        """Key -> status and reason of the others."""
        self.errors: list[tuple[str, DeidError]] = []
        self.summary = parquet.Summary()
        self.empty = self.without = 0
        for file in files:
            self._add(file, has_pictures)

    def _add(self, file: File, has_pictures: bool) -> None:
        if printable(str(file.path)) != str(file.path):
            self.problems[file.key] = ("failed", "its name is not UTF-8")
            return
        try:
            plan = parquet.plan_file(file.path, self._wish)
        except parquet.NoPictures as error:
            # Beside pictures it is a table about them; alone, it was meant to contain some.
            is_table = has_pictures or file.path.name.lower() == "metadata.parquet"
            self.without += is_table
            self.problems[file.key] = ("skipped" if is_table else "failed", error.message)
            self.errors += [] if is_table else [(file.key, error)]
            return
        except DeidError as error:
            self.problems[file.key] = ("failed", error.message)
            self.errors.append((file.key, error))
            return
        if not any(rows for _, _, rows in plan.slices):
            self.empty += 1
            self.problems[file.key] = ("skipped", "a parquet file without rows")
            return
        self.keys.add(file.key)
        self.slices += [(file, *cut, plan.layout) for cut in plan.slices]
        self.summary = self.summary.add(plan)

    def warnings(self, used: set[str]) -> list[str]:
        """Return warnings about files that are not read.

        Args:
            used: keys of label files.
        """
        count = self.without - sum(key in self.problems for key in used)
        if not count:
            return []
        return [f"{count} parquet files have no column of pictures: not read, not copied"]

    def shards(self, first: int) -> list[parquet.ParquetShard]:
        """Return one shard per slice, numbered from `first`."""
        return [
            parquet.ParquetShard(
                number, str(file.path), file.key, groups, row, rows, layout, file.root
            )
            for number, (file, groups, row, rows, layout) in enumerate(self.slices, first)
        ]
