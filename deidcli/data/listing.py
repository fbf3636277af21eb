"""List every file below the inputs once, in a fixed order, each with a unique key.

Inputs ("roots") are folders or single files. If there are several, each key begins with the root's
name, made unique. Roots are sorted, so their order on the command line or in a list from another
program does not matter.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deidcli.data.formats import is_postscript, unread
from deidcli.data.images import FORMAT_OF_EXTENSION, READ_ONLY_EXTENSIONS, looks_like_image
from deidcli.data.reading import Unreadable, open_regular
from deidcli.errors import DeidError


@dataclass(frozen=True)
class Root:
    """One of the inputs."""

    path: Path
    real: Path
    """The path with all links followed."""
    name: str
    """The prefix of keys below it; empty for a single folder."""
    is_file: bool


@dataclass(frozen=True)
class File:
    """A listed file; an unreadable folder also counts as one."""

    key: str
    path: Path
    size: int = 0
    status: str = ""
    """Empty, or `skipped` or `failed` if the file is not to be read, with a reason."""
    reason: str = ""
    is_picture: bool = False
    passes: bool = False
    """Whether the failure may be temporary."""
    root: str = ""
    """The real path that the file must lie inside; empty: links are followed."""


@dataclass
class Listing:
    """All files of all roots."""

    files: list[File] = field(default_factory=list)
    twice: int = 0
    """The number of roots that lie inside another one or were listed twice."""
    linked: list[Path] = field(default_factory=list)
    """Real paths of folders reached through links."""


def printable(name: str) -> str:
    """Return a file name as text for parquet and JSON: undecodable bytes become %XX."""
    return "".join(
        f"%{ord(char) - 0xDC00:02X}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in name
    )


def name_roots(paths: Sequence[Path]) -> list[Root]:
    """Return the inputs without duplicates, sorted by real path, each with a unique name."""
    real = sorted({path.resolve(): path for path in paths}.items(), key=lambda r: os.fsencode(r[0]))
    if len(real) == 1 and real[0][0].is_dir():
        return [Root(real[0][1], real[0][0], "", False)]
    own = {printable(resolved.name) for resolved, _ in real}
    used: set[str] = set()
    number: Counter[str] = Counter()
    roots = []
    for resolved, path in real:
        is_file = not resolved.is_dir()
        plain = name = printable(resolved.name) or "root"
        while name in used:
            number[plain] += 1
            stem, extension = os.path.splitext(plain) if is_file else (plain, "")
            other = f"{stem}-{number[plain] + 1}{extension}"
            name = other if other not in own else name
        used.add(name)
        roots.append(Root(path, resolved, name, is_file))
    return roots


class Locator:
    """Maps keys back to file paths below the inputs.

    This works for keys that are unchanged file names; names that are not UTF-8 cannot be recovered.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        roots = name_roots(paths)
        self._files = {root.name: root.path for root in roots if root.is_file}
        self._folders = {root.name: root.path for root in roots if not root.is_file}

    def __call__(self, key: str) -> Path:
        """Return the path of a key."""
        if key in self._files:
            return self._files[key]
        if "" in self._folders:
            return self._folders[""] / key
        first, _, rest = key.partition("/")
        return self._folders.get(first, Path(first)) / rest


def list_files(roots: Sequence[Root], follow_links: bool) -> Listing:
    """List every file of every root.

    Raises:
        DeidError: a root cannot be read.
    """
    return _Walk(roots, follow_links).run()


class _Walk:
    """Walks folders on disk first and link targets afterwards, so that each file is listed once,
    under its own path if it has one."""

    def __init__(self, roots: Sequence[Root], follow_links: bool) -> None:
        self._roots, self._follow = roots, follow_links
        self._inside = [root.real for root in roots]
        self._listing = Listing()
        self._seen: set[tuple[int, int]] = set()
        """Device and inode of each folder that is or will be listed."""
        self._links: list[tuple[Path, str]] = []

    def run(self) -> Listing:
        files = self._listing.files
        for root in self._roots:
            if root.is_file:
                continue
            if self._is_seen(root.real):
                self._listing.twice += 1
                continue
            files += self._tree(root.path, f"{root.name}/" if root.name else "", str(root.real))
        mixed = any(root.is_file for root in self._roots)
        listed = {os.path.realpath(f.path): n for n, f in enumerate(files)} if mixed else {}
        for root in self._roots:
            if not root.is_file:
                continue
            file = _named(root)
            before = listed.get(str(root.real))
            if before is None:
                files.append(file)
                continue
            self._listing.twice += 1
            if files[before].status and not file.status:  # hidden, but listed by the user
                old = files[before]
                files[before] = File(
                    old.key, file.path, file.size, "", "", file.is_picture, root=file.root
                )
        for path, key in self._links:  # grows during the walk
            files += self._linked(path, key)
        return self._listing

    def _is_seen(self, folder: Path) -> bool:
        """Return whether a folder was listed before, and mark it as listed."""
        try:
            info = folder.stat()
        except OSError:
            return False
        known = (info.st_dev, info.st_ino) in self._seen
        self._seen.add((info.st_dev, info.st_ino))
        return known

    def _linked(self, path: Path, key: str) -> Iterator[File]:
        target = path.resolve()
        if any(real.is_relative_to(target) and real != target for real in self._inside):
            yield File(key, path, 0, "skipped", "link to a folder that holds the input")
        elif self._is_seen(path):
            yield File(key, path, 0, "skipped", "link to a listed folder")
        else:
            self._listing.linked.append(target)
            yield from self._tree(path, key + "/", "")

    def _tree(self, top: Path, prefix: str, root: str) -> Iterator[File]:
        """Yield every file below a folder; each folder's files come before its subfolders."""
        stack: list[tuple[Path, str]] = [(top, prefix)]
        while stack:
            folder, prefix = stack.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda e: os.fsencode(e.name))
            except OSError as error:
                if folder == top and root:
                    raise DeidError(
                        f"{top} cannot be read: {error.strerror}", "check its permissions"
                    ) from None
                reason = f"folder cannot be read: {error.strerror}"
                yield File(prefix.rstrip("/"), folder, 0, "failed", reason, passes=True)
                continue
            folders: list[tuple[Path, str]] = []
            yield from self._entries(entries, prefix, root, folders)
            stack.extend(reversed(folders))

    def _entries(
        self,
        entries: list[os.DirEntry[str]],
        prefix: str,
        root: str,
        folders: list[tuple[Path, str]],
    ) -> Iterator[File]:
        raw = {entry.name for entry in entries}
        for entry in entries:
            key, path = prefix + _unique_name(entry.name, raw), Path(entry.path)
            problem = self._link_problem(entry)
            if problem is not None:
                yield File(key, path, 0, *problem, passes=problem[0] == "failed")
            elif not entry.is_dir():
                yield classify(path, key, self._bounds(entry, root))
            elif entry.is_symlink():
                self._links.append((path, key))
            elif self._is_seen(path):
                yield File(key, path, 0, "skipped", "a folder that is listed elsewhere")
            else:
                folders.append((path, key + "/"))

    def _bounds(self, entry: os.DirEntry[str], root: str) -> str:
        """Return the root that a file must lie inside; for a link, the root it leads into."""
        if self._follow or not entry.is_symlink():
            return "" if self._follow else root
        target = Path(entry.path).resolve()
        return next((str(real) for real in self._inside if target.is_relative_to(real)), root)

    def _link_problem(self, entry: os.DirEntry[str]) -> tuple[str, str] | None:
        if not entry.is_symlink():
            return None
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            return "failed", "broken link"
        if self._follow:
            return None
        if target.is_dir():
            return "skipped", "link to a folder (--follow-links follows it)"
        if not any(target.is_relative_to(real) for real in self._inside):
            return "skipped", "link out of the input (--follow-links follows it)"
        return None


def _named(root: Root) -> File:
    """Return a file that the user listed; it may be hidden or a link."""
    return classify(root.path, root.name, str(root.real), named=True)


def _unique_name(name: str, siblings: set[str]) -> str:
    """Return `printable(name)`, made different from the siblings' names if it had to change."""
    shown = printable(name)
    while shown != name and shown in siblings:
        shown += "~"
    return shown


def classify(path: Path, key: str, root: str, named: bool = False) -> File:
    """Classify a file by its name, else by its first bytes.

    Args:
        root: see `File.root`.
        named: the user listed it; it was not found in a folder.
    """
    if path.name.startswith(".") and not named:
        return File(key, path, status="skipped", reason="hidden file")
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return File(key, path, status="skipped", reason="not a regular file")
        size, suffix = info.st_size, path.suffix.lower()
        if suffix in FORMAT_OF_EXTENSION or suffix in READ_ONLY_EXTENSIONS:
            return File(key, path, size, is_picture=True, root=root)
        if suffix == ".parquet":
            return File(key, path, size, root=root)
        if reason := unread(path):
            return File(key, path, size, "failed", reason)
        with open(open_regular(path), "rb") as file:
            head = file.read(32)
    except OSError as error:
        return File(key, path, 0, "failed", f"cannot be read: {error.strerror}", passes=True)
    except Unreadable as error:  # reading it will show what it is
        return File(key, path, size, "", is_picture=error.passes, root=root)
    if is_postscript(head):
        return File(key, path, size, "failed", unread(Path("x.eps")))
    return File(key, path, size, is_picture=looks_like_image(head), root=root)


def is_shard(file: File) -> bool:
    """Return whether a listed file is parquet, by its name."""
    return file.status == "" and file.key.lower().endswith(".parquet")


def some(names: Iterable[str], most: int = 3) -> str:
    """Join a few names for a message."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
