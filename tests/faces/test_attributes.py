"""The attribute classifier: network, shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces import attributes
from deidcli.faces.attributes import AttributeNet, NetSettings, predict
from deidcli.training import chips as training_chips
from deidcli.weights import own

TINY = NetSettings(side=32, width=4, blocks=(1, 1, 1), maps=1)


def random_chips(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def shipped() -> AttributeNet:
    try:
        return attributes.load()
    except DeidError as error:
        pytest.skip(error.message)


def test_network_gives_forty_logits_and_gradients_reach_its_input() -> None:
    net = AttributeNet(TINY)
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
    net = AttributeNet(TINY).eval()
    chips = random_chips(9, 32)
    together = predict(net, chips, batch_size=9)
    alone = predict(net, chips, batch_size=1)
    assert together.shape == (9, 40) and together.dtype == np.float32
    assert together.min() >= 0 and together.max() <= 1
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert predict(net, chips[:0]).shape == (0, 40)


def test_predict_is_the_same_for_a_mirrored_chip() -> None:
    net = AttributeNet(TINY).eval()
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
