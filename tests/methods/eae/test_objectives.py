"""Each term of each objective reaches the network that it is meant for, and pulls it down."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.eae import losses, objectives
from deidcli.methods.eae.networks import ExternalAutoencoder, FeatureSelection
from deidcli.methods.eae.pen import PersonClassifier
from deidcli.methods.eae.recipe import DECIDES
from deidcli.methods.eae.run import EaeRun
from deidcli.training.chips import Chips
from tests.methods.eae.tiny import (
    batch_of,
    lively,
    random_internal,
    random_networks,
    tiny_run,
)

Networks = dict[str, nn.Module]
Objective = Callable[[], Tensor]


def fsn_part(run: EaeRun) -> tuple[Networks, Objective]:
    model = lively(FeatureSelection(run.size, len(run.fsn_attributes)), 0)
    images, rows = batch_of(run)
    targets = run.fsn_targets(rows)
    parts = {"blocks": model.shared, "groups": model.groups}
    return parts, lambda: objectives.fsn_objective(model, images, targets)


def external_part(run: EaeRun) -> tuple[Networks, Objective]:
    model = lively(ExternalAutoencoder(run.size), 0)
    images, _ = batch_of(run)
    return _halves(model), lambda: objectives.external_objective(run, model, images)


def internal_part(run: EaeRun) -> tuple[Networks, Objective]:
    model, frozen = random_internal(run), random_networks(run)
    images, rows = batch_of(run)
    encoder = nn.ModuleList([model.encoder, model.code])
    decoder = nn.ModuleList([model.decoder, model.norms])
    parts: Networks = {"encoder": encoder, "decoder": decoder}
    return parts, lambda: objectives.internal_objective(run, frozen, model, images, rows)


def sprn_part(run: EaeRun) -> tuple[Networks, Objective]:
    frozen = random_networks(run)
    model = deepcopy(frozen.external).requires_grad_(True)
    images, rows = batch_of(run)
    return _halves(model), lambda: objectives.sprn_objective(run, frozen, model, images, rows)


def pen_part(run: EaeRun) -> tuple[Networks, Objective]:
    torch.manual_seed(0)
    embedder = lively(nn.Sequential(nn.Flatten(), nn.Linear(3 * 112 * 112, 512)), 0)
    model = PersonClassifier(embedder, 3)
    images, rows = batch_of(run)
    parts: Networks = {"embedder": embedder, "centers": nn.ParameterList([model.centers])}
    return parts, lambda: objectives.pen_objective(model, images, rows % 3)


def _halves(model: ExternalAutoencoder) -> Networks:
    return {"encoder": model.encoder, "decoder": model.decoder}


PARTS = {
    "fsn": fsn_part,
    "external": external_part,
    "internal": internal_part,
    "sprn": sprn_part,
    "pen": pen_part,
}
TERMS = [
    ("fsn", "attribute_loss", "blocks"),
    ("fsn", "attribute_loss", "groups"),
    ("external", "reconstruction_loss", "encoder"),
    ("external", "reconstruction_loss", "decoder"),
    ("internal", "code_loss", "encoder"),
    ("internal", "attribute_loss", "decoder"),
    ("internal", "reconstruction_loss", "decoder"),
    ("internal", "identity_loss", "decoder"),
    ("internal", "likeness_loss", "decoder"),
    *[
        ("sprn", term, half)
        for term in ("attribute_loss", "identity_loss", "reconstruction_loss")
        for half in ("encoder", "decoder")
    ],
    ("pen", "arcface_loss", "embedder"),
    ("pen", "arcface_loss", "centers"),
]
ALL_TERMS = sorted({term for _, term, _ in TERMS})


def gradient(objective: Objective, module: nn.Module) -> Tensor:
    """All gradients of an objective in a network, in one row; 0 where it does not reach."""
    values = list(module.parameters())
    loss = objective()
    if not loss.requires_grad:
        return torch.cat([torch.zeros(value.numel()) for value in values])
    found = torch.autograd.grad(loss, values, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(value) if grad is None else grad).flatten()
            for value, grad in zip(values, found, strict=True)
        ]
    )


def drop(patch: pytest.MonkeyPatch, *terms: str) -> None:
    """Make some terms 0, of which no gradient comes."""
    for term in terms:
        whole: Callable[..., Tensor] = getattr(losses, term)
        patch.setattr(losses, term, lambda *args, whole=whole: whole(*args).detach() * 0)


def test_every_part_is_looked_at() -> None:
    assert {part for part, _, _ in TERMS} == set(PARTS) == set(DECIDES)


@pytest.mark.parametrize(("part", "term", "network"), TERMS)
def test_a_term_changes_the_gradient(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, term: str, network: str
) -> None:
    networks, objective = PARTS[part](tiny_run(tmp_path))
    whole = gradient(objective, networks[network])
    drop(monkeypatch, term)
    change = (gradient(objective, networks[network]) - whole).norm()
    assert float(change) > 1e-6 * float(whole.norm())
    assert float(change) > 1e-9


@pytest.mark.parametrize(("part", "term", "network"), TERMS)
def test_a_step_down_lowers_the_term(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, term: str, network: str
) -> None:
    """With all other terms dropped: so none has its sign swapped."""
    networks, objective = PARTS[part](tiny_run(tmp_path))
    others = [other for other in ALL_TERMS if other != term]
    if term == "code_loss":  # it is made of the attribute loss
        others.remove("attribute_loss")
    seen: list[float] = []
    whole: Callable[..., Tensor] = getattr(losses, term)

    def recorded(*args: Any) -> Tensor:
        value = whole(*args)
        seen.append(float(value.detach().sum()))
        return value

    drop(monkeypatch, *others)
    monkeypatch.setattr(losses, term, recorded)
    values = list(networks[network].parameters())
    down = gradient(objective, networks[network])
    length = 1e-5 * torch.cat([value.detach().flatten() for value in values]).norm() / down.norm()
    pieces = torch.split(length * down, [value.numel() for value in values])
    with torch.no_grad():
        for value, piece in zip(values, pieces, strict=True):
            value.sub_(piece.view_as(value))
    objective()
    half = len(seen) // 2
    assert len(seen) == 2 * half > 0
    assert sum(seen[half:]) < sum(seen[:half])


@pytest.mark.parametrize(
    ("part", "weight", "network"),
    [
        ("internal", "a1", "encoder"),
        ("internal", "a1", "decoder"),
        ("internal", "a2", "decoder"),
        ("internal", "alike", "decoder"),
        ("sprn", "a1", "encoder"),
        ("sprn", "a2", "encoder"),
    ],
)
def test_the_weight_of_a_term_is_its_factor(
    tiny: Chips, tmp_path: Path, part: str, weight: str, network: str
) -> None:
    zero, one, three = (
        gradient(objective, networks[network])
        for networks, objective in (
            PARTS[part](tiny_run(tmp_path, **{weight: value})) for value in (0.0, 1.0, 3.0)
        )
    )
    assert float((one - zero).norm()) > 1e-4 * float(one.norm())
    apart = ((three - zero) - 3 * (one - zero)).norm()
    assert float(apart) < 1e-2 * float((three - zero).norm())


def test_the_picture_terms_do_not_reach_the_internal_encoder(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is today, and as the docs say: rounding passes no gradient."""
    networks, objective = internal_part(tiny_run(tmp_path))
    whole = gradient(objective, networks["encoder"])
    drop(monkeypatch, "reconstruction_loss", "identity_loss", "likeness_loss")
    assert torch.equal(gradient(objective, networks["encoder"]), whole)


def test_the_frozen_networks_get_no_gradient(tiny: Chips, tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    model, frozen = random_internal(run), random_networks(run)
    images, rows = batch_of(run)
    before = deepcopy([frozen.fsn.state_dict(), frozen.external.state_dict()])
    objectives.internal_objective(run, frozen, model, images, rows).backward()
    for module, state in zip((frozen.fsn, frozen.external), before, strict=True):
        assert not any(part.training for part in module.modules())
        assert all(value.grad is None for value in module.parameters())
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("soft", [0.0, 0.3])
def test_the_internal_objective_is_the_sum_written_out(
    tiny: Chips, tmp_path: Path, soft: float
) -> None:
    """Eq. 7 by torch's own losses, one face and one attribute at a time; one label is missing."""
    tiny.labels[2] = 0
    run = tiny_run(tmp_path, attrs="SE", fsn_attrs="ESG", soft=soft, a1=2.0, a2=3.0, alike=5.0)
    assert run.attributes == ("Smiling", "Eyeglasses")
    model, frozen = random_internal(run), random_networks(run)
    images, rows = batch_of(run)
    loss = objectives.internal_objective(run, frozen, model, images, rows)

    columns = {"Smiling": 31, "Eyeglasses": 15}
    group = {"Smiling": 1, "Eyeglasses": 0}
    code = model.encode(frozen.external.encode(images))
    answers = frozen.fsn(images).softmax(2)[:, :, 1]
    on_code = torch.tensor(0.0)
    for unit, name in enumerate(run.attributes):
        for face in range(8):
            soft_label = answers[face, group[name]]
            label = (tiny.labels[face, columns[name]] + 1) / 2
            target = soft_label if face == 2 else (1 - soft) * label + soft * soft_label
            on_code += functional.binary_cross_entropy(code[face, unit].sigmoid(), target) / 8
    bits = (code > 0) * 2.0 - 1
    codes = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    y = model.decode(codes)
    pictures = frozen.external.decode(y)
    attributes = torch.tensor(0.0)
    for unit, name in enumerate(run.attributes):
        present = (codes[:, unit] > 0).long()
        for shown in (pictures, pictures.flip(3)):
            logits = frozen.fsn(shown)[:, group[name]]
            attributes = attributes + functional.cross_entropy(logits, present) / 2
    own = [int((codes == row).all(1).nonzero()) for row in bits]
    assert len(set(own)) > 2
    embeddings = frozen.pen(pictures)
    closeness = (frozen.fsn.desired(images) - y[own]).square().mean()
    cosines = functional.cosine_similarity(frozen.pen(images), embeddings[own])
    alike = losses.likeness_loss(embeddings)
    expected = 2 * on_code + closeness + 2 * attributes + 3 * cosines.clamp(min=0).mean()
    assert loss.item() == pytest.approx((expected + 5 * alike).item(), rel=1e-5)


def test_many_attributes_have_only_the_codes_of_the_batch_judged() -> None:
    bits = torch.tensor([[1.0, -1, 1, 1, -1, 1], [-1.0, -1, 1, 1, -1, 1], [1.0, -1, 1, 1, -1, 1]])
    codes, inverse = objectives.distinct_codes(bits)
    assert len(codes) == 2
    assert torch.equal(codes[inverse], bits)


def test_up_to_five_attributes_have_all_codes_judged() -> None:
    bits = torch.tensor([[1.0, -1, -1], [-1.0, 1, 1]])
    codes, inverse = objectives.distinct_codes(bits)
    assert len(torch.unique(codes, dim=0)) == len(codes) == 8
    assert torch.equal(codes[inverse], bits)
