"""The attribute classifier: network, training, shipped weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces import attributes
from deidcli.faces.attributes import AttributeNet, NetSettings, predict
from deidcli.training import attributes as train_attributes
from deidcli.training import chips as training_chips
from deidcli.training.attributes import Settings
from deidcli.training.augment import augment
from deidcli.weights import own

TINY = Settings(
    net=NetSettings(side=32, width=4, blocks=(1, 1, 1), maps=1),
    cut_side=32,
    initial="",
    freeze_lower=False,
    epochs=2,
    batch_size=4,
    warmup=1,
    checkpoint_steps=1,
    threads=1,
)


def random_chips(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def labeled(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of eight portraits and one picture without a face, with two labels."""
    pictures = sorted((people / "portraits").glob("*.jpg"))[:8]
    rows = [{"bytes": path.read_bytes(), "path": None} for path in pictures]
    blank = np.full((64, 64, 3), 90, np.uint8)
    rows.append({"bytes": _encoded(blank), "path": None})
    signs = [1, -1] * 4 + [1]
    path = tmp_path_factory.mktemp("data") / "people.parquet"
    words = ["male", "female", None, *["male"] * 6]
    pq.write_table(
        pa.table({"image": rows, "Young": pa.array(signs, pa.int8()), "sex": words}), path
    )
    return path


def _encoded(picture: NDArray[np.uint8]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", picture)[1])


@pytest.fixture(scope="session")
def shipped() -> AttributeNet:
    try:
        return attributes.load()
    except DeidError as error:
        pytest.skip(error.message)


def test_network_gives_forty_logits_and_gradients_reach_its_input() -> None:
    net = AttributeNet(TINY.net)
    images = (torch.rand(2, 3, 32, 32) * 255).requires_grad_()
    logits = net(images)
    assert logits.shape == (2, len(CELEBA_ATTRIBUTES)) and logits.dtype == torch.float32
    logits.sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0


def test_fast_prelu_agrees_with_torch() -> None:
    ours = attributes.Prelu(3)
    theirs = torch.nn.PReLU(3)
    values = torch.linspace(-0.5, 1.5, 3)
    ours.weight.data.copy_(values)
    theirs.weight.data.copy_(values)
    weight = torch.randn(2, 3, 4, 4)
    x = torch.randn(2, 3, 4, 4)
    grads = []
    for module in (ours, theirs):
        given = x.clone().requires_grad_()
        (module(given) * weight).sum().backward()
        assert given.grad is not None and module.weight.grad is not None
        grads.append((module(given).detach(), given.grad, module.weight.grad))
    for mine, official in zip(*grads, strict=True):
        torch.testing.assert_close(mine, official)


def test_predict_gives_probabilities_that_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    net = AttributeNet(TINY.net).eval()
    chips = random_chips(9, 32)
    together = predict(net, chips, batch_size=9)
    alone = predict(net, chips, batch_size=1)
    assert together.shape == (9, 40) and together.dtype == np.float32
    assert together.min() >= 0 and together.max() <= 1
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert predict(net, chips[:0]).shape == (0, 40)


def test_predict_is_the_same_for_a_mirrored_chip() -> None:
    net = AttributeNet(TINY.net).eval()
    chips = random_chips(3, 32)
    mirrored = np.ascontiguousarray(chips[:, :, ::-1])
    np.testing.assert_allclose(predict(net, chips), predict(net, mirrored), atol=1e-6)
    once = [predict(net, some, flip=False) for some in (chips, mirrored)]
    assert np.abs(once[0] - once[1]).max() > 1e-6


def test_accuracy_counts_labeled_rows_alone() -> None:
    probabilities = np.full((4, 40), 0.9, np.float32)
    labels = np.zeros((4, 40), np.int8)
    labels[:, 0] = (1, 1, 1, -1)
    labels[:3, 1] = (1, -1, -1)
    score = attributes.accuracy(probabilities, labels)
    np.testing.assert_allclose(score.accuracy[:2], (75, 100 / 3))
    np.testing.assert_allclose(score.balanced[:2], (50, 50))
    np.testing.assert_allclose(score.majority[:2], (75, 200 / 3))
    assert np.isnan(score.accuracy[2:]).all()
    assert (
        attributes.table(score).splitlines()[2]
        == f"| {CELEBA_ATTRIBUTES[0]} | 75.0 | 50.0 | 75.0 |"
    )


def test_loss_ignores_entries_without_a_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 5.0]])
    labels = torch.tensor([[1, -1, 0]], dtype=torch.int8)
    loss = train_attributes.loss_of(logits, labels, 0.0)
    expected = (torch.tensor(-2.0).exp().log1p() + torch.tensor(-1.0).exp().log1p()) / 2
    torch.testing.assert_close(loss, expected)


def test_chips_are_cut_once_and_say_where_no_face_was_found(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = training_chips.load_chips(labeled, 32, 0.5, tmp_path)
    assert first.chips.shape == (9, 32, 32, 3) and first.chips.dtype == np.uint8
    assert first.found.tolist() == [True] * 8 + [False]
    assert first.labels[:, CELEBA_ATTRIBUTES.index("Young")].tolist() == [1, -1] * 4 + [1]
    assert first.labels[:3, CELEBA_ATTRIBUTES.index("Male")].tolist() == [1, -1, 0]
    monkeypatch.setattr(training_chips, "_find", None)
    again = training_chips.load_chips(labeled, 32, 0.5, tmp_path)
    np.testing.assert_array_equal(first.chips, again.chips)


def test_augment_keeps_shape_and_range_and_follows_its_generator() -> None:
    chips = torch.from_numpy(random_chips(6, 40))
    first, again, other = (
        augment(chips, 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (6, 3, 32, 32) and first.dtype == torch.float32
    assert float(first.min()) >= 0 and float(first.max()) <= 255
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_training_resumes_to_the_same_weights(labeled: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = train_attributes.train([labeled], tmp_path / "a", TINY, cache, [labeled])
    # Eight found faces make two steps an epoch: three steps leave it inside the second epoch.
    assert train_attributes.train([labeled], tmp_path / "b", TINY, cache, stop_after=3) is None
    resumed = train_attributes.train([labeled], tmp_path / "b", TINY, cache)
    assert whole is not None and resumed is not None
    left, right = load_file(whole), load_file(resumed)
    assert left.keys() == right.keys() and left["head.weight"].dtype == torch.float16
    assert all(torch.equal(left[name], right[name]) for name in left)
    other = train_attributes.train(
        [labeled], tmp_path / "c", dataclasses.replace(TINY, seed=1), cache
    )
    assert other is not None and not torch.equal(
        left["head.weight"], load_file(other)["head.weight"]
    )


def test_a_training_keeps_faces_for_as_long_as_it_lasts(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the user's cache; in `out` alone, until it is done; in `cache` where asked."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "user"))
    out = tmp_path / "a"
    assert train_attributes.train([labeled], out, TINY, stop_after=1) is None
    assert list((out / "faces").rglob("chips.npy"))
    assert out.joinpath("faces").stat().st_mode & 0o077 == 0
    assert train_attributes.train([labeled], out, TINY) is not None
    assert not (out / "faces").exists() and not list(out.rglob("chips.npy"))
    assert train_attributes.train([labeled], tmp_path / "b", TINY, tmp_path / "asked") is not None
    assert list((tmp_path / "asked").rglob("chips.npy"))
    assert not (tmp_path / "home").exists() and not (tmp_path / "user").exists()


def test_training_with_other_settings_does_not_resume(labeled: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train_attributes.train([labeled], tmp_path / "a", TINY, cache, stop_after=1)
    changed = dataclasses.replace(TINY, rate=1e-4)
    with pytest.raises(DeidError, match="rate"):
        train_attributes.train([labeled], tmp_path / "a", changed, cache)


def test_frozen_stages_stay_and_the_others_move(labeled: Path, tmp_path: Path) -> None:
    torch.manual_seed(TINY.seed)
    start = AttributeNet(TINY.net).state_dict()
    frozen = dataclasses.replace(TINY, freeze_lower=True)
    path = train_attributes.train([labeled], tmp_path / "a", frozen, tmp_path / "cache")
    assert path is not None
    for name, value in load_file(path).items():
        if name.split(".")[0] in train_attributes.LOWER:
            assert torch.equal(value, start[name].half()), name
    assert not torch.equal(load_file(path)["head.weight"], start["head.weight"].half())


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"nothing\.parquet"):
        training_chips.load_all([tmp_path / "nothing.parquet"], 32, 0.5, tmp_path)


def test_changed_bytes_are_refused(
    shipped: AttributeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own.weights_folder()
    card = own.own_cards()["attributes"]
    data = bytearray((folder / card.file).read_bytes())
    data[-1] ^= 1
    (tmp_path / card.file).write_bytes(data)
    (tmp_path / "weights.toml").write_text((folder / "weights.toml").read_text())
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    with pytest.raises(DeidError, match="not those of its card"):
        attributes.load()
    (tmp_path / card.file).unlink()
    with pytest.raises(DeidError, match="are not at"):
        attributes.load()
    with pytest.raises(DeidError, match="no weights are called"):
        own.own_weights("nothing")
    (tmp_path / "weights.toml").unlink()
    with pytest.raises(DeidError, match=r"no weights\.toml"):
        attributes.load()


def test_shipped_weights_are_small_fp16_and_their_card_is_whole(shipped: AttributeNet) -> None:
    tensors, card = own.own_weights("attributes")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert (own.weights_folder() / card.file).stat().st_size < 20e6
    assert card.kind == "attributes" and card.license and card.command and card.trained_on
    assert card.input["side"] == shipped.settings.side


def test_shipped_weights_read_real_pictures(
    shipped: AttributeNet, shared_data: Path, tmp_path: Path
) -> None:
    source = pq.ParquetFile(shared_data / "celeba" / "validation-00000-of-00001.parquet")
    path = tmp_path / "validation.parquet"
    pq.write_table(pa.Table.from_batches([next(source.iter_batches(150))]), path)
    settings = shipped.settings
    chips = training_chips.load_chips(path, settings.side, settings.padding, tmp_path)
    probabilities = predict(shipped, chips.chips)
    np.testing.assert_allclose(
        probabilities[:9], predict(shipped, chips.chips[:9], batch_size=2), atol=1e-5
    )
    score = attributes.accuracy(probabilities, chips.labels).accuracy
    assert np.nanmean(score) > 86
    # The full split's figures less three standard errors of a share of 150.
    floors = {"Male": 93, "Smiling": 85, "Eyeglasses": 96, "Big_Nose": 70, "Young": 75}
    for name, floor in floors.items():
        assert score[CELEBA_ATTRIBUTES.index(name)] > floor, name
