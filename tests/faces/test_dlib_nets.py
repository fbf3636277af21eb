"""Parity of the torch networks with dlib's own, and what a result may depend on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as PILImage

from deidcli.faces.align import Image
from deidcli.faces.dlib_detector import (
    CnnDetection,
    DlibDetector,
    detect_cnn,
    load_detector,
    tile_layout,
)
from deidcli.faces.dlib_nets import DlibRecognizer, Rect, embed, load_recognizer
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_DETECTOR, DLIB_RECOGNIZER

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
PEOPLE = sorted((ROOT / "examples" / "people").rglob("*.jpg"))
needs_people = pytest.mark.skipif(not PEOPLE, reason="examples/people holds no pictures")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")


@pytest.fixture(scope="module")
def recognizer() -> DlibRecognizer:
    return load_recognizer()


@pytest.fixture(scope="module")
def detector() -> DlibDetector:
    return load_detector()


@pytest.fixture(scope="module")
def dlib_detector() -> Any:
    return dlib.cnn_face_detection_model_v1(str(pip_file(DLIB_DETECTOR)))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def read(path: Path) -> Image:
    return np.array(PILImage.open(path).convert("RGB"))


def resized(picture: Image, width: int) -> Image:
    height = round(picture.shape[0] * width / picture.shape[1])
    return np.array(PILImage.fromarray(picture).resize((width, height), PILImage.Resampling.BOX))


def celeba(count: int) -> list[Image]:
    """Pictures spread over CelebA's validation split."""
    [shard] = SHARED.glob("celeba/validation-*.parquet")
    column = pq.read_table(shard, columns=["image"])["image"]
    rows = np.linspace(0, len(column) - 1, count).astype(int).tolist()
    pictures = (PILImage.open(io.BytesIO(column[row].as_py()["bytes"])) for row in rows)
    return [np.array(picture.convert("RGB")) for picture in pictures]


def frames(folder: str, count: int, largest: int = 300_000) -> list[Image]:
    """The first pictures of a folder that have at most `largest` pixels: dlib is slow."""
    pictures = (read(path) for path in sorted((SHARED / "frames" / folder).glob("*.jpg")))
    return [picture for picture in pictures if picture.shape[0] * picture.shape[1] < largest][
        :count
    ]


def synthetic_chips(count: int) -> np.ndarray:
    """(count, 150, 150, 3) uint8: noise, a color ramp, flat black, weaker noise."""
    rng = np.random.default_rng(0)
    chips = rng.integers(0, 256, (count, 150, 150, 3)).astype(np.float64)
    chips *= np.linspace(1, 0.1, count)[:, None, None, None]
    chips[1] = np.linspace(0, 255, 150)[:, None] * np.array([1.0, 0.5, 0.2])
    chips[2] = 0
    return chips.astype(np.uint8)


def as_tensor(chips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255


def iou(a: Rect, b: Rect) -> float:
    def area(x0: int, y0: int, x1: int, y1: int) -> int:
        return max(0, x1 - x0 + 1) * max(0, y1 - y0 + 1)

    inner = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return inner / (area(*a) + area(*b) - inner)


def compare(ours: list[CnnDetection], theirs: Any) -> tuple[int, int, int]:
    """How many of dlib's detections there are, how many of them we have, and how many beside."""
    left = list(ours)
    matched = 0
    for det in theirs:
        box = (det.rect.left(), det.rect.top(), det.rect.right(), det.rect.bottom())
        for own in left:
            if iou(own.box, box) >= 0.95 and abs(own.score - det.confidence) <= 0.02:
                left.remove(own)
                matched += 1
                break
    return len(theirs), matched, len(left)


def total(
    pictures: list[Image], upsample: int, detector: DlibDetector, reference: Any
) -> tuple[int, int, int]:
    counts = [
        compare(detect_cnn(detector, picture, upsample), reference(picture, upsample))
        for picture in pictures
    ]
    found, matched, extra = np.sum(counts, axis=0).tolist()
    return found, matched, extra


def test_embeddings_are_dlibs(recognizer: DlibRecognizer) -> None:
    chips = synthetic_chips(5)
    reference = dlib.face_recognition_model_v1(str(pip_file(DLIB_RECOGNIZER)))
    expected = [reference.compute_face_descriptor(chip) for chip in chips]
    got = embed(recognizer, as_tensor(chips))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.array(expected), atol=1e-5)


@needs_people
def test_embeddings_of_portraits_are_dlibs(recognizer: DlibRecognizer) -> None:
    chips = np.stack(
        [np.array(PILImage.open(path).convert("RGB").resize((150, 150))) for path in PEOPLE[:4]]
    )
    reference = dlib.face_recognition_model_v1(str(pip_file(DLIB_RECOGNIZER)))
    expected = [reference.compute_face_descriptor(chip) for chip in chips]
    np.testing.assert_allclose(
        embed(recognizer, as_tensor(chips)).numpy(), np.array(expected), atol=1e-5
    )


def test_recognizer_has_the_right_gradient(recognizer: DlibRecognizer) -> None:
    chips = as_tensor(synthetic_chips(3)[:1]).requires_grad_()
    direction = recognizer(chips)[0].detach()
    (recognizer(chips)[0] @ direction).backward()
    assert chips.grad is not None
    gradient = chips.grad
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = recognizer(chips + step)[0], recognizer(chips - step)[0]
    predicted = 2 * 1e-2 * gradient.norm()
    torch.testing.assert_close((ahead - behind) @ direction, predicted, rtol=0.05, atol=0)
    assert all(parameter.grad is None for parameter in recognizer.parameters())


def test_embeddings_can_be_a_loss_target(recognizer: DlibRecognizer) -> None:
    chips = as_tensor(synthetic_chips(3))
    moving = chips.clone().requires_grad_()
    torch.nn.functional.cosine_similarity(
        recognizer(moving), embed(recognizer, chips)
    ).sum().backward()
    assert moving.grad is not None


@pytest.mark.parametrize("thread_count", [1, 2])
def test_an_embedding_ignores_the_chips_beside_it(
    recognizer: DlibRecognizer, threads: None, thread_count: int
) -> None:
    torch.set_num_threads(thread_count)
    chips = as_tensor(synthetic_chips(6))
    together = embed(recognizer, chips)
    alone = torch.cat([embed(recognizer, chip[None]) for chip in chips])
    backwards = embed(recognizer, chips.flip(0)).flip(0)
    assert torch.equal(together, alone)
    assert len({tuple(row) for row in together.tolist()}) == len(chips)
    assert torch.equal(together, backwards)
    torch.testing.assert_close(together, embed(recognizer, chips, 8), rtol=0, atol=1e-5)


def test_no_chips_give_no_embeddings(recognizer: DlibRecognizer) -> None:
    assert embed(recognizer, torch.zeros(0, 3, 150, 150)).shape == (0, 128)


@needs_people
@pytest.mark.parametrize("upsample", [0, 1])
def test_portraits_are_detected_as_by_dlib(
    detector: DlibDetector, dlib_detector: Any, upsample: int
) -> None:
    # 201 and 157 are no multiples of the network's stride, and odd.
    pictures = [resized(read(path), 201 if upsample == 0 else 157) for path in PEOPLE[:5]]
    found, matched, extra = total(pictures, upsample, detector, dlib_detector)
    assert found >= 3
    assert (matched, extra) == (found, 0)


def people_frame() -> Image:
    """Four portraits of several sizes on gray, two of them cut by the frame's edge."""
    frame = np.full((420, 560, 3), 110, np.uint8)
    places = [(0, 0, 260), (10, 300, 180), (240, 380, 240), (250, -30, 200)]
    for (top, left, side), path in zip(places, PEOPLE, strict=False):
        piece = resized(read(path), side)[: 420 - top, max(0, -left) : 560 - left]
        frame[top : top + piece.shape[0], max(0, left) : max(0, left) + piece.shape[1]] = piece
    return frame


@needs_people
def test_a_group_is_detected_as_by_dlib(detector: DlibDetector, dlib_detector: Any) -> None:
    frame = people_frame()
    ours = detect_cnn(detector, frame)
    found, matched, extra = compare(ours, dlib_detector(frame, 0))
    assert found >= 2
    assert (matched, extra) == (found, 0)
    assert [face.score for face in ours] == sorted((face.score for face in ours), reverse=True)


@needs_people
def test_a_detection_depends_on_its_picture_alone(detector: DlibDetector) -> None:
    frame = people_frame()
    before = detect_cnn(detector, frame)
    assert detect_cnn(detector, frame[..., ::-1].copy()[..., ::-1]) == before  # a view of BGR
    for path in PEOPLE[:3]:
        detect_cnn(detector, resized(read(path), 180), upsample=1)
    assert detect_cnn(detector, frame) == before


@needs_people
def test_scale_gives_boxes_in_frame_pixels(detector: DlibDetector) -> None:
    frame = people_frame()
    plain = detect_cnn(detector, frame)[0].box
    for options in ({"scale": 1.4}, {"scale": 0.8}, {"upsample": 1, "scale": 0.75}):
        boxes = [face.box for face in detect_cnn(detector, frame, **options)]  # type: ignore[arg-type]
        assert max(iou(box, plain) for box in boxes) > 0.7, options


def test_threshold_is_excluded_and_moves_the_count(detector: DlibDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    low = detect_cnn(detector, noise, threshold=-2.0)
    assert len(low) > 3
    cut = low[2].score
    high = detect_cnn(detector, noise, threshold=cut)
    assert high == low[:2]


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (8, 8)])
def test_a_picture_too_small_for_the_network_has_no_faces(
    detector: DlibDetector, size: tuple[int, int]
) -> None:
    assert detect_cnn(detector, np.zeros((*size, 3), np.uint8)) == []


@pytest.mark.parametrize("size", [(205, 200), (480, 640), (90, 40), (50, 300)])
def test_levels_lie_apart_inside_the_tile(size: tuple[int, int]) -> None:
    rects, height, width = tile_layout(*size)
    assert rects[0] == (11, 11, 10 + size[1], 10 + size[0])
    used = np.zeros((height, width), int)
    for left, top, right, bottom in rects:
        used[top : bottom + 1, left : right + 1] += 1
    assert used.max() == 1
    assert used.sum() == sum((r - x + 1) * (b - y + 1) for x, y, r, b in rects)


@needs_shared
def test_photographs_are_detected_as_by_dlib(detector: DlibDetector, dlib_detector: Any) -> None:
    pictures = celeba(7) + frames("wild", 2, largest=100_000) + frames("crowd", 1)
    found, matched, extra = total(pictures, 0, detector, dlib_detector)
    assert found >= 5
    assert (matched, extra) == (found, 0)


@needs_shared
@pytest.mark.slow
def test_a_hundred_photographs_are_detected_as_by_dlib(
    detector: DlibDetector, dlib_detector: Any
) -> None:
    faces = celeba(40)
    pictures = faces + frames("crowd", 24) + frames("wild", 26) + frames("dlib_faces", 10)
    counts = [total(pictures, 0, detector, dlib_detector)]
    counts.append(total(faces, 1, detector, dlib_detector))
    found, matched, extra = np.sum(counts, axis=0).tolist()
    assert found >= 100
    assert matched >= 0.99 * found
    assert extra <= 0.01 * found
