"""The parts of `surrogate` that need no package: what is passed on, the fit, the laying in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deidcli.faces.align import Image
from deidcli.faces.segmenter import (
    CLASSES,
    CLOTHES,
    FACE,
    GROUND,
    HAIR,
    NECK,
    OCCLUDER,
    refined,
)
from deidcli.methods.surrogate import grain, heads, laying, view
from deidcli.methods.surrogate import search as searching
from deidcli.methods.surrogate.description import (
    LEVELS,
    NAMES,
    PARTS,
    columns_of,
    fields_of,
    passed_on,
)
from deidcli.methods.surrogate.laying import Parts
from deidcli.methods.surrogate.networks import DESCRIPTOR, Predictor

Floats = NDArray[np.float32]
FIELDS = fields_of(PARTS, ())
SIDE = 96


# --- The description.


def numbers(**given: float) -> Floats:
    found = np.zeros((1, len(NAMES)), np.float32)
    for name, value in given.items():
        found[0, NAMES.index(name)] = value
    return found


def said(given: Floats, name: str) -> float:
    column = [field.name for field in FIELDS].index(name)
    return float(passed_on(given, FIELDS)[0, column])


def test_people_who_are_a_little_different_share_what_is_passed_on() -> None:
    one = numbers(age=28, skin_l=56, skin_a=10, skin_b=10, hair_l=32, hair_a=6, hair_b=9)
    other = numbers(age=32.5, skin_l=64, skin_a=14, skin_b=14, hair_l=48, hair_a=14, hair_b=19)
    for given, share, answer in ((one, 0.12, 4.0), (other, 0.28, 9.0)):
        for name in ("hair_top", "head_left", "head_right"):
            given[0, NAMES.index(name)] = share
        for name in ("hair_left", "hair_right"):
            given[0, NAMES.index(name)] = 1.8 * share
        for name in ("Male", "Eyeglasses"):
            given[0, NAMES.index(name)] = answer
    lasting = [
        f.name for f in FIELDS if f.part in ("sex", "age", "glasses", "beard", "hair", "skin")
    ]
    assert [said(one, name) for name in lasting] == [said(other, name) for name in lasting]
    assert said(one, "hair_left") == pytest.approx(0.34)
    assert said(numbers(age=30.5), "age") != said(numbers(age=40.0), "age")


def test_answers_have_four_levels() -> None:
    levels = {said(numbers(Male=value), "Male") for value in (-20, -2, -0.5, 0.5, 1.0, 2, 30)}
    assert levels == {-LEVELS[1], -LEVELS[0], LEVELS[0], LEVELS[1]}


def test_what_the_generator_cannot_draw_is_clipped() -> None:
    assert said(numbers(yaw=80), "yaw") == 45
    assert said(numbers(mouth_open=-1), "mouth_open") == 0


def test_parts_and_attributes_choose_the_fields() -> None:
    assert {field.name for field in fields_of(("pose",), ())} == {"yaw", "pitch"}
    assert "Big_Nose" not in {field.name for field in FIELDS}
    assert "Big_Nose" in {field.name for field in fields_of(("pose",), ("Big_Nose",))}
    assert len(fields_of(("sex",), ("Male",))) == 1
    assert list(columns_of(fields_of(("sex",), ()))) == [NAMES.index("Male")]


# --- The search.


@pytest.fixture(scope="module")
def search() -> searching.Search:
    """With a small random predictor and noise for w."""
    torch.manual_seed(0)
    predictor = Predictor(hidden=32)
    count = len(NAMES) + DESCRIPTOR
    with torch.no_grad():
        for part in predictor.parameters():
            part.normal_(0, 0.05)
    predictor.w_mean.zero_()
    predictor.w_deviation.fill_(1)
    predictor.covariance.copy_(torch.eye(512))
    predictor.center.copy_(torch.zeros(count))
    predictor.deviation.copy_(torch.ones(count))
    predictor.deviation[-DESCRIPTOR:] = 0.05
    predictor.doubt.fill_(0.01)
    predictor.prepare()
    predictor.eval().requires_grad_(False)
    generator: Any = SimpleNamespace(w_of=lambda z, truncation: truncation * z)
    return searching.Search(generator, predictor, FIELDS)


def wanted_of(search: searching.Search, seed: int = 5) -> searching.Wanted:
    """What somebody else is read as; the descriptor is far away."""
    w = search.candidates(seed, 1)
    read = search.predictor(search.predictor.normal(w))[0].numpy()
    return search.wanted(read[: len(NAMES)], np.full(DESCRIPTOR, 0.3, np.float32))


def misfit(search: searching.Search, wanted: searching.Wanted, w: torch.Tensor) -> float:
    read = search.predictor(search.predictor.normal(w))
    read = (read * search.predictor.deviation + search.predictor.center).numpy()
    return search.misfit(wanted, read[: len(NAMES)], read[len(NAMES) :])


def test_the_slopes_are_the_predictors(search: searching.Search) -> None:
    w = torch.randn(512)
    slopes, values = search.predictor.jacobian(w)
    expected = torch.autograd.functional.jacobian(lambda x: search.predictor(x[None])[0], w)
    assert torch.allclose(slopes, expected, atol=1e-5)
    assert torch.allclose(values, search.predictor(w[None])[0], atol=1e-5)


def test_a_fit_brings_somebody_nearer(search: searching.Search) -> None:
    wanted = wanted_of(search)
    person = search.people(wanted, 1, 1)[0]
    fitted = search.fit(wanted, person, person)
    assert misfit(search, wanted, fitted) < 0.3 * misfit(search, wanted, person)


def test_the_best_come_first_and_a_seed_decides_them(search: searching.Search) -> None:
    wanted = wanted_of(search)
    people = search.people(wanted, 1, 20)
    found = [misfit(search, wanted, w) for w in people]
    assert np.allclose(found, sorted(found), rtol=1e-4)
    assert torch.equal(people, search.people(wanted, 1, 20))
    assert not (search.candidates(2) == people[0]).all(1).any()


def test_one_person_is_the_same_whatever_a_picture_shows(search: searching.Search) -> None:
    far = np.full(DESCRIPTOR, 0.3, np.float32)
    one = search.wanted(numbers(Male=6, yaw=20, age=20)[0], far)
    other = search.wanted(numbers(Male=6, yaw=-20, age=60)[0], far)
    woman = search.wanted(numbers(Male=-6, yaw=20, age=20)[0], far)
    assert torch.equal(search.one_person(one, 3), search.one_person(other, 3))
    assert not torch.equal(search.one_person(one, 3), search.one_person(woman, 3))
    assert not torch.equal(search.one_person(one, 3), search.one_person(one, 4))
    for wanted, sign in ((one, 1), (woman, -1)):
        said = search.predictor(search.predictor.normal(search.one_person(wanted, 3)))
        assert float(said[0, NAMES.index("Male")]) * sign > 0


def test_who_it_is_is_not_fitted_away(
    search: searching.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = wanted_of(search)
    person = search.people(wanted, 1, 1)[0]

    def moved() -> float:
        both = torch.stack([person, search.fit(wanted, person, person)])
        said = search.predictor(search.predictor.normal(both))[:, -DESCRIPTOR:]
        return float((said[0] - said[1]).norm())

    held = moved()
    monkeypatch.setattr(searching, "ANCHOR", 10.0)
    assert held < 0.8 * moved()


def test_somebody_alike_is_moved_away_and_counts(search: searching.Search) -> None:
    wanted = wanted_of(search)
    person = search.people(wanted, 1, 1)[0]
    read = search.predictor(search.predictor.normal(person))[-DESCRIPTOR:]
    same = (read * search.predictor.deviation[-DESCRIPTOR:]).numpy() + 0.005
    alike = searching.Wanted(wanted.numbers, torch.from_numpy(same))

    def distance(w: torch.Tensor) -> float:
        return float(search._apart(alike, search.predictor(search.predictor.normal(w)))[0])

    fitted = search.fit(alike, person, person)
    assert distance(person) < 0.07
    assert distance(fitted) > distance(person) + 0.02
    near = ((searching.APART - distance(person)) / searching.APART_TOLERANCE) ** 2
    more = misfit(search, alike, person) - misfit(search, wanted, person)
    assert more == pytest.approx(near + searching.ALIKE_COUNTS, rel=0.01)


def test_an_answer_surer_than_wanted_is_no_error_and_a_wrong_one_counts(
    search: searching.Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = np.full(DESCRIPTOR, 1.0, np.float32)
    wanted = search.wanted(numbers(Male=6)[0], -far)
    exact = numbers(Male=LEVELS[1])[0]
    surer, wrong = numbers(Male=15)[0], numbers(Male=-LEVELS[1])[0]
    for given in (exact, surer, wrong):  # as sure about all the others
        given[[NAMES.index(f.name) for f in FIELDS if f.step == -1 and f.name != "Male"]] = -9
    assert search.misfit(wanted, surer, far) == pytest.approx(search.misfit(wanted, exact, far))
    with_it = search.misfit(wanted, wrong, far)
    monkeypatch.setattr(searching, "WRONG_COUNTS", 0.0)
    without = search.misfit(wanted, wrong, far)
    assert with_it == pytest.approx(without + 20, rel=1e-4)
    assert without > search.misfit(wanted, exact, far)


def test_a_child_that_becomes_an_adult_counts(search: searching.Search) -> None:
    far = np.full(DESCRIPTOR, 1.0, np.float32)
    child, adult = numbers(age=5)[0], numbers(age=40)[0]
    for wanted, other in ((child, adult), (adult, child)):
        aimed = search.wanted(wanted, -far)
        more = search.misfit(aimed, other, far) - search.misfit(aimed, wanted, far)
        assert more > searching.GROWN_COUNTS
    aimed = search.wanted(numbers(age=30)[0], -far)
    more = search.misfit(aimed, adult, far) - search.misfit(aimed, numbers(age=30)[0], far)
    assert more < searching.GROWN_COUNTS


def test_a_correction_aims_against_what_the_predictor_had_wrong(search: searching.Search) -> None:
    wanted = wanted_of(search)
    w = search.people(wanted, 1, 1)[0]
    told = search.predictor(search.predictor.normal(w))
    told = (told * search.predictor.deviation).numpy()
    read = told.copy()
    read[NAMES.index("yaw")] += 0.2  # drawn further to the right than predicted
    aimed = search.corrected(wanted, w, read[: len(NAMES)], read[len(NAMES) :])
    moved = (aimed.numbers - wanted.numbers).numpy()
    yaw = [field.name for field in FIELDS].index("yaw")
    assert moved[yaw] < -0.1
    assert np.abs(np.delete(moved, yaw)).max() < 1e-5


def test_w_stays_in_the_generators_range(search: searching.Search) -> None:
    far = search._within(torch.full((512,), 50.0))
    usual = search.predictor.usual
    assert float(search.predictor.distance(far) / usual) == pytest.approx(searching.REACH, rel=1e-3)
    near = torch.full((512,), 0.1)
    assert torch.equal(search._within(near), near)


# --- The laying in.


def parts(tone: tuple[int, int, int], radius: float = 0.2, ground: int = 90) -> Parts:
    """A round face of one color with hair around it, on an even ground, clothes below."""
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    away = np.hypot(x, y)
    shares = np.zeros((SIDE, SIDE, CLASSES), np.float32)
    label = np.full((SIDE, SIDE), GROUND)
    label[y > 0.3] = CLOTHES
    label[away < radius + 0.08] = HAIR
    label[away < radius] = FACE
    picture[label == CLOTHES] = (20, 20, 150)
    picture[label == HAIR] = (60, 40, 20)
    picture[label == FACE] = tone
    np.put_along_axis(shares, label[:, :, None], 1, axis=2)
    return Parts(picture, shares)


GRAIN = grain.Grain(1.0, 40.0, 0.0)
WHOLE = np.ones((SIDE, SIDE), np.float32)
QUIET = np.zeros((SIDE, SIDE), np.float32)


def middle_inside() -> Floats:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[8:-8, 8:-8] = 1
    return mask


def test_nothing_of_the_old_head_is_left() -> None:
    old = parts((255, 0, 255), radius=0.28)  # larger than the new one, in a color like no other
    old.picture[old.of(HAIR) > 0.5] = (0, 255, 0)
    new = parts((200, 160, 140))
    pixels, mask = laying.lay_head(old, new, middle_inside(), GRAIN, QUIET)
    gone = old.of(HAIR, FACE) > 0.5
    assert mask[gone].min() > 0.99
    green = (pixels[..., 1].astype(int) - pixels[..., 0] > 60) & gone
    uncovered = gone & (new.of(HAIR, FACE) < 0.1)
    assert uncovered.sum() > 100
    assert not green[uncovered].any()
    ring = uncovered & (np.mgrid[:SIDE, :SIDE][0] < SIDE // 2)
    assert np.abs(pixels[ring].astype(int) - 90).max() < 12  # the ground goes on


def test_the_skins_mean_color_comes_over() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170))
    moved = laying.in_light(old, new)
    face = new.of(FACE) > 0.5
    assert np.abs(np.median(moved[face], axis=0) - (150, 100, 80)).max() < 12


def test_the_lights_side_comes_over_and_no_spot_does() -> None:
    plain, new = parts((170, 130, 110), radius=0.3), parts((170, 130, 110), radius=0.3)
    lit = parts((170, 130, 110), radius=0.3)
    ramp = np.linspace(0.6, 1.3, SIDE)[None, :, None]
    lit.picture[:] = np.clip(lit.picture * ramp, 0, 255)
    spot = parts((170, 130, 110), radius=0.3)
    spot.picture[41:47, 41:47] = 0

    def sides(old: Parts) -> float:
        gray = laying.in_light(old, new).mean(2)
        return float(gray[40:56, 62:72].mean() - gray[40:56, 24:34].mean())

    assert sides(lit) > 12
    assert abs(sides(plain)) < 3
    change = laying.in_light(spot, new) - laying.in_light(plain, new)
    assert np.abs(change[40:56, 40:56]).max() < 12


def test_no_light_is_read_where_there_is_hardly_any_skin() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170))
    old.shares[old.of(FACE) > 0.5] = np.eye(CLASSES, dtype=np.float32)[HAIR]
    old.picture[:] = (10, 10, 60)
    moved = laying.in_light(old, new)
    face = cv2.erode((new.of(FACE) > 0.5).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(moved - new.picture)[face].max() < 12


def test_a_hand_before_the_face_stays() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170))
    hand = np.zeros((SIDE, SIDE), bool)
    hand[50:60, 40:50] = True
    old.picture[hand] = (0, 0, 255)
    old.shares[hand] = 0
    old.shares[hand, OCCLUDER] = 1
    pixels, mask = laying.lay_head(old, new, middle_inside(), GRAIN, QUIET)
    published = mask[..., None] * pixels + (1 - mask[..., None]) * old.picture
    assert np.abs(published[52:58, 42:48] - (0, 0, 255)).max() < 5
    unsure = Parts(old.picture, old.shares.copy())
    unsure.shares[hand] = np.eye(CLASSES, dtype=np.float32)[FACE] * 0.5
    unsure.shares[hand, OCCLUDER] = 0.5
    mask = laying.lay_head(old=unsure, new=new, inside=middle_inside(), grain=GRAIN, noise=QUIET)[1]
    assert mask[52:58, 42:48].min() > 0.99  # what may be the face goes


def test_a_second_head_in_the_drawn_picture_is_not_laid() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170))
    new.shares[10:25, 10:25] = np.eye(CLASSES, dtype=np.float32)[FACE]
    share = laying.new_share(old, new, WHOLE, new.of(HAIR))
    assert share[12:22, 12:22].max() == 0
    assert share[SIDE // 2, SIDE // 2] == 1


def disks(
    *places: tuple[int, int, int], join: tuple[slice, slice] | None = None
) -> tuple[Floats, Floats]:
    """Shares of head and of face, 200 px: disks (x, y, radius) with a face in each, joined."""
    head, face = np.zeros((2, 200, 200), np.float32)
    for x, y, radius in places:
        cv2.circle(head, (x, y), radius, 1.0, -1)
        cv2.circle(face, (x, y), round(0.7 * radius), 1.0, -1)
    if join is not None:
        head[join] = 1
    return head, face


@pytest.mark.parametrize("has_face", [True, False])
def test_a_head_that_hangs_on_by_a_thin_neck_is_not_laid(has_face: bool) -> None:
    head, face = disks((100, 100, 40), (180, 90, 24), join=(slice(92, 98), slice(120, 170)))
    if not has_face:  # its hair alone
        face[:, 145:] = 0
    alone, _ = disks((100, 100, 40))
    mine = heads.drawn_head(head, face)
    assert heads.middle(head)[90, 180] == 1  # connected
    assert mine[:, 160:].max() == 0
    assert (mine[:, 150:] > 0).sum() == 0
    assert (mine != alone)[:, :135].mean() < 0.005


def test_a_face_in_the_hair_is_cut_off_at_half_the_way() -> None:
    """Two heads side by side, their hair one mass without a neck."""
    head, face = np.zeros((2, 200, 200), np.float32)
    head[50:160, 50:200] = 1
    face[70:140, 70:130] = 1
    face[80:120, 170:198] = 1
    mine = heads.drawn_head(head, face)
    assert mine[70:140, 50:145].min() == 1
    assert mine[80:120, 155:].max() == 0


def test_long_hair_on_both_sides_stays_whole() -> None:
    """Thin beside the cheeks, wide on the shoulders; an ear apart from the face is no face."""
    head, face = disks((100, 90, 40))
    for x in (52, 148):
        cv2.line(head, (x, 80), (x, 190), 1.0, 5)
        cv2.ellipse(head, (x, 165), (18, 30), 0, 0, 360, 1.0, -1)
        cv2.line(head, (100, 90), (x, 80), 1.0, 5)
    cv2.circle(face, (66, 84), 3, 1.0, -1)
    assert np.array_equal(heads.drawn_head(head, face), head)
    assert np.array_equal(heads.drawn_head(head, np.zeros_like(face)), head)


def test_two_heads_joined_are_laid_as_one_head() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170))
    face = np.eye(CLASSES, dtype=np.float32)[FACE]
    new.shares[8:24, 8:24] = face
    new.shares[22:24, 22:40] = np.eye(CLASSES, dtype=np.float32)[HAIR]
    share = laying.new_share(old, new, WHOLE, new.of(HAIR))
    assert share[10:20, 10:20].max() == 0
    assert share[SIDE // 2, SIDE // 2] == 1


def test_the_regions_differ_as_they_say() -> None:
    old, new = parts((150, 100, 80)), parts((230, 190, 170), ground=200)
    inside = middle_inside()
    laid, head = laying.lay_head(old, new, inside, GRAIN, QUIET)
    assert np.abs(laid[48, 48] - (150.0, 100.0, 80.0)).max() < 10  # the drawn face, in its color
    face = laying.lay_face(old, new, inside, GRAIN, QUIET)[1]
    pixels, whole = laying.lay_picture(old, new, inside, GRAIN, QUIET)
    hair = old.of(HAIR) > 0.5
    deep = cv2.erode(hair.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert head[hair].min() > 0.99
    assert face[deep].mean() < 0.35
    assert face[old.of(FACE) > 0.5].min() > 0.99
    assert whole[12, 12] == 1
    assert abs(int(pixels[12, 12, 0]) - 200) < 40
    assert head[12, 12] == 0


def test_what_is_known_stays_and_the_rest_goes_on_smoothly() -> None:
    picture = np.zeros((64, 64, 3), np.float32)
    picture[:] = np.linspace(0, 200, 64)[None, :, None]
    known = np.ones((64, 64), np.float32)
    known[20:44, 20:44] = 0
    broken = picture.copy()
    broken[known == 0] = 255
    found = laying.continued(broken, known)
    assert np.abs(found - picture)[known > 0].max() < 1e-3
    assert np.abs(found - picture)[known == 0].max() < 45
    assert np.abs(np.diff(found, axis=1)).max() < 30


def textured(blur: float, amount: float) -> Floats:
    noise = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    gray = 128 + amount * smooth / smooth.std()
    return np.repeat(gray[:, :, None], 3, 2).astype(np.float32)


@pytest.mark.parametrize("wanted", [20.0, 100.0, 400.0])
def test_a_face_becomes_as_sharp_as_its_frame(wanted: float) -> None:
    made = grain.as_sharp(textured(1.2, 20), WHOLE, grain.Grain(1.0, wanted, 0.0), QUIET)
    reached = cv2.Laplacian(made.mean(2), cv2.CV_32F).var()
    assert reached == pytest.approx(wanted, rel=0.35)


def test_noise_comes_with_its_deviation() -> None:
    flat = np.full((SIDE, SIDE, 3), 128, np.float32)
    noise = np.random.default_rng(1).normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    made = grain.as_sharp(flat, WHOLE, grain.Grain(1.0, 0.0, 5.0), noise)
    assert made.std() == pytest.approx(5, rel=0.1)
    assert grain.noise_of(made.mean(2).astype(np.float32)) == pytest.approx(5, rel=0.15)


def test_the_frames_own_grain_is_read_where_the_face_is() -> None:
    frame: Image = np.full((200, 200, 3), 128, np.uint8)
    frame[:, 100:] = textured(0.8, 30).astype(np.uint8).repeat(3, 0)[:200].repeat(2, 1)[:, :100]
    affine = np.array([[0.5, 0, 0], [0, 0.5, 0]])
    left, right = np.zeros((100, 100), np.float32), np.zeros((100, 100), np.float32)
    left[:, :45], right[:, 55:] = 1, 1
    assert grain.grain_of(frame, affine, left).sharpness == 0
    found = grain.grain_of(frame, affine, right)
    assert found.sharpness > 50
    assert found.scale == 0.5


def test_shares_follow_the_views_edges_and_sum_to_one() -> None:
    picture = np.zeros((384, 384, 3), np.uint8)
    picture[:, 200:] = 255
    shares = np.zeros((192, 192, CLASSES), np.float32)
    shares[:, :97, NECK] = 1  # three pixels short of the edge
    shares[:, 97:, GROUND] = 1
    found = refined(shares, picture)
    assert np.allclose(found.sum(2), 1, atol=1e-4)
    assert found[192, 190, NECK] > 0.7
    assert found[192, 210, GROUND] > 0.75


def test_a_head_that_the_drawn_picture_cuts_off_gets_a_round_top() -> None:
    new = parts((230, 190, 170))
    edge, inside = np.zeros((SIDE, SIDE), np.float32), middle_inside()
    edge[:, 30:66] = 1
    cap = laying.crown(new, edge, inside)
    assert cap[5, 48] > 0.5 > cap[3, 31]
    hairy = Parts(new.picture, new.shares.copy())
    hairy.shares[:10] = np.eye(CLASSES, dtype=np.float32)[HAIR]
    assert laying.crown(hairy, edge, inside).max() < 0.05  # the old hair goes on there


def test_a_view_holds_the_drawn_picture_in_its_middle() -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    whole = view.placed(drawn)
    width = view.rim(64)
    assert whole.shape == (96, 96, 3)
    assert np.array_equal(whole[width:-width, width:-width], drawn)
    mask = view.inside(64, 0.1)
    assert mask[48, 48] == 1
    assert mask[width, 48] < 0.1
    assert mask[: width - 1].max() == 0
