"""Make the example pictures: portraits and group scenes of people who do not exist.

Every face is drawn by MobileStyleGAN, as packed in the `random-face` package. No photograph is
read. The script writes, under `people/` next to it (or under --out):

    portraits/person_NN.jpg    24 portraits, 384x384
    scenes/*.jpg               3 group scenes, 960x640
    scenes/video call/*.jpg    1 group scene, 960x640

It needs Python 3.11 or newer and these packages:

    python -m pip install numpy==2.4.6 opencv-python-headless==5.0.0.93 openvino==2026.4.1
    python -m pip install --no-deps random-face==2021.7.21.1

`--no-deps` because only the two networks inside random-face are used: its own code imports an
interface that this openvino no longer has, and its other dependencies are not needed here.

Run it from the repository root (about a minute on two cores):

    python examples/make_people.py

With --pool it makes other portraits instead, 256x256 and more varied, for `deid train` to take
strangers from (half a second each on one core):

    python examples/make_people.py --pool portraits --count 4000

Each person is one seed, and nothing else is random, so the same packages on the same kind of
processor give the same pictures. Another processor may round a pixel differently.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import openvino  # type: ignore[import-untyped]
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Colour: TypeAlias = tuple[int, int, int]  # blue, green, red
Portraits: TypeAlias = Callable[[int], Image]

STYLE_DIM = 512
MEAN_SAMPLES = 4096
TRUNCATION = 0.7  # 0 is the average face, 1 is the full variety, with more artefacts
PORTRAIT_SIZE = 384
POOL_TRUNCATION = 0.85
POOL_SIZE = 256
POOL_SEED = 1_000_000  # and those after it: none of the people above
SCENE_SIZE = (960, 640)
DRAWN_AT = 2  # scenes are drawn this many times larger, then shrunk, for smooth edges
JPEG_QUALITY = 88

# Chosen by eye from seeds 1 to 400, for variety and for the absence of artefacts.
PORTRAIT_SEEDS = (
    *(114, 310, 5, 314, 86, 370, 47, 98),
    *(32, 141, 227, 69, 269, 286, 49, 66),
    *(82, 383, 219, 91, 12, 139, 340, 328),
)


class Generator:
    """MobileStyleGAN: turns a seed into a 1024x1024 portrait."""

    def __init__(self) -> None:
        core = openvino.Core()
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        mapping = core.read_model(network_folder() / "MappingNetwork.xml")
        mapping.reshape([-1, STYLE_DIM])
        synthesis = core.read_model(network_folder() / "SynthesisNetwork.xml")
        self._mapping = core.compile_model(mapping, "CPU", config)
        self._synthesis = core.compile_model(synthesis, "CPU", config)
        self._mean = self._styles(0, MEAN_SAMPLES).mean(axis=0, keepdims=True)

    def _styles(self, seed: int, count: int) -> Floats:
        noise = np.random.default_rng(seed).standard_normal((count, STYLE_DIM))
        return np.asarray(self._mapping(noise.astype(np.float32))[0], dtype=np.float32)

    def portrait(self, seed: int, truncation: float = TRUNCATION) -> Image:
        style = self._mean + truncation * (self._styles(seed, 1) - self._mean)
        planes = np.asarray(self._synthesis(style)[0][0], dtype=np.float32)
        pixels = np.rint(np.clip((planes + 1) * 127.5, 0, 255)).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0)[:, :, ::-1])


def network_folder() -> Path:
    """The folder of random-face's networks, found without importing the package."""
    spec = importlib.util.find_spec("random_face")
    if spec is None or spec.origin is None:
        raise SystemExit("random-face is not installed: see the top of this script")
    return Path(spec.origin).parent / "data"


# --- drawing -----------------------------------------------------------------------------------


def resized(image: Image, width: int, height: int) -> Image:
    size = (width, height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def gradient(top: Colour, bottom: Colour) -> Image:
    """A canvas of the drawing size that runs from one colour to another."""
    width, height = (DRAWN_AT * side for side in SCENE_SIZE)
    ramp = np.linspace(0, 1, height)[:, None, None]
    column = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return np.ascontiguousarray(np.broadcast_to(column, (height, width, 3)).astype(np.uint8))


def blurred(mask: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma), dtype=np.float32)


def blend(canvas: Image, over: Image, alpha: Floats) -> None:
    """Paint `over` onto the canvas, in place, as strongly as `alpha` (0 to 1) says."""
    weight = alpha[:, :, None]
    canvas[:] = np.rint(canvas * (1 - weight) + over * weight).astype(np.uint8)


def box(canvas: Image, left: int, top: int, width: int, height: int, colour: Colour) -> None:
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), colour, -1)


def bordered(picture: Image, sides: tuple[int, int, int, int], colour: Colour) -> Image:
    """The picture with a plain border: above, below, left and right of it."""
    card = cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=colour)
    return np.asarray(card, dtype=np.uint8)


def pin(canvas: Image, card: Image, x: int, y: int, tilt: float) -> None:
    """Put a tilted card on the canvas, its middle at (x, y) scene pixels, above its shadow."""
    rows, columns = card.shape[:2]
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), tilt, 1.0)
    matrix = np.asarray(turn, dtype=np.float64)
    matrix[:, 2] += (x * DRAWN_AT - columns / 2, y * DRAWN_AT - rows / 2)
    alpha = moved_mask((rows, columns), matrix, canvas)
    below = matrix + np.array([[0, 0, 10], [0, 0, 14]])
    shadow = blurred(moved_mask((rows, columns), below, canvas), 14) * np.float32(0.45)
    blend(canvas, np.zeros_like(canvas), shadow)
    size = (canvas.shape[1], canvas.shape[0])
    blend(canvas, np.asarray(cv2.warpAffine(card, matrix, size), dtype=np.uint8), alpha)


def moved_mask(shape: tuple[int, int], matrix: NDArray[np.float64], canvas: Image) -> Floats:
    size = (canvas.shape[1], canvas.shape[0])
    mask = cv2.warpAffine(np.ones(shape, np.float32), matrix, size)
    return np.asarray(mask, dtype=np.float32)


def finished(canvas: Image) -> Image:
    return resized(canvas, *SCENE_SIZE)


@dataclass(frozen=True)
class Place:
    """Where a person's picture goes: its middle and its size in scene pixels, its tilt."""

    seed: int
    x: int
    y: int
    size: int
    tilt: float = 0.0
    colour: Colour = (250, 250, 250)


# --- a video call ------------------------------------------------------------------------------

VIDEO_CALL_SEEDS = (29, 42, 221, 153, 257, 103)


def video_call(portrait: Portraits) -> Image:
    """Six people in the tiles of a video call."""
    canvas = gradient((44, 38, 34), (30, 26, 24))
    for number, seed in enumerate(VIDEO_CALL_SEEDS):
        row, column = divmod(number, 3)
        draw_tile(canvas, portrait(seed), 40 + 620 * column, 60 + 530 * row, speaks=number == 1)
    for number in range(5):
        colour = (70, 70, 220) if number == 4 else (86, 80, 74)
        cv2.circle(canvas, (800 + 80 * number, 1195), 28, colour, -1, cv2.LINE_AA)
    return finished(canvas)


def draw_tile(canvas: Image, image: Image, left: int, top: int, speaks: bool) -> None:
    """A square portrait in a wide tile, over a blurred copy of itself, as video players do."""
    width, height = 600, 500
    wide = resized(image, width, width)[50 : 50 + height]
    tile = np.asarray(cv2.GaussianBlur(wide, (0, 0), 24), dtype=np.uint8)
    tile[:, 50 : 50 + height] = resized(image, height, height)
    canvas[top : top + height, left : left + width] = tile
    border = (90, 200, 120) if speaks else (70, 64, 60)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), border, 8, cv2.LINE_AA)


# --- a gallery wall ----------------------------------------------------------------------------

WALL = (
    Place(158, 155, 165, 220, -2.0, (38, 46, 62)),
    Place(52, 385, 130, 130, 1.5, (70, 110, 150)),
    Place(255, 650, 180, 260, -1.0, (40, 40, 40)),
    Place(206, 882, 120, 85, 3.0, (52, 70, 96)),
    Place(74, 140, 460, 130, 2.0, (60, 90, 128)),
    Place(216, 410, 462, 200, -1.5, (36, 36, 40)),
    Place(201, 760, 470, 180, 2.5, (52, 70, 96)),
)


def gallery_wall(portrait: Portraits) -> Image:
    """Framed portraits of several sizes on a wall, each hung a little askew."""
    canvas = gradient((206, 214, 216), (178, 190, 194))
    box(canvas, 0, 1220, canvas.shape[1], 60, (232, 236, 238))
    box(canvas, 0, 1216, canvas.shape[1], 4, (160, 168, 172))
    for place in WALL:
        pin(canvas, framed(portrait(place.seed), place), place.x, place.y, place.tilt)
    return finished(canvas)


def framed(image: Image, place: Place) -> Image:
    """The portrait with a pale mount and a frame around it."""
    side = place.size * DRAWN_AT
    mount, frame = max(10, side // 18), max(10, side // 24)
    card = bordered(resized(image, side, side), (mount, mount, mount, mount), (240, 244, 246))
    return bordered(card, (frame, frame, frame, frame), place.colour)


# --- prints on a table -------------------------------------------------------------------------

PRINTS = (
    Place(270, 165, 165, 220, -6.0),
    Place(371, 480, 155, 195, 4.0),
    Place(203, 790, 165, 225, 8.0),
    Place(214, 170, 480, 205, 5.0),
    Place(259, 490, 475, 225, -4.0),
    Place(155, 800, 485, 190, -7.0),
)


def prints(portrait: Portraits) -> Image:
    """Instant prints laid out on a wooden table."""
    canvas = gradient((70, 104, 142), (52, 82, 118))
    for top in range(0, canvas.shape[0], 214):
        box(canvas, 0, top, canvas.shape[1], 5, (40, 64, 94))
    for place in PRINTS:
        side = place.size * DRAWN_AT
        edge = side // 16
        card = resized(portrait(place.seed), side, side)
        card = bordered(card, (edge, side // 5, edge, edge), place.colour)
        pin(canvas, card, place.x, place.y, place.tilt)
    return finished(canvas)


# --- a team page -------------------------------------------------------------------------------

TEAM = (
    Place(322, 230, 280, 260),
    Place(101, 520, 180, 160),
    Place(164, 690, 180, 130),
    Place(355, 850, 180, 160),
    Place(178, 520, 430, 130),
    Place(154, 690, 430, 160),
    Place(76, 850, 430, 100),
)


def team_page(portrait: Portraits) -> Image:
    """Round portraits of several sizes above grey bars, like the page of a team."""
    canvas = gradient((250, 246, 240), (236, 226, 212))
    for place in TEAM:
        draw_round(canvas, portrait(place.seed), place)
        under = place.y + place.size // 2 + 18
        draw_bar(canvas, place.x, under, place.size * 2 // 3, (120, 104, 92))
        draw_bar(canvas, place.x, under + 18, place.size // 2, (196, 184, 172))
    return finished(canvas)


def draw_round(canvas: Image, image: Image, place: Place) -> None:
    side = place.size * DRAWN_AT
    left, top = place.x * DRAWN_AT - side // 2, place.y * DRAWN_AT - side // 2
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), side // 2 - 2, 255, -1, cv2.LINE_AA)
    alpha = mask.astype(np.float32) / np.float32(255)
    blend(canvas[top : top + side, left : left + side], resized(image, side, side), alpha)


def draw_bar(canvas: Image, x: int, y: int, width: int, colour: Colour) -> None:
    left, top = (x - width // 2) * DRAWN_AT, y * DRAWN_AT
    box(canvas, left, top, width * DRAWN_AT, 8 * DRAWN_AT, colour)


# --- writing -----------------------------------------------------------------------------------

SCENES: dict[str, Callable[[Portraits], Image]] = {
    "scenes/video call/six tiles.jpg": video_call,
    "scenes/gallery_wall.jpg": gallery_wall,
    "scenes/prints.jpg": prints,
    "scenes/team_page.jpg": team_page,
}


def write(path: Path, image: Image, quality: int = JPEG_QUALITY) -> None:
    """Save a JPEG. OpenCV writes the pixels only: no EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, (cv2.IMWRITE_JPEG_QUALITY, quality)):
        raise SystemExit(f"could not write {path}")
    print(path)


def write_pool(folder: Path, count: int) -> None:
    """Portraits for training, those that are there already left as they are."""
    generator = Generator()
    for seed in range(POOL_SEED, POOL_SEED + count):
        path = folder / f"{seed}.jpg"
        if not path.exists():
            picture = generator.portrait(seed, POOL_TRUNCATION)
            write(path, resized(picture, POOL_SIZE, POOL_SIZE), 95)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example pictures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "people")
    parser.add_argument("--pool", type=Path, help="make a pool of portraits here, nothing else")
    parser.add_argument("--count", type=int, default=4000, help="portraits of the pool")
    args = parser.parse_args()
    if args.pool is not None:
        write_pool(args.pool, args.count)
        return
    out: Path = args.out
    portrait = cache(Generator().portrait)
    for number, seed in enumerate(PORTRAIT_SEEDS, 1):
        picture = resized(portrait(seed), PORTRAIT_SIZE, PORTRAIT_SIZE)
        write(out / "portraits" / f"person_{number:02}.jpg", picture)
    for name, compose in SCENES.items():
        write(out / name, compose(portrait))


if __name__ == "__main__":
    main()
