"""Methods that look at whole frames and make a patch of their own for each face."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from deidcli.crypto.keys import derive
from deidcli.crypto.sealing import Place, unseal
from deidcli.data.journal import private_folder
from deidcli.data.samples import Sample
from deidcli.data.source import Shard
from deidcli.deidentifier import Deidentifier
from deidcli.errors import Stopped
from deidcli.faces.align import Affine, chip_from_unit, crop, scale_of, unit_affine, unit_from_chip
from deidcli.faces.regions import HEAD_PADDING
from deidcli.methods import METHODS
from deidcli.methods.base import Chip, Context, FaceInFrame, InFrames, Patch
from deidcli.pipeline import engines, replacing, steps
from deidcli.pipeline.encoding import encoded
from deidcli.pipeline.opening import open_sample
from deidcli.pipeline.replacing import replace_faces
from deidcli.pipeline.run import Run, RunKeys
from deidcli.pipeline.stages import Stages, Work
from deidcli.settings import face_seed
from tests.conftest import PEOPLE, Outcome, picture_bytes, private_faces, statuses, tree
from tests.pipeline.making import (
    LEFT,
    RIGHT,
    FixedDetector,
    FixedGate,
    a_face,
    a_run,
    middle,
    some_stages,
    some_work,
)
from tests.reversible import KDF, WORDS, inner, password_file, pixels, png_people

pytestmark = pytest.mark.usefixtures("cheap", "discs")

Deid = Callable[..., Outcome]
CHIP = Chip(96, HEAD_PADDING)


@dataclass(frozen=True)
class DiscsSettings:
    """Settings of discs."""

    smallest: float = 0.0
    """Side in px of the mean face, below which a face cannot be replaced."""
    reach: float = 1.5
    """Radius of the disc, in sides of the mean face."""
    same: bool = False
    """One seed a person."""


class Discs(InFrames):
    """Paints a disc over each face, in a color of its seed, in a patch of the face's size."""

    seen: ClassVar[list[list[tuple[FaceInFrame, bytes]]]] = []
    """The faces of each call in this process, and the bytes of their frames at that moment."""

    def __init__(self, settings: DiscsSettings, device: str = "cpu") -> None:
        self.settings = settings
        self.chip = CHIP

    @classmethod
    def per_person(cls, settings: Any) -> bool:
        return bool(settings.same)

    def in_frames(self, faces: Sequence[FaceInFrame]) -> list[Patch | None]:
        self.seen.append([(face, face.frame.tobytes()) for face in faces])
        return [self._patch(face) for face in faces]

    def _patch(self, face: FaceInFrame) -> Patch | None:
        unit = unit_affine(face.landmarks)
        face_side = 1 / scale_of(unit)
        if face_side < self.settings.smallest:
            return None
        side = round(2 * self.settings.reach * face_side)
        affine = chip_from_unit(unit, side, self.settings.reach - 0.5)
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        mask = np.clip(side / 2 - np.hypot(x, y), 0, 1).astype(np.float32)
        return Patch(np.full((side, side, 3), color(face.seed), np.uint8), affine, mask)


def color(seed: int) -> tuple[int, int, int]:
    """Never black."""
    return 64 + seed % 191, 64 + seed // 191 % 191, 64 + seed // 191**2 % 191


@pytest.fixture
def discs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "discs", "tests.test_in_frames:Discs")
    monkeypatch.setattr(Discs, "seen", [])


def disc_run(out: Path, **changes: Any) -> Run:
    return a_run(out, **{"method": "discs", **changes})


def disc_stages(gate: FixedGate | None = None, **settings: Any) -> Stages:
    return some_stages(method=Discs(DiscsSettings(**settings)), gate=gate)


def wider(box: tuple[float, ...], factor: float) -> tuple[float, float, float, float]:
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, factor * (box[2] - box[0]) / 2
    return x - half, y - 1.25 * half, x + half, y + 1.25 * half


ARGS = ("--method", "discs", "--detector", "hog", "--no-gate", "--names", "keep", "--seed", 4)


def three(folder: Path) -> tuple[Path, float]:
    """Two portraits and a picture of two faces, one of half the size; and a side between both."""
    png_people(folder, 3)
    large = Image.open(folder / "person_02.png").resize((240, 240))
    both = Image.new("RGB", (420, 240), (120, 130, 140))
    both.paste(large, (0, 0))
    both.paste(Image.open(folder / "person_03.png").resize((120, 120)), (290, 60))
    both.save(folder / "person_02.png")
    return folder, 65.0


# ---------------------------------------------------------------------------- one step


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1, 1, 1]), (2, [2, 1]), (16, [3])])
def test_frames_are_whole_unchanged_and_read_only_while_it_runs(
    tmp_path: Path, batch_size: int, batches: list[int]
) -> None:
    """Also those of faces whose patches were made in an earlier batch."""
    near = (LEFT[0] + 20, LEFT[1], LEFT[2] + 20, LEFT[3])
    works = [some_work([a_face(LEFT), a_face(near)], [5, 6]), some_work([a_face(RIGHT)], [7], "b")]
    before = [work.frame.copy() for work in works]
    replace_faces(works, disc_run(tmp_path / "out", batch_size=batch_size), disc_stages())
    assert [len(batch) for batch in Discs.seen] == batches
    told = [one for batch in Discs.seen for one in batch]
    owners = [(work, n, face) for n, work in enumerate(works) for face in work.faces]
    for (face, then), (work, n, own) in zip(told, owners, strict=True):
        assert then == before[n].tobytes() and face.frame.shape == work.frame.shape
        assert face.landmarks is own.face.landmarks and face.seed == own.seed
        with pytest.raises(ValueError, match="read-only"):
            face.frame[0, 0] = 0
        assert own.method == "discs" and (work.frame != before[n]).any()
    assert told[0][0].frame is told[1][0].frame, "one array a frame, so that work can be shared"
    works[0].frame[0, 0] = 0  # the pipeline itself may still write


def test_the_patch_is_pasted_with_its_own_affine_and_mask(tmp_path: Path) -> None:
    work = some_work([a_face(LEFT)], [9])
    before = work.frame.copy()
    replace_faces([work], disc_run(tmp_path / "out"), disc_stages(reach=0.7))
    unit = work.faces[0].unit
    y, x = np.mgrid[:180, :260]
    u, v = np.tensordot(unit[:, :2], np.stack([x, y]), 1) + unit[:, 2, None, None]
    from_center = np.hypot(u - 0.5, v - 0.5) / scale_of(unit)  # in px
    radius = 0.7 / scale_of(unit)
    assert (work.frame[from_center < radius - 2] == color(9)).all()
    assert (work.frame[from_center > radius + 2] == before[from_center > radius + 2]).all()


def test_the_nearer_face_lies_on_top(tmp_path: Path) -> None:
    """Whatever the order in which they were found; of two equals the one found later."""
    small = (LEFT[0] + 30, LEFT[1], LEFT[2] + 30, LEFT[3])
    large = wider((LEFT[0] + 65, LEFT[1], LEFT[2] + 65, LEFT[3]), 1.3)
    frames = []
    for order in ((0, 1), (1, 0)):
        faces, seeds = [a_face(small), a_face(large)], [1, 2000]
        work = some_work([faces[n] for n in order], [seeds[n] for n in order])
        replace_faces([work], disc_run(tmp_path / "out"), disc_stages())
        frames.append(work.frame)
        x, y = (small[0] + small[2]) / 2, (small[1] + small[3]) / 2
        assert (work.frame[round(y), round(x) + 8] == color(2000)).all()
        assert (work.frame[round(y), round(x) - 32] == color(1)).all()
    assert (frames[0] == frames[1]).all()
    twice = some_work([a_face(LEFT), a_face(LEFT)], [1, 2000])
    replace_faces([twice], disc_run(tmp_path / "out"), disc_stages())
    assert (middle(twice.frame, LEFT) == color(2000)).all()


def test_a_face_that_cannot_be_replaced_is_black_whatever_lies_near(tmp_path: Path) -> None:
    """The larger neighbor's patch reaches over it. The gate is not asked about it."""
    small = wider(LEFT, 0.6)
    large = (LEFT[0] + 40, LEFT[1], LEFT[2] + 40, LEFT[3])
    gate = FixedGate(0.6, [0.9])
    works = [some_work([a_face(small), a_face(large)], [1, 2]), some_work([a_face(RIGHT)], [3])]
    replace_faces(works[:1], disc_run(tmp_path / "out"), disc_stages(gate, smallest=30))
    assert [face.method for face in works[0].faces] == ["blackout", "discs"]
    assert [face.distance for face in works[0].faces] == [None, 0.9]
    assert works[0].status == "fallback" and len(gate.compared) == 1
    x, y = (small[0] + small[2]) / 2, (small[1] + small[3]) / 2
    assert (works[0].frame[round(y) - 8 : round(y) + 8, round(x) - 8 : round(x) + 8] == 0).all()
    assert (works[0].frame[round(y), round(large[2])] == color(2)).all()
    none = FixedGate(0.6, [])
    replace_faces(works[1:], disc_run(tmp_path / "out"), disc_stages(none, smallest=1000))
    assert works[1].status == "fallback" and not none.compared
    assert (middle(works[1].frame, RIGHT) == 0).all()


def test_the_gate_sees_the_patch_and_blacks_out_what_still_matches(tmp_path: Path) -> None:
    gate = FixedGate(0.6, [0.1, 0.9])
    work = some_work([a_face(LEFT), a_face(RIGHT), a_face(LEFT, fitted=False)], [1, 2, 3])
    replace_faces([work], disc_run(tmp_path / "out"), disc_stages(gate))
    assert [face.method for face in work.faces] == ["blackout", "discs", "blackout"]
    assert work.status == "fallback" and len(Discs.seen[0]) == 2
    assert (middle(work.frame, LEFT) == 0).all() and (middle(work.frame, RIGHT) == color(2)).all()
    assert (gate.compared[1][1][60:90, 60:90] == color(2)).all()
    assert gate.compared[1][0].std() > 10


@pytest.mark.parametrize(("made", "why"), [(0, "shorter"), (2, "longer")])
def test_a_patch_too_many_or_too_few_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int, why: str
) -> None:
    monkeypatch.setattr(Discs, "in_frames", lambda self, faces: [None] * made)
    work = some_work([a_face(LEFT)], [1])
    before = work.frame.copy()
    with pytest.raises(ValueError, match=why):
        replace_faces([work], disc_run(tmp_path / "out"), disc_stages())
    assert (work.frame == before).all()


def test_a_patch_that_would_leave_the_face_is_refused() -> None:
    fine = np.eye(2, 3)
    good = (np.zeros((8, 8, 3), np.uint8), fine, np.ones((8, 8), np.float32))
    Patch(*good)
    unknown, thin = fine.copy(), fine.copy()
    unknown[0, 2], thin[1] = np.nan, thin[0]
    half = np.full((8, 8), np.nan, np.float32)
    bad: list[tuple[Any, Any, Any, str]] = [
        (good[0][:, :4], fine, good[2], "uint8"),
        (good[0].astype(np.float32), fine, good[2], "uint8"),
        (good[0], fine, good[2][:4], "mask"),
        (good[0], fine, good[2].astype(np.float64), "mask"),
        (good[0], fine, good[2] * 255, "between 0 and 1"),
        (good[0], fine, -good[2], "between 0 and 1"),
        (good[0], fine, half, "between 0 and 1"),
        (good[0], np.eye(3), good[2], "finite"),
        (good[0], unknown, good[2], "finite"),
        (good[0], thin, good[2], "inverse"),
    ]
    for values, affine, mask, why in bad:
        with pytest.raises(ValueError, match=why):
            Patch(values, affine, mask)


def test_it_has_no_way_for_chips_alone() -> None:
    method, context = Discs(DiscsSettings()), Context(np.zeros(1, np.uint64), np.ones(1))
    with pytest.raises(NotImplementedError, match="in_frames"):
        method(torch.zeros(1, 3, 96, 96), context)


def test_a_second_try_seals_what_both_wrote(tmp_path: Path) -> None:
    run, work = disc_run(tmp_path / "out", seal=True), some_work([a_face(LEFT)], [1])
    for reach in (2.0, 0.5):
        replace_faces([work], run, disc_stages(reach=reach))
    published = encoded(work, with_keys(run)).outputs[0]
    place = Place.of(run.fingerprint, published.data, 0)
    (x0, y0, x1, y1), original = unseal(derive(WORDS, KDF), place, published.sealed[0])
    work.frame[y0:y1, x0:x1] = original
    assert work.original is not None and (work.frame == work.original).all()


def with_keys(run: Run) -> Run:
    return dataclasses.replace(run, password=RunKeys(derive(WORDS, KDF), KDF, b""))


def test_a_second_try_cuts_the_frame_again(tmp_path: Path) -> None:
    run, work = disc_run(tmp_path / "out", output="crops"), some_work([a_face(LEFT)], [1])
    (face,) = work.faces
    face.affine = chip_from_unit(face.unit, CHIP.size, CHIP.padding)
    replace_faces([work], run, disc_stages())
    face.seed = 2000
    replace_faces([work], run, disc_stages())
    assert face.chip is not None
    assert (face.chip == crop(work.frame, face.affine, CHIP.size)).all()
    assert (face.chip[40:56, 40:56] == color(2000)).all()


# ---------------------------------------------------------------------------- one person


FRAME = np.random.default_rng(3).integers(0, 256, (180, 260, 3), dtype=np.uint8)


def seeds_of(run: Run, key: str, identity: str | None, faces: int = 1) -> list[int]:
    sample = Sample(key, picture_bytes(FRAME, "PNG"), name=key, identity=identity)
    detector = FixedDetector([a_face(LEFT), a_face(RIGHT)][:faces])
    work = open_sample(sample, run, some_stages(detector, Discs(DiscsSettings())))
    assert isinstance(work, Work)
    return [face.seed for face in work.faces]


def test_all_pictures_of_a_person_alone_have_one_seed(tmp_path: Path) -> None:
    run = disc_run(tmp_path / "out", seed=7, method_settings={"same": True})
    jane = face_seed(7, "person\0jane", 0)
    assert seeds_of(run, "a.png", "jane") == seeds_of(run, "b.png", "jane") == [jane]
    assert seeds_of(run, "a.png", "joe") == [face_seed(7, "person\0joe", 0)] != [jane]
    assert seeds_of(run, "a.png", None) == [face_seed(7, "a.png", 0)]
    assert seeds_of(run, "a.png", "jane", 2) == [face_seed(7, "a.png", n) for n in (0, 1)]
    for other in ({"method_settings": {"same": False}}, {"method": "blur"}):
        run = disc_run(tmp_path / "other", seed=7, **other)
        assert seeds_of(run, "a.png", "jane") == [face_seed(7, "a.png", 0)]


def test_nonces_do_not_tell_who_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Discs, "needs_password", True)
    run = with_keys(disc_run(tmp_path / "out", seed=7, method_settings={"same": True}))
    nonces = set()
    for key in ("a.png", "b.png"):
        sample = Sample(key, picture_bytes(FRAME, "PNG"), name=key, identity="jane")
        stages = some_stages(FixedDetector([a_face(LEFT)]), Discs(DiscsSettings()))
        work = open_sample(sample, run, stages)
        assert isinstance(work, Work) and work.faces[0].nonce is not None
        nonces.add(work.faces[0].nonce)
    assert len(nonces) == 2


# ---------------------------------------------------------------------------- runs


def test_a_face_that_cannot_be_replaced_is_counted(tmp_path: Path, deid: Deid) -> None:
    (folder, smallest), out = three(tmp_path / "in"), tmp_path / "out"
    args = (*ARGS, "--workers", 1, "--set", f"smallest={smallest}")
    tried = deid("anonymize", folder, "--dry-run", *args, "--json")
    outcome = deid("anonymize", folder, "--out", out, *args, "--json")
    assert outcome.code == 0, outcome.stderr
    counts = outcome.json["counts"]
    assert (counts["ok"], counts["fallback"], counts["faces"]) == (2, 1, 4)
    assert tried.json["sample"] == {
        "pictures": 3,
        "faces": 4,
        "statuses": {"ok": 2, "fallback": 1},
    }
    assert statuses(out)["person_02.png"][0] == "fallback"
    faces = {row["method"]: row for row in private_faces(out)["images/person_02.png"]}
    assert set(faces) == {"discs", "blackout"} and faces["blackout"]["gate_distance"] is None
    frame = pixels(out / "images/person_02.png")
    assert frame[inner(faces["blackout"])].max() == 0 < frame[inner(faces["discs"])].min()
    record = json.loads((out / "manifest.json").read_text())
    assert record["chip"] == {"size": CHIP.size, "padding": CHIP.padding}
    card = (out / "README.md").read_text()
    assert "the method could not replace were blacked out (1 pictures)" in card
    assert deid("verify", out).code == 0


def test_crops_are_cut_from_the_published_frames(tmp_path: Path, deid: Deid) -> None:
    """A black head is one of them; the affine that is stored cuts the same chip from the frame."""
    (folder, smallest), out, crops = three(tmp_path / "in"), tmp_path / "out", tmp_path / "crops"
    args = (*ARGS, "--workers", 1, "--set", f"smallest={smallest}")
    assert deid("anonymize", folder, "--out", out, *args).code == 0
    assert deid("anonymize", folder, "--out", crops, *args, "--output", "crops").code == 0
    places = private_faces(crops)
    assert len(places) == 4
    assert sorted(face["method"] for (face,) in places.values()) == ["blackout", *["discs"] * 3]
    for name, (face,) in places.items():
        stem, number = name.removesuffix(".png").rsplit("_", 1)
        affine: Affine = np.array(face["affine"]).reshape(2, 3)
        assert face["affine"] == private_faces(out)[f"{stem}.png"][int(number)]["affine"]
        frame = pixels(out / f"{stem}.png").astype(np.uint8)
        published = pixels(crops / name)
        assert published.shape == (96, 96, 3)
        assert (published == crop(frame, affine, CHIP.size)).all()
        original = crop(pixels(folder / Path(f"{stem}.png").name).astype(np.uint8), affine, 96)
        center = published[40:56, 40:56]
        assert (center == center[0, 0]).all() and original[40:56, 40:56].std() > 5
        assert (center.max() == 0) == (face["method"] == "blackout")
        unit = unit_from_chip(affine, **json.loads((out / "manifest.json").read_text())["chip"])
        assert (1 / scale_of(unit) < smallest) == (face["method"] == "blackout")


@pytest.mark.parametrize("kind", ["frames", "crops"])
def test_what_is_sealed_comes_back_exactly(tmp_path: Path, deid: Deid, kind: str) -> None:
    """Patches here reach far beyond the chip and the black head."""
    (folder, smallest), out, to = three(tmp_path / "in"), tmp_path / "out", tmp_path / "to"
    secret = ("--password-file", password_file(tmp_path))
    args = (*ARGS, "--workers", 1, "--set", f"smallest={smallest}", "--set", "reach=2.2")
    sealed = deid("anonymize", folder, "--out", out, *args, "--seal", "--output", kind, *secret)
    assert sealed.code == 0, sealed.stderr
    assert deid("restore", out, "--to", to, *secret).code == 0
    if kind == "frames":
        for path in folder.iterdir():
            assert (pixels(out / "images" / path.name) != pixels(path)).mean() > 0.2
            assert (pixels(to / "images" / path.name) == pixels(path)).all()
        return
    for name, (face,) in private_faces(out).items():
        frame = pixels(folder / f"{Path(name).stem.rsplit('_', 1)[0]}.png").astype(np.uint8)
        affine = np.array(face["affine"]).reshape(2, 3)
        assert (pixels(to / name) == crop(frame, affine, CHIP.size)).all()


def test_a_folder_and_a_parquet_file_give_the_same_pictures(tmp_path: Path, deid: Deid) -> None:
    """Seeds follow from names, unless from people, which both know here."""
    (folder, smallest), table = three(tmp_path / "in"), tmp_path / "in.parquet"
    names = sorted(path.name for path in folder.iterdir())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    who = ["jane", "joe", "jane"]
    pq.write_table(pa.table({"image": pa.array(rows, kind), "identity": who}), table)
    lines = [f"{name},{person}" for name, person in zip(names, who, strict=True)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,identity", *lines]) + "\n")
    args = [*ARGS, "--workers", 1, "--set", "same=true", "--set", f"smallest={smallest}"]
    assert deid("anonymize", folder, "--out", tmp_path / "a", *args).code == 0
    assert deid("anonymize", table, "--out", tmp_path / "b", *args).code == 0
    told = pq.read_table(next((tmp_path / "b/data").iterdir()))["image"].to_pylist()
    frames = {row["path"]: pixels(row["bytes"]) for row in told}
    assert len(frames) == 3
    for name in names:
        published = pixels(tmp_path / "a/images" / name)
        if name != "person_02.png":  # two people: each has the seed of its place
            assert (frames[f"{Path(name).stem}.png"] == published).all()
            x0, y0, x1, y1 = private_faces(tmp_path / "a")[f"images/{name}"][0]["box"]
            middle_pixel = published[round((y0 + y1) / 2), round((x0 + x1) / 2)]
            assert (middle_pixel == color(face_seed(4, "person\0jane", 0))).all()


def test_one_picture_in_memory(tmp_path: Path, deid: Deid) -> None:
    (folder, smallest), out = three(tmp_path / "in"), tmp_path / "out"
    args = (*ARGS, "--workers", 1, "--set", f"smallest={smallest}")
    assert deid("anonymize", folder, "--out", out, *args).code == 0
    given = {"detector": "hog", "no_gate": True, "smallest": smallest}
    deidentify = Deidentifier("discs", seed=4, **given)
    for path in sorted(folder.iterdir()):
        original = pixels(path).astype(np.uint8)
        made, done = deidentify(original, key=path.name)
        assert made is not None and (made == pixels(out / "images" / path.name)).all()
        assert (original == pixels(path)).all()
        two = path.name == "person_02.png"
        assert done.status == ("fallback" if two else "ok")
        assert {face.method for face in done.faces} == ({"discs", "blackout"} if two else {"discs"})


def test_a_stopped_run_goes_on(tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder, smallest), out, whole = three(tmp_path / "in"), tmp_path / "out", tmp_path / "whole"
    args = (*ARGS, "--workers", 1, "--set", f"smallest={smallest}")
    assert deid("anonymize", folder, "--out", whole, *args).code == 0
    real, calls = replacing._patches, [0]

    def stopping(*rest: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "_patches", stopping)
        assert deid("anonymize", folder, "--out", out, *args).code == Stopped("").code
    assert not (out / "manifest.json").exists() and list((out / "images").iterdir())
    before = len(Discs.seen)
    assert deid("anonymize", folder, "--out", out, *args).code == 0
    assert len(Discs.seen) == before + 1, "what was done is not done again"
    assert tree(out) == tree(whole) and not (private_folder(out) / "staging").exists()


_RUN_SHARD = steps.run_shard


def run_shard_with_discs(run: Run, shard: Shard) -> int:
    """A worker knows only the methods that are in METHODS when it is imported there."""
    METHODS["discs"] = "tests.test_in_frames:Discs"
    return _RUN_SHARD(run, shard)


def test_workers_and_batches_change_no_byte(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, smallest = three(tmp_path / "in")
    args = (*ARGS, "--set", f"smallest={smallest}", "--set", "reach=2")
    monkeypatch.setattr(engines.steps, "run_shard", run_shard_with_discs)
    for name, extra in {
        "one": ("--workers", 1),
        "small": ("--workers", 1, "--batch-size", 1),
        "two": ("--workers", 2),
    }.items():
        outcome = deid("anonymize", folder, "--out", tmp_path / name, *args, *extra)
        assert outcome.code == 0, outcome.stderr
    assert len(Discs.seen) == 2 + 4, "the last run was in other processes"
    assert tree(tmp_path / "one") == tree(tmp_path / "small") == tree(tmp_path / "two")


def test_people_of_a_scene(tmp_path: Path, deid: Deid) -> None:
    """Found and gated as in a real run: no face is left as it was."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "team.jpg").write_bytes((PEOPLE / "scenes" / "team_page.jpg").read_bytes())
    args = ("--method", "discs", "--names", "keep", "--seed", 4, "--workers", 1)
    assert deid("anonymize", folder, "--out", out, *args).code == 0
    faces = private_faces(out)["images/team.jpg"]
    before, after = pixels(folder / "team.jpg"), pixels(out / "images/team.jpg")
    assert len(faces) >= 6
    for face in faces:
        assert face["method"] == "discs" and face["gate_distance"] > 0.6
        x0, y0, x1, y1 = (round(v) for v in face["box"])
        assert np.abs(before[y0:y1, x0:x1] - after[y0:y1, x0:x1]).mean() > 25
