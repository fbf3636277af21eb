"""The pairs that a3gan learns from: where faces lie, how groups are drawn, what a batch holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align
from deidcli.generator.model import Generator
from deidcli.methods.a3gan import geometry, pair_batches, pairs
from deidcli.methods.a3gan.geometry import MARGIN_SIDE, PADDING, SIDE
from deidcli.methods.a3gan.pair_batches import Batch, Pairs
from deidcli.methods.a3gan.pairs import Components
from deidcli.methods.a3gan.settings import ATTRIBUTES, PRESETS

EDGE = (MARGIN_SIDE - SIDE) // 2
MALE = ATTRIBUTES.index("Male")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Where faces lie


def test_a_drawn_face_lies_in_its_chip_as_a_photographed_one_does() -> None:
    unit = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
    expected = align.apply_affine(unit, align.MEAN_FACE_5)
    for point, where in zip(geometry.DRAWN_LANDMARKS, expected, strict=True):
        picture = np.zeros((256, 256, 3), np.uint8)
        x, y = point.round().astype(int)
        picture[y - 4 : y + 5, x - 4 : x + 5] = 255
        chip = geometry.drawn_chip(picture)
        assert chip.shape == (MARGIN_SIDE, MARGIN_SIDE, 3) and chip.dtype == np.uint8
        light = chip[EDGE:-EDGE, EDGE:-EDGE, 0].astype(float)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        middle = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
        assert np.hypot(*(np.array(middle) - where)) < 2.5


def test_a_chip_is_mirrored_where_the_picture_ends() -> None:
    assert (geometry.drawn_chip(np.full((256, 256), 200, np.uint8)) == 200).all()


def test_a_chip_is_not_sampled_too_thinly() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    assert geometry.drawn_chip(stripes).astype(float).std() < 40


def test_the_middle_of_a_view_is_the_drawn_picture() -> None:
    share = np.zeros((192, 192), np.float32)
    share[32:96, 32:160] = 1  # its upper half
    found = geometry.drawn_side_of(share)
    assert found.shape == (256, 256) and found.dtype == np.uint8
    assert (found[2:126, 2:-2] == 255).all() and (found[130:] == 0).all()


def test_what_is_published_is_of_the_head_and_was_drawn() -> None:
    window = geometry.window()
    assert window.shape == (SIDE, SIDE) and window[64, 64] == 1 and window.max() == 1
    for rim in (window[0], window[-1], window[:, 0], window[:, -1], window[:12, :12]):
        assert not rim.any()
    unit = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
    for x, y in align.apply_affine(unit, align.MEAN_FACE_5).round().astype(int):
        assert window[y, x] == 1
    affine = align.chip_affine(geometry.DRAWN_LANDMARKS, SIDE, PADDING)
    rows, columns = np.nonzero(window)
    places = np.stack([columns, rows], 1).astype(float)
    drawn = align.apply_affine(align.invert(affine), places)
    assert drawn.min() > -1 and drawn.max() < 256


# --- Groups of pictures

WIDTH = 6
"""Numbers of a w in these tests."""
PARTS = torch.tensor([3.0, 2.0, 1.5, 1.0, 0.7, 0.5])
"""Deviations of a w's numbers."""


class Fake:
    """In the generator's place: w is scaled noise, and pictures show two of its numbers."""

    def __init__(self) -> None:
        self.drawn = torch.zeros(0, 23, WIDTH)

    def w_of(self, z: Tensor) -> Tensor:
        return z[:, :WIDTH] * PARTS + 5

    def draw(self, places: Tensor, side: int) -> Tensor:
        assert side == 256
        self.drawn = places
        shown = torch.stack([places[:, 0, 0], places[:, 5, 0], places[:, 5, 1]], 1) / 10 - 0.5
        return shown[:, :, None, None].expand(-1, -1, side, side).clone()

    def parts(self) -> tuple[Tensor, Tensor]:
        """The w of the pictures drawn last: of the picture, and of the person."""
        return self.drawn[:, 0], self.drawn[:, 5]

    def generator(self) -> Generator:
        return cast(Generator, self)


Said = Callable[[Tensor, Tensor], Tensor]
"""(own, person) w around their mean -> answers (N, 41)."""


def reading_of(fake: Fake, said: Said) -> pairs.Reading:
    def read(shown: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        own, person = (w - 5 for w in fake.parts())
        heads = np.full((len(shown), MARGIN_SIDE, MARGIN_SIDE), 255, np.uint8)
        assert len(shown) == len(own)
        return said(own, person).numpy().astype(np.float32), heads

    return read


def answers(own: Tensor, person: Tensor) -> Tensor:
    """Male is the person's first number, Bangs the picture's first, Young is always likely."""
    found = torch.zeros(len(own), 41)
    found[:, CELEBA_ATTRIBUTES.index("Male")] = person[:, 0] / 4
    found[:, CELEBA_ATTRIBUTES.index("Bangs")] = own[:, 0] / 4
    found[:, CELEBA_ATTRIBUTES.index("Young")] = 2
    found[:, 40] = person[:, 1] / 6
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BANK", 192)
    monkeypatch.setattr(pairs, "BLOCK", 8)
    monkeypatch.setattr(pairs, "CANDIDATES", 96)


def components_of(fake: Fake, folder: Path, count: int = WIDTH) -> Components:
    generator, reading = fake.generator(), reading_of(fake, answers)
    return pairs.learn_components(generator, reading, count, folder, 3)


def test_codes_are_in_units_of_the_deviation_along_each_axis() -> None:
    generator = Fake().generator()
    mean, axes = pairs.principal(generator, 4)
    assert mean.shape == (WIDTH,) and axes.shape == (4, WIDTH)
    torch.testing.assert_close(mean, torch.full((WIDTH,), 5.0), atol=0.2, rtol=0)
    torch.testing.assert_close(axes.norm(dim=1), PARTS[:4], atol=0.1, rtol=0)
    codes = torch.randn(7, 4)
    torch.testing.assert_close(pairs.code_of(mean + codes @ axes, mean, axes), codes)
    drawn = pairs.truncated_codes(generator, mean, axes, 4000, seeded())
    torch.testing.assert_close(drawn.std(0), torch.full((4,), 0.85), atol=0.04, rtol=0)


def test_what_counts_is_clipped_and_age_weighs_twice() -> None:
    found = np.zeros((1, 41), np.float32)
    for name, value in (("Bangs", 1.5), ("Young", -9.0), ("No_Beard", 7.0), ("Attractive", 5.0)):
        found[0, CELEBA_ATTRIBUTES.index(name)] = value
    found[0, 40] = 1.25
    said = pairs.interesting(found)[0]
    assert said.tolist() == [1.5, *[0] * 8, -3, *[0] * 5, 3, 2.5]


@pytest.mark.usefixtures("small")
def test_it_is_learned_what_a_mix_would_be_read_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "RIDGE", 1e-3)
    fake = Fake()
    learned = components_of(fake, tmp_path)
    own, person = torch.randn(1, WIDTH), torch.randn(9, WIDTH)
    found = learned.read(own, person)
    expected = pairs.interesting(
        answers(learned.w_of(own).expand(9, -1) - 5, learned.w_of(person) - 5).numpy()
    )
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


@pytest.mark.usefixtures("small")
def test_what_is_read_always_needs_no_code(tmp_path: Path) -> None:
    learned = components_of(Fake(), tmp_path)
    nobody = torch.zeros(1, WIDTH)
    young = learned.read(nobody, nobody)[0, ATTRIBUTES.index("Young")]
    assert float(young) == pytest.approx(2, abs=0.01), "the ridge is not on the constant"


@pytest.mark.usefixtures("small")
def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    fake = Fake()
    first = components_of(fake, tmp_path)
    fake.drawn = torch.zeros(0)
    again = components_of(fake, tmp_path)
    assert not len(fake.drawn), "nothing was drawn again"
    for one, other in zip(vars(first).values(), vars(again).values(), strict=True):
        assert torch.equal(one, other)


def test_telling_directions_are_those_of_the_persons_code() -> None:
    random = seeded()
    own, person = torch.randn(5, 2, generator=random), torch.randn(5, 2, generator=random)
    slopes = torch.cat([torch.ones(1, 2), own, person])
    basis = Components(torch.zeros(9), torch.zeros(5, 9), slopes).telling()
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis @ (basis.T @ person), person, atol=1e-5, rtol=0)
    assert float((basis @ (basis.T @ own) - own).norm()) > 0.5


def test_a_picture_has_the_person_of_another() -> None:
    fake = Fake()
    own, person = torch.full((2, WIDTH), -30.0), torch.full((2, WIDTH), 30.0)
    drawn = pairs.draw(fake.generator(), own, person)
    assert [picture.shape for picture in drawn] == [(256, 256, 3)] * 2
    assert drawn[0][0, 0].tolist() == [0, 255, 255] and drawn[0].dtype == np.uint8


def test_masks_hold_the_presets_as_often_as_is_said() -> None:
    random = seeded()
    masks = torch.stack([pairs.drawn_mask(random) for _ in range(4000)])
    assert set(masks.flatten().tolist()) == {0.0, 1.0}

    def share(names: tuple[str, ...]) -> float:
        wanted = torch.tensor([float(name in names) for name in ATTRIBUTES])
        return float((masks == wanted).all(1).float().mean())

    drawn, empty = 1 - sum(pairs.OWN_MASKS), 0.7**10
    assert share(()) == pytest.approx(0.35 + drawn * empty, abs=0.03)
    assert share(("Male",)) == pytest.approx(0.2 + drawn * empty * 3 / 7, abs=0.03)
    for preset in ("3", "5", "10"):
        assert share(PRESETS[preset]) == pytest.approx(0.05, abs=0.02)
    bangs = float(masks[:, 0].mean())
    assert bangs == pytest.approx(0.05 + drawn * 0.3, abs=0.03)


def by_hand(slopes: dict[tuple[int, int], float]) -> Components:
    """Components that are the w's own numbers; slopes[k, attribute] of a person's code."""
    table = torch.zeros(1 + 2 * WIDTH, len(pairs.READ) + 1)
    for (number, attribute), value in slopes.items():
        table[1 + WIDTH + number, attribute] = value
    return Components(torch.full((WIDTH,), 5.0), torch.diag(PARTS), table)


MEN = by_hand({(0, MALE): 1.5, (1, 0): 1.5})
"""The first number of a code says who is male, the second who has bangs."""


def a_block(index: int = 0, seed: int = 1) -> pairs.Block:
    fake = Fake()
    return pairs.draw_block(fake.generator(), reading_of(fake, answers), MEN, seed, index)


@pytest.mark.usefixtures("small")
def test_a_group_is_one_picture_with_four_people() -> None:
    block = a_block()
    assert block.pictures.shape == (8, 4, MARGIN_SIDE, MARGIN_SIDE, 3)
    assert block.heads.shape == (8, 4, MARGIN_SIDE, MARGIN_SIDE)
    assert block.codes.shape == (8, 4, WIDTH) and block.answers.shape == (8, 4, 41)
    colors = block.pictures[:, :, 72, 72].astype(int)
    assert (colors[:, :, 0] == colors[:, :1, 0]).all(), "the picture's own w"
    assert len(set(colors[:, 0, 0].tolist())) > 4
    w = 5 + torch.from_numpy(block.codes) * PARTS
    shown = ((w[..., :2] / 10 + 0.5) * 127.5).round().clamp(0, 255).numpy()
    np.testing.assert_allclose(colors[:, :, 1:], shown, atol=1)
    np.testing.assert_allclose(colors[:, 0, 0], shown[:, 0, 0], atol=1)
    male = block.answers[..., CELEBA_ATTRIBUTES.index("Male")]
    np.testing.assert_allclose(male, block.codes[..., 0] * 3 / 4, atol=1e-4)


@pytest.mark.usefixtures("small")
def test_blocks_differ_and_come_again() -> None:
    one, again, next_one, other = a_block(), a_block(), a_block(index=1), a_block(seed=2)
    assert all(np.array_equal(vars(one)[name], vars(again)[name]) for name in vars(one))
    for different in (next_one, other):
        assert not np.isclose(one.codes, different.codes).any()


@pytest.mark.usefixtures("small")
def test_the_others_differ_where_the_mask_says(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(10)
    mask[MALE] = 1
    monkeypatch.setattr(pairs, "drawn_mask", lambda random: mask)
    codes = torch.from_numpy(a_block().codes)
    male, bangs = codes[..., 0] * 1.5, codes[..., 1] * 1.5
    wanted = -torch.sign(male[:, :1]) * male[:, :1].abs().clamp(1, 3)
    assert float((male[:, 1:] - wanted).abs().median()) < 0.3
    assert (male[:, 1:] * male[:, :1] < 0).all(), "even where it was hardly so"
    assert float((bangs[:, 1:] - bangs[:, :1]).abs().median()) < 0.3
    mask[MALE] = 0
    codes = torch.from_numpy(a_block().codes)
    assert float((codes[:, 1:, 0] - codes[:, :1, 0]).abs().median()) < 0.25


@pytest.mark.usefixtures("small")
def test_blocks_that_are_there_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, drawn = Fake(), []
    whole = pairs.draw_block

    def spy(*given: Any) -> pairs.Block:
        drawn.append(given[-1])
        return whole(*given)

    monkeypatch.setattr(pairs, "draw_block", spy)

    def gather(blocks: int) -> Components:
        reading = reading_of(fake, answers)
        return pairs.draw_pairs(fake.generator(), reading, WIDTH, blocks, tmp_path, 1)

    first = gather(1)
    left = pairs.block_path(tmp_path, 0)
    before = left.stat().st_mtime_ns
    gather(3)
    assert drawn == [0, 1, 2] and left.stat().st_mtime_ns == before
    files = [path.name for path in sorted(tmp_path.iterdir())]
    assert files == [*(f"block-0000{n}.npz" for n in range(3)), "components.npz"]
    assert len(Pairs(tmp_path, 3, first)) == 3 * 8 * 12


# --- Batches

CODES = 5
TELLING = Components(
    torch.zeros(9),
    torch.zeros(CODES, 9),
    torch.cat([torch.ones(1 + CODES, 1), torch.eye(CODES)[:, :1]]),
)
"""The first number of a code tells attributes."""


def pairs_of(
    folder: Path,
    pictures: np.ndarray,
    heads: np.ndarray | int = 255,
    codes: np.ndarray | None = None,
    answers: np.ndarray | None = None,
) -> Pairs:
    """Pairs of groups (G, 4, M, M, 3), one block each."""
    groups = len(pictures)
    shape = (groups, 4, MARGIN_SIDE, MARGIN_SIDE)
    arrays = {
        "pictures": np.broadcast_to(pictures, (*shape, 3)).astype(np.uint8),
        "heads": np.broadcast_to(heads, shape).astype(np.uint8),
        "codes": np.zeros((groups, 4, CODES), np.float32) if codes is None else codes,
        "answers": np.zeros((groups, 4, 41), np.float32) if answers is None else answers,
    }
    for index in range(groups):
        block = {name: value[index : index + 1] for name, value in arrays.items()}
        np.savez(pairs.block_path(folder, index), **block)  # type: ignore[arg-type]
    return Pairs(folder, groups, TELLING)


def numbered(groups: int = 2) -> np.ndarray:
    """A flat gray of its own for each picture: 10, 20, ..."""
    return 10 * np.arange(1, 1 + groups * 4).reshape(groups, 4, 1, 1, 1)


def every(of: Pairs, vary: bool = False, seed: int = 0) -> Batch:
    return of.batch(torch.arange(len(of)), seeded(seed), "cpu", vary)


def test_all_members_of_a_group_are_paired_in_either_order(tmp_path: Path) -> None:
    found = pairs_of(tmp_path, numbered())
    assert len(found) == 24
    batch = every(found)
    assert batch.source.shape == (24, 3, SIDE, SIDE) and batch.head.shape == (24, 1, SIDE, SIDE)
    first, second = (
        (x[:, 0, 64, 64] * 25.5).round().int() - 1 for x in (batch.source, batch.target)
    )
    seen = set(zip(first.tolist(), second.tolist(), strict=True))
    wanted = {(a, b) for a in range(8) for b in range(8) if a != b and a // 4 == b // 4}
    assert seen == wanted


def labels(**values: list[float]) -> np.ndarray:
    """Answers of one group of four."""
    found = np.zeros((1, 4, 41), np.float32)
    for name, four in values.items():
        found[0, :, CELEBA_ATTRIBUTES.index(name)] = four
    return found


def test_the_mask_says_what_differs_and_surely(tmp_path: Path) -> None:
    said = labels(Male=[2, -2, 3, 0.2], Young=[0.6, -0.6, 0.4, -0.3], Smiling=[9, -9, 9, -9])
    batch = every(pairs_of(tmp_path, numbered(1), answers=said))
    expected: dict[str, list[float]] = {"Male": [], "Young": []}
    for first in range(4):
        for second in ((first + k) % 4 for k in (1, 2, 3)):
            for name, found in expected.items():
                a, b = said[0, [first, second], CELEBA_ATTRIBUTES.index(name)]
                found.append(float((a < 0) != (b < 0) and abs(a - b) >= 1))
    for name, column in expected.items():
        assert batch.mask[:, ATTRIBUTES.index(name)].tolist() == column
        assert 0 < sum(column) < 12
    others = [ATTRIBUTES.index(n) for n in ATTRIBUTES if n not in expected]
    assert not batch.mask[:, others].any()


def test_present_is_what_the_source_has(tmp_path: Path) -> None:
    said = labels(Male=[2, -2, 3, -1], Young=[-1, -1, -1, 1])
    batch = every(pairs_of(tmp_path, numbered(1), answers=said))
    assert batch.present[:, MALE].tolist() == [1] * 3 + [0] * 3 + [1] * 3 + [0] * 3
    assert batch.present[:, ATTRIBUTES.index("Young")].tolist() == [0] * 9 + [1] * 3


def test_the_latent_is_the_other_persons_without_what_tells_attributes(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(12, 4, CODES)).astype(np.float32)
    found = pairs_of(tmp_path, numbered(12) % 250, codes=codes)
    batch, again = every(found), every(found, seed=1)
    second = [(f + k) % 4 for f in range(4) for k in (1, 2, 3)]
    wanted = torch.from_numpy(codes[:, second].reshape(-1, CODES)) / pairs.TRUNCATION
    torch.testing.assert_close(batch.latent[:, 1:], wanted[:, 1:])
    noise = batch.latent[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([noise, wanted[:, 0]]))[0, 1])) < 0.3
    assert float(noise.mean()) == pytest.approx(0, abs=0.3)
    assert float(noise.std()) == pytest.approx(1, abs=0.2)
    assert not torch.isclose(noise, again.latent[:, 0]).any()


def test_outside_of_both_heads_the_target_is_the_source(tmp_path: Path) -> None:
    heads = np.zeros((1, 4, MARGIN_SIDE, MARGIN_SIDE), np.uint8)
    heads[0, 0, :, :48] = 255  # the first one's head
    heads[0, 1:, :, -48:] = 255  # the others'
    batch = every(pairs_of(tmp_path, numbered(1), heads))
    source, target, head = batch.source[0], batch.target[0], batch.head[0]
    assert torch.equal(head[0, 0], torch.tensor([1.0] * 40 + [0.0] * 48 + [1.0] * 40))
    assert torch.equal(target[:, :, 40:-40], source[:, :, 40:-40])
    for place in (slice(0, 40), slice(-40, None)):
        assert torch.allclose(target[:, :, place], torch.tensor(20 / 255))
    assert torch.allclose(source, torch.tensor(10 / 255))


def test_the_outline_of_a_head_is_soft(tmp_path: Path) -> None:
    heads = np.zeros((1, 4, MARGIN_SIDE, MARGIN_SIDE), np.uint8)
    heads[..., :48, :], heads[..., 48:96, :], heads[..., 96:, :] = 76, 140, 205
    batch = every(pairs_of(tmp_path, numbered(1), heads))
    column = batch.head[0, 0, [10, 64, 120], 0]
    torch.testing.assert_close(column, torch.tensor([0, 0.5, 1]), atol=0.01, rtol=0)
    mixed = batch.target[0, 0, 64, 0] * 255
    assert float(mixed) == pytest.approx(15, abs=0.2)


def scene() -> np.ndarray:
    """A bright disk on a ramp (1, 4, M, M, 3), without a line that mirrors it."""
    rows, columns = np.mgrid[:MARGIN_SIDE, :MARGIN_SIDE]
    picture = np.stack([60 + columns / 2, 60 + rows / 2, 0 * rows + 90], 2)
    picture[np.hypot(rows - 60, columns - 80) < 20] = (220, 90, 90)
    return picture[None, None].repeat(4, 1)


def test_source_and_target_vary_alike(tmp_path: Path) -> None:
    """Where both are one picture, only the source's noise tells them apart."""
    found = pairs_of(tmp_path, scene())
    batch, plain = every(found, vary=True), every(found)
    difference = (batch.source - batch.target).abs()
    assert float(difference.max()) < 0.15 and float(difference.mean((1, 2, 3)).max()) < 0.03
    clean = difference.amax((1, 2, 3)) == 0
    assert 0 < int(clean.sum()) < 12, "some are without noise"
    moved = (batch.target - plain.target).abs().mean((1, 2, 3))
    assert float(moved.min()) > 0.005
    for values in (batch.source, batch.target):
        assert float(values.min()) >= 0 and float(values.max()) <= 1
        assert values.is_contiguous(memory_format=torch.channels_last)
    again, other = every(found, vary=True), every(found, vary=True, seed=1)
    assert torch.equal(batch.source, again.source)
    assert not torch.equal(batch.source, other.source)


def test_noise_is_in_the_source_alone(tmp_path: Path) -> None:
    batch = every(pairs_of(tmp_path, np.full((4, 1, 1, 1, 1), 128)), vary=True)
    deviation = [x.std((2, 3)).mean(1) for x in (batch.source, batch.target)]
    assert float(deviation[1].max()) < 1e-5 and 0.01 < float(deviation[0].max()) < 0.03
    quiet = float((deviation[0] < 1e-5).float().mean())
    assert 0.15 < quiet < 0.65


def test_heads_move_with_their_pictures(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:MARGIN_SIDE, :MARGIN_SIDE]
    disk = (np.hypot(rows - 60, columns - 80) < 20) * 255
    picture = np.repeat(disk[None, None, :, :, None], 4, 1)
    batch = every(pairs_of(tmp_path, picture, disk), vary=True)
    bright = batch.target[:, 0] > batch.target[:, 0].mean((1, 2), keepdim=True)
    head = batch.head[:, 0] > 0.5
    assert float((bright == head).float().mean()) > 0.98
    assert float((bright & head).sum() / bright.sum()) > 0.95


def ramps() -> Tensor:
    """(400, 2, M, M): x and y of each pixel, from the middle, in half sides of the picture."""
    line = (torch.arange(MARGIN_SIDE) + 0.5) / MARGIN_SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y]).expand(400, -1, -1, -1)


def test_pairs_are_turned_scaled_shifted_and_mirrored_a_little() -> None:
    moved = pair_batches._moved(ramps(), seeded(), vary=True)
    assert moved.shape == (400, 2, SIDE, SIDE)
    middle = moved[:, :, 63:65, 63:65].mean((2, 3))
    step = SIDE / MARGIN_SIDE / 64  # of a chip's px, unscaled
    across = (moved[:, :, 64, 80] - moved[:, :, 64, 48]) / 32 / step
    down = (moved[:, :, 80, 64] - moved[:, :, 48, 64]) / 32 / step
    mirrored = across[:, 0] < 0
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    across[mirrored] *= -1
    for found in (across.norm(dim=1), down.norm(dim=1)):
        assert 0.919 < float(found.min()) < 0.94 and 1.06 < float(found.max()) < 1.081
    torch.testing.assert_close(across.norm(dim=1), down.norm(dim=1), atol=1e-3, rtol=0)
    assert float((across * down).sum(1).abs().max()) < 1e-3, "no shear"
    turn = torch.atan2(across[:, 1], across[:, 0])
    assert -0.101 < float(turn.min()) < -0.08 and 0.08 < float(turn.max()) < 0.101
    assert float(middle.abs().max()) < 0.031 and float(middle.abs().amax(0).min()) > 0.025


def test_unvaried_chips_are_the_middle() -> None:
    given = ramps()[:2]
    found = pair_batches._moved(given, seeded(), vary=False)
    assert torch.equal(found, given[:, :, EDGE:-EDGE, EDGE:-EDGE])


def test_light_color_and_softness_vary() -> None:
    flat = torch.full((60, 3, SIDE, SIDE), 0.5)
    _, light = pair_batches._as_photographed(flat, flat, seeded())
    shades = light.mean((2, 3))
    assert 0.4 < float(shades.mean()) < 0.6 and float(shades.mean(1).std()) > 0.03
    assert float(shades.std(1).mean()) > 0.01, "a tint"
    fine = torch.zeros(60, 3, SIDE, SIDE)
    fine[..., ::2] = 1
    _, found = pair_batches._as_photographed(fine * 0.4 + 0.3, fine * 0.4 + 0.3, seeded())
    contrast = (found[..., 1:] - found[..., :-1]).abs().mean((1, 2, 3))
    assert float(contrast.min()) < 0.6 * float(contrast.max())
    red = flat * torch.tensor([1.4, 0.6, 0.6]).view(1, 3, 1, 1)
    _, dull = pair_batches._as_photographed(red, red, seeded())
    spread = (dull[:, 0] - dull[:, 1]).mean((1, 2))
    assert float(spread.min()) < 0.65 * float(spread.max())


def test_a_batch_is_of_the_rows_asked_for(tmp_path: Path) -> None:
    found = pairs_of(tmp_path, numbered())
    whole = every(found)
    some = found.batch(torch.tensor([17, 3]), seeded(), "cpu", False)
    for name in ("source", "target", "head", "mask", "present"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[[17, 3]]), name
    assert {field.name for field in dataclasses.fields(Batch)} == {*vars(some)}


def test_a_veiled_source_shows_no_detail_in_the_head_and_all_around_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (1, 4, MARGIN_SIDE, MARGIN_SIDE, 3))
    heads = np.zeros((1, 4, MARGIN_SIDE, MARGIN_SIDE), np.uint8)
    heads[..., :, :72] = 255
    of = pairs_of(tmp_path, pictures, heads)
    whole, veiled = (
        of.batch(torch.arange(12), seeded(), "cpu", True, veil=share) for share in (0.0, 1.0)
    )
    torch.testing.assert_close(whole.target, veiled.target)
    inside, outside = (
        whole.head.expand_as(whole.source) == 1,
        whole.head.expand_as(whole.source) == 0,
    )
    torch.testing.assert_close(whole.source[outside], veiled.source[outside])
    assert float(veiled.source[inside].std()) < 0.4 * float(whole.source[inside].std())
    some = of.batch(torch.arange(12), seeded(), "cpu", True, veil=0.5)
    same = (some.source == whole.source).flatten(1).all(1)
    assert 0 < int(same.sum()) < 12


def test_some_veils_are_twice_as_coarse(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (1, 4, MARGIN_SIDE, MARGIN_SIDE, 3))
    heads = np.full((1, 4, MARGIN_SIDE, MARGIN_SIDE), 255, np.uint8)
    of = pairs_of(tmp_path, pictures, heads)

    def sources(veil: float, coarse: float) -> torch.Tensor:
        batch = of.batch(torch.arange(12), seeded(), "cpu", False, veil=veil, coarse=coarse)
        return batch.source

    whole, fine, wide = sources(0, 1), sources(1, 0), sources(1, 1)
    everywhere = torch.ones(1, 1, 1, 1)
    torch.testing.assert_close(fine, geometry.veiled(whole, everywhere, 8))
    torch.testing.assert_close(wide, geometry.veiled(whole, everywhere, 16))
    some = sources(1, 0.5)
    kinds = [(some == one).flatten(1).all(1) for one in (fine, wide)]
    assert kinds[0].any() and kinds[1].any() and (kinds[0] ^ kinds[1]).all()


def test_source_and_target_are_as_soft_as_each_other(tmp_path: Path) -> None:
    one = np.random.default_rng(0).integers(60, 190, (1, 1, MARGIN_SIDE, MARGIN_SIDE, 3))
    of = pairs_of(tmp_path, np.repeat(one, 4, 1))
    batch = of.batch(torch.arange(12), seeded(), "cpu", True)
    assert float((batch.source - batch.target).abs().mean((1, 2, 3)).max()) < 0.025, "noise"
    contrast = batch.target.std((1, 2, 3))
    assert float(contrast.max()) > 1.3 * float(contrast.min()), "and not all alike"
