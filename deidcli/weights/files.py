"""Find and verify the files that pip installed: opened by path, never imported."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from functools import cache
from importlib import metadata
from pathlib import Path

from deidcli.errors import DeidError
from deidcli.weights.pip_files import PipFile


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_folder() -> Path:
    """Return the folder for archives from `pip download`: $DEID_CACHE or ~/.cache/deid."""
    return Path(os.environ.get("DEID_CACHE") or Path.home() / ".cache" / "deid")


def _unpacked(entry: PipFile) -> Path:
    """Return the path of a file of an archive in `download_folder()`, unpacked beside it once.

    An interrupted or altered copy is unpacked again, since only the right bytes are kept.
    """
    archive = download_folder() / entry.sdist
    path = download_folder() / Path(entry.path).name
    if path.is_file() and file_sha256(path) == entry.sha256:
        return path
    if not archive.is_file():
        raise DeidError(f"the weights {entry.name} are not installed", entry.command)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with tarfile.open(archive) as tar, part.open("wb") as file:
            member = tar.extractfile(entry.path)
            assert member is not None  # KeyError where there is none; None for a folder
            shutil.copyfileobj(member, file)
        part.replace(path)
    except (KeyError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DeidError(f"{entry.sdist} is not what PyPI holds: {error}", entry.command) from None
    finally:
        part.unlink(missing_ok=True)
    return path


@cache
def pip_file(entry: PipFile) -> Path:
    """Return the path of a weight file that pip installed, its sha256 checked once a process.

    Raises:
        DeidError: the package is not installed, the file is not in it, or its bytes differ.
    """
    path = _unpacked(entry) if entry.sdist else _installed(entry)
    if file_sha256(path) != entry.sha256:
        raise DeidError(
            f"the bytes of {entry.name} are not those of {entry.package} {entry.version}",
            entry.command or f"pip install --force-reinstall {entry.package}=={entry.version}",
        )
    return path


def _installed(entry: PipFile) -> Path:
    target = f'"deidcli[{entry.extra}]"' if entry.extra else f"{entry.package}=={entry.version}"
    try:
        distribution = metadata.distribution(entry.package)
    except metadata.PackageNotFoundError:
        raise DeidError(
            f"the weights {entry.name} are not installed",
            entry.command or f"pip install {target}",
        ) from None
    path = Path(str(distribution.locate_file(entry.path)))
    if not path.is_file():
        raise DeidError(
            f"{entry.package} {distribution.version} holds no {entry.path}",
            f"pip install --force-reinstall {target}",
        )
    return path
