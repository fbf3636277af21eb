"""sdn: every loss term reaches the network that it is meant for, in the right direction."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deidcli.methods.sdn import losses, train
from deidcli.methods.sdn.bottleneck import Bottleneck
from deidcli.methods.sdn.fitting import batch_of
from deidcli.methods.sdn.keyed_map import KeyedMap
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.networks import SIZES, FeatureExtractor, at_side
from deidcli.methods.sdn.passes import BothDirections
from deidcli.methods.sdn.portraits import portraits_of, stored
from deidcli.methods.sdn.recipe import Recipe
from deidcli.methods.sdn.refinement import AVERAGE, RefinementTraining
from deidcli.methods.sdn.training_faces import (
    Faces,
    flipped_half,
    flipped_landmarks,
    load_faces,
)
from deidcli.training.loop import TrainingRun, average_decay, seed_step
from tests.methods.sdn.faces import training_data

ROWS = torch.arange(0, 24, 3)
"""Eight faces of a batch."""
STILL = Recipe(
    rate=0.0, steps=4, adversarial_from=0.0, classifier_every=1, batch_size=8, extractor_batch=8,
    adversarial=1.0, alike=1.0, attributes=1.0, wrong=1.0, information=1.0, extractor_steps=1,
)  # fmt: skip
"""All losses in each step, and a learning rate that leaves the networks as they are."""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """The 24 portraits, as eight pictures of each of three persons."""
    folder = tmp_path_factory.mktemp("faces")
    found = load_faces([training_data(folder / "celeba")], 64, folder / "cache", 0, labeled=True)
    assert len(found) == 24 and found.people == 3
    return found


def training_of(faces: Faces, method: SecureDualNetwork, recipe: Recipe) -> RefinementTraining:
    """The joint training with the shipped bottleneck, six portraits and an untrained extractor."""
    torch.manual_seed(1)
    extractor = FeatureExtractor(SIZES["compact"], faces.people).eval()
    bottleneck = deepcopy(method.bottleneck)
    pool = stored(portraits_of(faces, 6), extractor, bottleneck, flipped=True)
    people = stored(faces.chips, extractor, bottleneck, flipped=False)
    made = RefinementTraining(faces, extractor, bottleneck, pool, people, faces.persons, recipe)
    for network in (made.networks.erasing, made.networks.reveal):  # the last layers start at zero
        nn.init.normal_(network.last.weight, std=0.02)
    return made


@pytest.fixture(scope="module")
def still(faces: Faces, method: SecureDualNetwork) -> RefinementTraining:
    return training_of(faces, method, STILL)


@pytest.fixture(autouse=True)
def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients as they are, so that terms add up."""
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: None)


def gradient(network: nn.Module) -> Tensor:
    """The gradients that a step left, in one row."""
    return torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])


class Watched:
    """A loss function whose n-th call in a step is recorded, and left out if asked to."""

    def __init__(self, original: Callable[..., Tensor], call: int, share: float) -> None:
        self.original, self.call, self.share = original, call, share
        self.calls, self.value = 0, float("nan")

    def __call__(self, *args: Any) -> Tensor:
        value = self.original(*args)
        if self.calls == self.call:
            self.value = float(value.detach())
            value = value * self.share
        self.calls += 1
        return value


def check_term(
    training: RefinementTraining, network: nn.Module, loss: str, call: int, up: bool
) -> None:
    """A step without the term has another gradient, and what the term adds lowers it (or raises
    it)."""

    def one_step(share: float) -> float:
        watched = Watched(original, call, share)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, loss, watched)
            training.step(0, ROWS, seed_step(0, 0))
        assert watched.calls > call, f"{loss} is called {watched.calls} times"
        return watched.value

    original = getattr(losses, loss)
    before = one_step(1.0)
    full = gradient(network)
    one_step(0.0)
    added = full - gradient(network)
    assert float(added.norm()) > 1e-6 * float(full.norm()), f"{loss} does not move the network"
    state = deepcopy(network.state_dict())
    moved = [p for p in network.parameters() if p.grad is not None]
    try:
        steps = (0.02 * added / added.norm()).split([p.numel() for p in moved])
        with torch.no_grad():
            for parameter, step in zip(moved, steps, strict=True):
                parameter.sub_(step.view(parameter.shape))
        after = one_step(1.0)
    finally:
        network.load_state_dict(state)
    assert (after > before) == up and after != before


TERMS = [
    ("eq. 5", "networks.extractor", "extractor_loss", 0),
    ("eq. 6, same", "networks.erasing", "reconstruction_loss", 0),
    ("eq. 6, back", "networks.erasing", "reconstruction_loss", 1),
    ("eq. 6, edges", "networks.erasing", "gradient_loss", 0),
    ("eq. 7", "networks.erasing", "attribute_loss", 0),
    ("eq. 9", "discriminator", "discriminator_identity_loss", 0),
    ("eq. 10", "discriminator", "discriminator_attribute_loss", 0),
    ("eq. 12", "networks.reveal", "reidentification_loss", 0),
    ("eq. 12, edges", "networks.reveal", "gradient_loss", 1),
    ("eq. 13", "networks.reveal", "wrong_password_loss", 0),
    ("eq. 16, V, surrogate", "networks.erasing", "adversarial_loss", 0),
    ("alike", "networks.reveal", "adversarial_loss", 1),
    ("eq. 16, patches", "discriminator", "real_or_fake_loss", 0),
    ("restorations", "restoration_discriminator", "real_or_fake_loss", 1),
    ("eq. 20", "networks.reveal", "information_upper_bound", 0),
]
GAINS = [
    ("eq. 21, kept", "networks.erasing", "information_lower_bound", 0),
    ("eq. 21, kept, width", "widths", "information_lower_bound", 0),
    ("eq. 21, face", "networks.reveal", "information_lower_bound", 1),
    ("eq. 21, face, width", "widths", "information_lower_bound", 1),
]


@pytest.mark.parametrize(
    ("network", "loss", "call"), [t[1:] for t in TERMS], ids=[t[0] for t in TERMS]
)
def test_a_term_lowers_its_loss(
    still: RefinementTraining, network: str, loss: str, call: int
) -> None:
    check_term(still, still.get_submodule(network), loss, call, up=False)


@pytest.mark.parametrize(
    ("network", "loss", "call"), [t[1:] for t in GAINS], ids=[t[0] for t in GAINS]
)
def test_a_term_of_information_raises_its_bound(
    still: RefinementTraining, network: str, loss: str, call: int
) -> None:
    check_term(still, still.get_submodule(network), loss, call, up=True)


@pytest.mark.parametrize("setting", ["attributes", "wrong", "information", "adversarial", "alike"])
def test_a_weight_of_the_recipe_weighs(still: RefinementTraining, setting: str) -> None:
    """The recipe's own weight scales its term: with half of it, half of what the term adds."""
    networks = nn.ModuleList([still.networks.erasing, still.networks.reveal])

    def at(weight: float) -> Tensor:
        still.recipe = Recipe(**{**vars(STILL), setting: weight})
        try:
            still.step(0, ROWS, seed_step(0, 0))
        finally:
            still.recipe = STILL
        return gradient(networks).double()

    full, half, none = at(1.0), at(0.5), at(1e-9)
    assert float((full - none).norm()) > 1e-6 * float(full.norm())
    rest = (half - none) - (full - none) / 2
    assert float(rest.norm()) < 0.01 * float((full - none).norm())


def test_surrogates_and_wrong_restorations_have_known_people(still: RefinementTraining) -> None:
    """Eq. 5 and 13 need them: half of the batch has the latents of training faces."""
    with torch.no_grad():
        given = still.networks(batch_of(still.faces.chips[ROWS]), seed_step(0, 0))
    for persons in (given.sources, given.strangers):
        assert bool((persons[:4] == -1).all()) and bool((persons[4:] >= 0).all())


@pytest.mark.xfail(
    strict=True,
    reason="eq. 6's second term is dead: what it is laid over is overwritten by the original; with "
    "noise in place of the surrogate the gradient differs by 0.0",
)
def test_what_eq_6_is_laid_over_matters(
    still: RefinementTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    still.step(0, ROWS, seed_step(0, 0))
    full = gradient(still.networks.erasing)
    own = BothDirections._own

    def over_noise(self: BothDirections, *args: Any) -> Tensor:
        components, small, surrogate, generator = args
        noise = torch.rand(surrogate.shape, generator=torch.Generator().manual_seed(5))
        return own(self, components, small, noise, generator)

    monkeypatch.setattr(BothDirections, "_own", over_noise)
    still.step(0, ROWS, seed_step(0, 0))
    assert float((gradient(still.networks.erasing) - full).abs().max()) > 0.0


# --- Schedules and averages


def test_who_learns_when(faces: Faces, method: SecureDualNetwork) -> None:
    """Algorithm 1: the discriminators from their share of the steps on, the classifier every so
    many steps, the refinement networks always."""
    recipe = Recipe(steps=4, adversarial_from=0.5, classifier_every=2, batch_size=8)
    training = training_of(faces, method, recipe)
    watched = {
        "refinement": training.networks.erasing.last,
        "reveal": training.networks.reveal.last,
        "discriminator": training.discriminator.patches,
        "restorations": training.restoration_discriminator.patches,
        "classifier": training.networks.extractor.persons,
    }
    moved: dict[str, list[int]] = {name: [] for name in watched}
    for step in range(4):
        before = {name: module.weight.detach().clone() for name, module in watched.items()}
        training.step(step, ROWS, seed_step(0, step))
        for name, module in watched.items():
            if not torch.equal(before[name], module.weight):
                moved[name].append(step)
    assert moved["refinement"] == moved["reveal"] == [0, 1, 2, 3]
    assert moved["discriminator"] == moved["restorations"] == [2, 3]
    assert moved["classifier"] == [1, 3]


def test_the_average_follows_the_refinement_networks(
    faces: Faces, method: SecureDualNetwork
) -> None:
    training = training_of(faces, method, Recipe(steps=8, batch_size=8))
    for part in ("erasing", "reveal"):
        training.get_submodule(f"{part}_average").load_state_dict(
            training.networks.get_submodule(part).state_dict()
        )
    parts = [training.networks.erasing.last.weight, training.networks.reveal.last.weight]
    expected = [part.detach().clone() for part in parts]
    for step in range(3):
        training.step(step, ROWS, seed_step(0, step))
        for mean, part in zip(expected, parts, strict=True):
            mean.lerp_(part.detach(), 1 - average_decay(step, AVERAGE))
    for mean, part, network in zip(
        expected, parts, (training.erasing_average, training.reveal_average), strict=True
    ):
        assert torch.allclose(network.last.weight, mean, atol=1e-7)
        assert not torch.equal(network.last.weight, part)


def test_discriminators_learn_to_tell_separable_pictures(
    faces: Faces, method: SecureDualNetwork
) -> None:
    """Real patches score above those of inverted pictures, right restorations above wrong ones,
    and the gap grows."""
    training = training_of(faces, method, Recipe())
    chips = batch_of(faces.chips[ROWS])
    with torch.no_grad():
        given = training.networks(chips, seed_step(0, 0))
    given = given._replace(surrogate=1 - chips, right=chips, wrong=1 - chips)

    def gaps() -> list[float]:
        with torch.no_grad():
            return [
                float(net(chips)[0].mean() - net(1 - chips)[0].mean())
                for net in (training.discriminator, training.restoration_discriminator)
            ]

    start = gaps()
    for _ in range(25):
        training._discriminator_step(chips, faces.labels[ROWS], given, 1.0)
    assert min(gaps()) > 0.5 > max(start)


# --- The extractor


def test_flipped_faces_have_flipped_landmarks(faces: Faces) -> None:
    """The left eye of a flipped face is where its right one was, and so on."""
    chips = batch_of(faces.chips[ROWS])
    mixed, flips = flipped_half(chips, seed_step(0, 0))
    assert 0 < int(flips.sum()) < len(ROWS)
    assert torch.equal(mixed[flips], chips[flips].flip(3))
    assert torch.equal(mixed[~flips], chips[~flips])
    points = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    assert flipped_landmarks(points).tolist() == [[-5.0, 6, -7, 8, -1, 2, -3, 4, -9, 10]]
    assert torch.equal(flipped_landmarks(flipped_landmarks(points)), points)


def run_extractor(faces: Faces, recipe: Recipe, tmp_path: Any) -> FeatureExtractor:
    return train.train_extractor(faces, TrainingRun(recipe, tmp_path))


def test_the_extractor_learns_flipped_landmarks(
    faces: Faces, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    original = nn.functional.mse_loss

    def watched(guess: Tensor, points: Tensor) -> Tensor:
        seen.append(points)
        return original(guess, points)

    flips = torch.tensor([True, False] * 4)
    monkeypatch.setattr(train.functional, "mse_loss", watched)
    monkeypatch.setattr(train, "flipped_half", lambda chips, _: (chips, flips))
    few = Faces(faces.chips[ROWS], faces.labels[ROWS], faces.landmarks[ROWS], faces.persons[ROWS])
    run_extractor(few, STILL, tmp_path)
    deviation = few.landmarks.std(0).clamp(min=1e-3)
    expected = few.landmarks.clone()
    expected[flips] = flipped_landmarks(expected[flips])
    assert torch.allclose(seen[0], expected / deviation)


@pytest.mark.parametrize(
    ("module", "name", "head"),
    [
        (train, "binary_cross_entropy", "attributes"),
        (nn.functional, "mse_loss", "landmarks"),
        (train, "cross_entropy", "persons"),
    ],
    ids=["attributes", "landmarks", "persons"],
)
def test_a_term_of_the_extractor_moves_its_head(
    faces: Faces,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    head: str,
) -> None:
    full = run_extractor(faces, STILL, tmp_path / "full")
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: original(*args) * 0)
    without = run_extractor(faces, STILL, tmp_path / "without")
    assert float(gradient(full.get_submodule(head)).abs().max()) > 0
    assert float(gradient(without.get_submodule(head)).abs().max()) == 0
    assert not torch.equal(full.features.weight.grad, without.features.weight.grad)  # type: ignore[arg-type]


def test_the_extractor_learns(faces: Faces, tmp_path: Any) -> None:
    """Who it is, sex and pose of 24 faces, by heart."""
    net = run_extractor(faces, Recipe(extractor_steps=60, extractor_batch=24), tmp_path)
    with torch.no_grad():
        logits, landmarks, persons = net(batch_of(faces.chips))
    points = faces.landmarks / faces.landmarks.std(0).clamp(min=1e-3)
    male = faces.labels[:, 20]
    assert float(((logits[:, 20] > 0) == (male > 0)).float().mean()) > 0.8
    assert float((persons.argmax(1) == faces.persons).float().mean()) > 0.6
    assert float((landmarks - points).square().mean()) < 0.7


# --- The pass


def test_a_pass_hides_under_one_key_and_errs_under_another(
    still: RefinementTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without losses on the way, the right restoration is the face and the wrong one is not."""
    used: list[KeyedMap] = []
    unlocked = Bottleneck.unlocked

    def watched(self: Bottleneck, points: Tensor, keys: KeyedMap) -> tuple[Tensor, Tensor, Tensor]:
        used.append(keys)
        return unlocked(self, points, keys)

    monkeypatch.setattr(Bottleneck, "unlocked", watched)
    monkeypatch.setattr(BothDirections, "_seen", lambda self, published, _: published)
    off = lambda self, network, rough, chips: at_side(rough, chips.shape[-1])  # noqa: E731
    monkeypatch.setattr(BothDirections, "refine", off)
    chips = batch_of(still.faces.chips[ROWS])
    with torch.no_grad():
        given = still.networks(chips, seed_step(0, 0))
    inside = still.networks.mask > 0.9
    right, wrong = (
        (x - chips)[:, :, inside].abs().mean((1, 2)) for x in (given.right, given.wrong)
    )
    assert bool((2 * right < wrong).all()) and float(right.mean()) < 0.03
    assert len(used) == 2 and not torch.equal(used[0].order, used[1].order)


def test_the_learning_rate_rises_and_falls(faces: Faces, method: SecureDualNetwork) -> None:
    training = training_of(faces, method, Recipe(rate=1e-4, steps=100, adversarial_from=0.0))
    rates = []
    for step in (0, 9, 50, 99):
        training.step(step, ROWS, seed_step(0, step))
        rates.append([group["lr"] for group in training.refinement_optimizer.param_groups])
    assert [rate[0] for rate in rates] == [
        pytest.approx(1e-4 * factor, rel=0.02) for factor in (0.1, 1.0, 0.6, 0.02)
    ]
    assert all(rate[0] == rate[1] for rate in rates)  # the widths of eq. 21 follow
