"""The method `dae` with trained and with shipped weights: every network has a bearing on a face."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import UsageError
from deidcli.faces import align, attributes, recognizers
from deidcli.methods import load_method
from deidcli.methods.blend import PADDING, SIDE, blended, rim_to_face
from deidcli.methods.dae.method import snapped
from deidcli.methods.dae.networks import ATTRIBUTES, Autoencoder, build_autoencoder, pack
from deidcli.methods.dae.train import train
from deidcli.weights import own
from tests.conftest import PEOPLE
from tests.methods.dae.conftest import STRANGERS, TINY, context

BARE = {"deblur": "false", "smooth": "false", "blend": "false"}
"""The decoder's output as it is."""

# --- Trained weights, from the recipe to the published face

RECIPES = {
    "strangers": STRANGERS,
    "supervised": replace(TINY, target="supervised", attributes="Male"),
    "clusters": replace(TINY, target="clusters", clusters=3),
    "neighbors": TINY,
    "cells": replace(TINY, target="cells", network="conv"),
}


@pytest.fixture(scope="module", params=list(RECIPES))
def trained(
    request: pytest.FixtureRequest, labeled: Path, cache: Path, tmp_path_factory: Any
) -> tuple[str, Path]:
    """A target and the folder of its tiny weights."""
    out = tmp_path_factory.mktemp(request.param)
    assert train([labeled], out, RECIPES[request.param], cache) is not None
    return request.param, out


def checkpointed(target: str, path: Path) -> Autoencoder:
    """An autoencoder as a part of the training left it."""
    settings = RECIPES[target]
    shape = settings.channels if settings.network == "conv" else settings.widths
    network = build_autoencoder(settings.network, [int(part) for part in shape.split(",")], True)
    network.load_state_dict(torch.load(path, weights_only=True)["model"])
    return network.eval().requires_grad_(False)


def test_what_is_published_is_what_was_trained(
    trained: tuple[str, Path], portraits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trained
    monkeypatch.setenv("DEID_WEIGHTS", str(out))
    method: Any = load_method("dae", {"target": target, **BARE}, "cpu")
    with torch.inference_mode():
        made = method(portraits, context(24))
    autoencoder = checkpointed(target, out / "autoencoder.pt")
    codes = checkpointed(target, out / f"encoder-{target}.pt").encode(portraits)
    if target == "strangers":
        rows = method.strangers.draw(portraits, context(24).seeds)
        pool = method.strangers.pool
        codes = pool.codes[rows] + (codes @ pool.basis - pool.kept[rows]) @ pool.basis.T
        assert len(pool.codes) == 20, "ten of the pool, each flipped, too"
    if target == "clusters":
        assert len(method.centers) == 3
        codes = snapped(codes, method.centers)
    torch.testing.assert_close(made, autoencoder.decode(codes).clamp(0, 1), atol=0.02, rtol=0)


def test_trained_weights_hide_the_shipped_ones_of_their_kind_alone(
    trained: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trained
    monkeypatch.setenv("DEID_WEIGHTS", str(out))
    cards = own.own_cards()
    network = RECIPES[target].network
    assert {name for name in cards if name.startswith("dae")} == {f"dae-{network}", f"dae-{target}"}
    assert cards["attributes"].folder == own.weights_folder()
    assert cards[f"dae-{target}"].input["network"] == network
    assert cards[f"dae-{target}"].trained_on == "labeled"
    with pytest.raises(UsageError, match="target=none"):
        load_method("dae", {"target": "none"}, "cpu")


def test_clusters_publish_one_of_the_centers_and_nothing_else(
    labeled: Path,
    cache: Path,
    tmp_path: Path,
    portraits: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train([labeled], tmp_path, RECIPES["clusters"], cache)
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    faces = {}
    for snap in ("true", "false"):
        given = {"target": "clusters", "blend": "false", "snap": snap}
        faces[snap] = load_method("dae", given, "cpu")(portraits, context(len(portraits)))
    assert len(faces["true"].flatten(1).unique(dim=0)) <= 3 < len(portraits)
    assert len(faces["false"].flatten(1).unique(dim=0)) == len(portraits)


# --- The shipped weights: each network replaced


@pytest.fixture(scope="module")
def methods() -> dict[str, Any]:
    """The shipped methods by name of a variant."""
    return {
        "default": load_method("dae", {}, "cpu"),
        "bare": load_method("dae", BARE, "cpu"),
        "supervised": load_method("dae", {"target": "supervised", **BARE}, "cpu"),
        "neighbors": load_method("dae", {"target": "neighbors", **BARE}, "cpu"),
    }


UNIT = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
POINTS = align.apply_affine(UNIT, align.MEAN_FACE_5)
"""The landmarks of every chip: chips are aligned to the mean face."""


def pixels(chips: Tensor) -> np.ndarray:
    """(N, S, S, 3) uint8 of (N, 3, S, S) chips in [0, 1]."""
    return (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def likeness(faces: Tensor, others: Tensor) -> float:
    """Correlation over pixels and faces of the luma, less each side's mean face: light, pose."""
    a, b = (pack(some, False) - pack(some, False).mean(0) for some in (faces, others))
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9))


def sharpness(faces: Tensor) -> float:
    """Mean absolute Laplacian."""
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(3, 1, 3, 3)
    return float(functional.conv2d(faces, kernel, groups=3).abs().mean())


def attributes_of(chips: Tensor) -> np.ndarray:
    """(N, 5) bool: what the attribute classifier says of chips, for the matcher's attributes."""
    classifier = attributes.load("cpu")
    cut = np.stack([attributes.cut(classifier, chip, POINTS) for chip in pixels(chips)])
    columns = [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]
    said = np.asarray(attributes.predict(classifier, cut))[:, columns] >= 0.5
    return np.asarray(said)


def takes_over(method: Any, faces: Tensor) -> float:
    """How much of light and pose the published face has from the original."""
    return likeness(method(faces, context(len(faces))), faces)


def sharpened(method: Any, faces: Tensor) -> float:
    """By how much the deblurrer sharpens what the decoder gives, in percent."""
    given = method.network.decode(method.strangers.pool.codes[:32]).clamp(0, 1)
    return 100 * (sharpness(method.filters[0](given)) / sharpness(given) - 1)


def denoised(method: Any, faces: Tensor) -> float:
    """The share of noise that the smoother takes out of a face."""
    noise = 0.1 * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    left = method.filters[1](faces + noise) - faces
    return 1 - float(left.square().mean() / noise.square().mean())


def describes(method: Any, faces: Tensor) -> float:
    """In how many of its attributes the matcher agrees with the classifier."""
    logits, _, _ = method.strangers.matcher(pack(faces.double(), True))
    return float(((logits > 0).numpy() == attributes_of(faces)).mean())


def keeps(method: Any, faces: Tensor) -> float:
    """In how many of sex, smile and open mouth the published face agrees with the original."""
    same = [
        attributes_of(method(faces, context(len(faces), first))) == attributes_of(faces)
        for first in (1, 1000)
    ]
    return float(np.stack(same)[..., :3].mean())


@dataclass(frozen=True)
class Figure:
    """A figure that the shipped weights reach and others do not."""

    variant: str
    network: str
    of: Callable[[Any, Tensor], float]
    at_least: float


FIGURES = {
    "supervised encoder": Figure("supervised", "encoder", takes_over, 0.8),  # 0.91
    "supervised decoder": Figure("supervised", "decoder", takes_over, 0.8),
    "neighbors encoder": Figure("neighbors", "encoder", takes_over, 0.8),  # 0.91
    "neighbors decoder": Figure("neighbors", "decoder", takes_over, 0.8),
    "strangers encoder": Figure("bare", "encoder", takes_over, 0.55),  # 0.67; stranger alone 0.28
    "strangers decoder": Figure("bare", "decoder", takes_over, 0.55),
    "deblurrer": Figure("default", "deblurrer", sharpened, 10),  # 21
    "smoother": Figure("default", "smoother", denoised, 0.5),  # 0.69
    "matcher": Figure("default", "matcher", describes, 0.85),  # 0.93
    "matcher, published": Figure("default", "matcher", keeps, 0.75),  # 0.85
}
"""What is replaced -> the figure that falls apart; beside each bound what was measured."""


class FirstNumbers(nn.Module):
    """The nearest to an identity between two widths: the first numbers of the input, or zeros."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        flat = values.flatten(1)
        width = int(np.prod(self.shape))
        return functional.pad(flat, (0, max(0, width - flat.shape[1])))[:, :width].view(
            -1, *self.shape
        )


def noise_of(network: nn.Module) -> nn.Module:
    """A network of the same shape, its weights random with the same spread."""
    generator, out = torch.Generator().manual_seed(0), deepcopy(network)
    for value in out.parameters():
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        value.data = noise * (value.std() if value.numel() > 1 else 1)
    return out


def replaced(
    method: Any, name: str, change: str, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put noise or an identity in place of one of a method's networks."""
    if name in ("deblurrer", "smoother"):
        index = ("deblurrer", "smoother").index(name)
        filters = list(method.filters)
        filters[index] = noise_of(filters[index]) if change == "noise" else nn.Identity()
        monkeypatch.setattr(method, "filters", filters)
        return
    holder, name = (
        (method.strangers.matcher, "layers") if name == "matcher" else (method.network, name)
    )
    old = getattr(holder, name)
    if change == "noise":
        monkeypatch.setitem(holder._modules, name, noise_of(old))
        return
    given = method.network.encode(faces[:1])
    if name == "layers":
        shape: tuple[int, ...] = (len(old[-1].bias),)
    elif name == "encoder":
        shape = tuple(given.shape[1:])
    else:
        grid = getattr(method.network, "grid", 0)
        shape = tuple(old(given.view(1, -1, grid, grid) if grid else given).shape[1:])
    monkeypatch.setitem(holder._modules, name, FirstNumbers(shape))


@pytest.mark.parametrize("change", ["none", "noise", "identity"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_falls_apart_with_its_network(
    name: str,
    change: str,
    methods: dict[str, Any],
    portraits: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = FIGURES[name]
    method = methods[figure.variant]
    with torch.no_grad():
        if change != "none":
            replaced(method, figure.network, change, portraits, monkeypatch)
        reached = figure.of(method, portraits) >= figure.at_least
    assert reached == (change == "none")


def test_each_filter_is_applied_in_turn_and_the_tone_last(
    methods: dict[str, Any], portraits: Tensor
) -> None:
    deblurrer, smoother = methods["default"].filters
    with torch.inference_mode():
        plain = methods["bare"](portraits, context(24))
        made = {}
        for deblur, smooth, blend in ((1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)):
            flags = {"deblur": deblur, "smooth": smooth, "blend": blend}
            method = load_method("dae", {key: str(value) for key, value in flags.items()}, "cpu")
            made[deblur, smooth, blend] = method(portraits, context(24))
        sharp = deblurrer(plain).clamp(0, 1)
        expected = {
            (1, 0, 0): sharp,
            (0, 1, 0): smoother(plain).clamp(0, 1),
            (1, 1, 0): smoother(sharp).clamp(0, 1),
            (0, 0, 1): blended(portraits, plain, rim_to_face()),
        }
        both = methods["default"](portraits, context(24))
    for key, faces in expected.items():
        torch.testing.assert_close(made[key], faces, atol=1e-4, rtol=0)
        assert float((faces - plain).abs().mean()) > 1e-3, "as if it were not there"
    tone = blended(portraits, expected[1, 1, 0], rim_to_face())
    torch.testing.assert_close(both, tone, atol=1e-4, rtol=0)


# --- The shipped weights: faces


def test_a_face_does_not_depend_on_its_batch(methods: dict[str, Any], portraits: Tensor) -> None:
    shipped = methods["default"]
    many = torch.cat([portraits, portraits])  # more than a micro-batch
    with torch.inference_mode():
        whole = (shipped(many, context(48)) * 255).round()
        for row in (0, 7, 40):
            alone = (shipped(many[row : row + 1], context(1, row + 1)) * 255).round()
            assert torch.equal(whole[row], alone[0])


def test_another_seed_is_another_person(methods: dict[str, Any], portraits: Tensor) -> None:
    with torch.inference_mode():
        one, other = (methods["default"](portraits[:4], context(4, first)) for first in (1, 100))
    assert float((one - other).abs().mean()) > 0.01


def test_strangers_are_not_the_originals(methods: dict[str, Any], portraits: Tensor) -> None:
    def embedded(chips: Tensor) -> np.ndarray:
        cut = [recognizers.cut("dlib", chip, POINTS) for chip in pixels(chips)]
        return recognizers.embed("dlib", cut)

    with torch.inference_mode():
        made = methods["default"](portraits, context(24))
        tuned = methods["supervised"](portraits, context(24))
    gallery = embedded(portraits)
    own_distance = np.linalg.norm(gallery - embedded(made), axis=1)
    assert (own_distance > 0.6).mean() > 0.9
    assert np.linalg.norm(gallery - embedded(tuned), axis=1).mean() < own_distance.mean() - 0.05


def test_shipped_weights_are_small_and_their_cards_whole() -> None:
    cards = [card for card in own.own_cards().values() if card.kind == "dae"]
    assert len(cards) >= 4, "a default and two others on the trade-off, and what they share"
    folder = own.weights_folder()
    assert sum((folder / card.file).stat().st_size for card in cards) < 60e6
    for card in cards:
        assert card.trained_on and card.command and card.license, card.name
        assert {value.dtype for value in own.own_weights(card.name)[0].values()} == {torch.float16}


def test_the_command_records_weights_and_settings(deid: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = deid("anonymize", PEOPLE / "portraits", "--method", "dae", "--out", out)
    assert result.code == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["method_settings"]["target"] == "strangers"
    assert {"dae-fc", "dae-strangers"} <= set(manifest["weights"])
    assert manifest["counts"]["ok"] >= 20
