"""sdn: keys, the hidden point, losses of known answer, both directions, resume, the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode, encode
from deidcli.errors import DeidError, UsageError
from deidcli.evaluate.quality import ssim
from deidcli.faces.align import Image, chip_affine, crop, paste
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.methods import load_method
from deidcli.methods.base import Context
from deidcli.methods.sdn import (
    channel as sdn_channel,
)
from deidcli.methods.sdn import (
    keys as sdn_keys,
)
from deidcli.methods.sdn import losses
from deidcli.methods.sdn import (
    method as sdn,
)
from deidcli.methods.sdn import (
    networks as sdn_nets,
)
from deidcli.methods.sdn import (
    train as sdn_training,
)
from deidcli.methods.sdn.bottleneck import Bottleneck, to_planes, to_rgb
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.method import SecureDualNetwork, Settings
from deidcli.methods.sdn.settings import canonical, parse_degrees, parse_wanted
from deidcli.methods.sdn.shift import directions, traits
from tests.conftest import PEOPLE, Outcome, copy_people
from tests.test_datasets import celeba

# --- Keys


def bits_of(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, (count, 128)).astype(np.uint8)


def test_a_key_turns_the_sphere_and_turns_it_back() -> None:
    keys = sdn_keys.expand(bits_of(3))
    points = torch.randn(3, sdn_keys.CODE, dtype=torch.float64)
    locked = sdn_keys.lock(points, keys)
    assert torch.allclose(locked.norm(dim=1), points.norm(dim=1))
    assert torch.allclose(sdn_keys.unlock(locked, keys), points)
    assert not torch.allclose(locked, points, atol=0.5)


@pytest.mark.parametrize("bit", [0, 5, 127])
def test_one_flipped_bit_is_another_key(bit: int) -> None:
    bits = bits_of(1)
    other = bits.copy()
    other[0, bit] ^= 1
    points = torch.randn(1, sdn_keys.CODE)
    locked = sdn_keys.lock(points, sdn_keys.expand(bits))
    back = sdn_keys.unlock(locked, sdn_keys.expand(other))
    # Unrelated points of 1,024 dimensions have a cosine of 0 with a deviation of 1/32.
    assert abs(float(torch.cosine_similarity(back, points))) < 5 / 32


def test_a_key_is_bound_to_what_was_asked_for() -> None:
    plain, bound = (sdn_keys.expand(bits_of(1), text) for text in ("", "Male:1"))
    assert not torch.equal(plain.order, bound.order)
    assert float(plain.draws[0, 0]) != float(bound.draws[0, 0])


def test_keys_stay_what_they_are() -> None:
    """Pictures that were published once must open with every later version."""
    keys = sdn_keys.expand(np.arange(128, dtype=np.uint8)[None] % 2)
    assert keys.order[0, :4].tolist() == [837, 631, 309, 707]
    assert float(keys.draws[0, 0]) == pytest.approx(0.9093429909917493, abs=1e-12)


# --- Losses


def test_classifier_and_wrong_password_losses_are_cross_entropies() -> None:
    """Eq. 5 and 13; a person with number -1 is not known and does not count."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    one = math.log(1 + math.exp(-2))
    known, unknown = torch.tensor([0, -1]), torch.tensor([-1, -1])
    assert float(losses.wrong_password_loss(logits, known)) == pytest.approx(one)
    assert float(losses.wrong_password_loss(logits, unknown)) == 0
    both = losses.extractor_loss(logits, logits, known, torch.tensor([-1, 1]))
    assert float(both) == pytest.approx(one + math.log(2))


def test_attribute_losses_leave_out_what_is_not_asked() -> None:
    """Eq. 7 and 10."""
    logits = torch.tensor([[0.0, 3.0]])
    labels = torch.tensor([[1.0, -1.0]])
    assert float(losses.attribute_loss(logits, labels)) == pytest.approx(math.log(2))
    other = torch.tensor([[1.0, 0.0]])
    second = (math.log(2) + math.log(1 + math.exp(3))) / 2
    both = losses.discriminator_attribute_loss(logits, labels, logits, other)
    assert float(both) == pytest.approx(math.log(2) + second)


def test_distances_of_pictures() -> None:
    """Eq. 6 and 12."""
    zero, half = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert float(losses.reconstruction_loss(zero, half, zero)) == pytest.approx(0.5)
    assert float(losses.reidentification_loss(zero, half)) == pytest.approx(1.0)
    ramp = torch.arange(4.0).expand(2, 3, 4, 4)
    assert float(losses.gradient_loss(zero, ramp)) == pytest.approx(1.0)


def test_sums_of_the_paper() -> None:
    """Eq. 8, 9, 11, 14, 15."""
    one, two, three = (torch.tensor(float(n)) for n in (1, 2, 3))
    assert float(losses.encoder_loss(one, two)) == 3
    assert float(losses.discriminator_loss(one, two)) == 3
    assert float(losses.decoder_loss(two, three)) == 5
    assert float(losses.total_loss(one, two)) == 30
    sure, even = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(losses.discriminator_identity_loss(sure, even)) == pytest.approx(1.0)


def test_information_bounds_are_those_of_gaussians() -> None:
    """Eq. 20 and 21: the KL of N(m, 1) and N(0, 1) is m^2 / 2; log q peaks at the truth."""
    assert float(losses.information_upper_bound(torch.full((2, 3), 2.0))) == pytest.approx(2.0)
    code, width = torch.randn(5, 4), torch.zeros(4)
    at_truth = losses.information_lower_bound(code, code, width)
    assert float(at_truth) == 0
    assert float(losses.information_lower_bound(code, code + 1, width)) == pytest.approx(-0.5)
    narrow = losses.information_lower_bound(code, code, width - 2)
    assert float(narrow) == pytest.approx(1.0)


# --- Networks


def test_the_paper_size_costs_what_the_paper_says() -> None:
    """Table 5: 13.09 G multiply-accumulates; counted for both directions and the extractor."""
    size = sdn_nets.SIZES["paper"]
    chip, mask = torch.zeros(1, 3, 128, 128), torch.from_numpy(sdn_nets.edge_mask(128))
    painter = sdn_nets.multiply_accumulates(sdn_nets.Painter(size), chip, mask)
    extractor = sdn_nets.multiply_accumulates(sdn_nets.FeatureExtractor(size, 10).eval(), chip)
    linear = 2 * sum(part.numel() for part in (Bottleneck().basis, Bottleneck().carriers))
    assert (2 * painter + 2 * extractor + linear) / 13.09e9 == pytest.approx(1, abs=0.05)


def test_multiply_accumulates_of_a_convolution() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, 2, 1)
    assert sdn_nets.multiply_accumulates(layer, torch.zeros(1, 3, 16, 16)) == 8 * 64 * 27


@pytest.mark.parametrize("name", ["compact", "paper"])
def test_painters_leave_the_surroundings(name: str) -> None:
    size = sdn_nets.SIZES[name]
    torch.manual_seed(0)
    painter = sdn_nets.Painter(size)
    torch.nn.init.normal_(painter.last.weight)
    mask = torch.from_numpy(sdn_nets.edge_mask(size.side))
    chips = torch.rand(1, 3, size.side, size.side)
    with torch.no_grad():
        painted = painter(chips, mask)
    outside = mask <= sdn_nets.OUTSIDE
    assert torch.equal(painted[:, :, outside], chips[:, :, outside])
    assert float((painted - chips)[:, :, ~outside].abs().mean()) > 0.01


def test_planes_keep_lengths() -> None:
    chips = torch.rand(2, 3, 8, 8)
    planes = to_planes(chips)
    assert torch.allclose(planes.norm(), chips.norm())
    assert torch.allclose(to_rgb(planes), chips, atol=1e-6)


# --- The channel


def test_the_channel_does_what_files_do(chips: torch.Tensor) -> None:
    """Against align.paste, the tool's own JPEG and align.crop, for CelebA's scale."""
    side, scale = 176, 0.43
    chip = (chips[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    offset = 31.5 - scale * (side - 1) / 2
    affine = np.array([[scale, 0, offset], [0, scale, offset]])
    frame = np.full((side, side, 3), 128, np.uint8)
    paste(frame, chip, affine, np.ones((64, 64), np.float32))
    real = crop(decode(encode(frame, "JPEG")).pixels, affine, 64, True)
    passage = sdn_channel.Passage(scale, 95)
    generator = torch.Generator().manual_seed(0)
    seen = sdn_channel.passed(chips[:1], passage, generator)[0].permute(1, 2, 0).numpy() * 255
    middle = slice(8, 56)
    moved = np.abs(seen - chip)[middle, middle].mean()
    assert np.abs(seen - real)[middle, middle].mean() < 0.6 * moved


def test_gradients_pass_the_channel(chips: torch.Tensor) -> None:
    given = chips[:2].clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    sdn_channel.passed(given, sdn_channel.Passage(0.43, 90), generator).sum().backward()
    assert given.grad is not None
    assert float(given.grad[:, :, 20:44, 20:44].mean()) == pytest.approx(1, abs=0.1)


# --- Attributes and directions


def test_text_of_what_is_asked_for() -> None:
    assert parse_wanted("S:0, Male:1") == {"Smiling": False, "Male": True}
    assert parse_degrees("Smiling:+2,Mustache:-0.5") == {"Smiling": 2.0, "Mustache": -0.5}
    assert canonical({"Smiling": False, "Male": True}, {"Young": -1.0}) == (
        "Male:1,Smiling:0,Young:-1"
    )
    for wrong in ("Male:2", "Male", "Male:yes"):
        with pytest.raises(ValueError, match="1 or 0"):
            parse_wanted(wrong)
    with pytest.raises(ValueError, match="-2 to 2"):
        parse_degrees("Smiling:3")


@pytest.mark.parametrize("option", ["wanted=Happy:1", "shift=Smiling:5", "strength=90"])
def test_settings_that_cannot_be_are_usage_errors(option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(UsageError):
        load_method("sdn", {key: value}, "cpu")


def test_a_direction_crosses_its_boundary() -> None:
    """Codes whose fourth component, of small spread, decides the label."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.5, 160)
    codes = torch.randn(600, 160, generator=generator) * spread
    labels = torch.full((600, 40), -1.0)
    labels[:, 20] = (codes[:, 3] > 0).float()
    found = directions(codes, labels)
    assert not found.steps[19].any() and not found.steps[:, 128:].any()
    assert float(found.normals[20] @ found.steps[20]) == pytest.approx(1, rel=1e-4)
    standing = codes @ found.normals[20] + found.offsets[20]
    assert float(((standing > 0) == (labels[:, 20] > 0)).float().mean()) > 0.95
    assert float(standing.std()) == pytest.approx(1, abs=0.05)
    assert int(found.steps[20].abs().argmax()) == 3


# --- The method, with the weights that are shipped


@pytest.fixture(scope="module")
def chips() -> torch.Tensor:
    """(12, 3, 64, 64): people who do not exist, as `deid anonymize` cuts them."""
    return cut([frame for frame, _ in portraits()])


def portraits() -> list[tuple[Image, NDArray[np.float64]]]:
    found = []
    for number in range(1, 13):
        data = (PEOPLE / "portraits" / f"person_{number:02d}.jpg").read_bytes()
        frame = decode(data).pixels
        found.append((frame, landmarks(frame, detect_hog(frame)[0][0])))
    return found


def cut(frames: list[Image]) -> torch.Tensor:
    points = [where for _, where in portraits()]
    size, padding = sdn_nets.GRID, sdn_nets.PADDING
    stack = np.stack(
        [
            crop(frame, chip_affine(where, size, padding), size, True)
            for frame, where in zip(frames, points, strict=True)
        ]
    )
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def method() -> SecureDualNetwork:
    return SecureDualNetwork(Settings(), "cpu")


def context(bits: NDArray[np.uint8]) -> Context:
    return Context(np.zeros(len(bits), np.uint64), np.ones(len(bits)), bits=bits)


@pytest.fixture(scope="module")
def published(method: SecureDualNetwork, chips: torch.Tensor) -> torch.Tensor:
    """As a crop in a PNG: eight bits, the mask's soft edge mixed with the original."""
    with torch.inference_mode():
        out = method(chips, context(bits_of(12)))
    mask = torch.from_numpy(method.mask)
    return ((mask * out + (1 - mask) * chips) * 255).round() / 255


def test_the_right_password_gives_the_face_back(
    method: SecureDualNetwork, chips: torch.Tensor, published: torch.Tensor
) -> None:
    with torch.inference_mode():
        right = method.restore(published, bits_of(12))
    assert float(ssim(right, chips).min()) > 0.85
    assert float(ssim(published, chips).max()) < 0.85
    outside = torch.from_numpy(method.restore_mask) == 0
    assert torch.equal(right[:, :, outside], published[:, :, outside])


def test_frames_give_the_face_back(method: SecureDualNetwork, chips: torch.Tensor) -> None:
    """Through align.paste, the tool's JPEG and align.crop."""
    with torch.inference_mode():
        out = method(chips, context(bits_of(12)))
    new = (out * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    frames = []
    for (frame, where), chip in zip(portraits(), new, strict=True):
        copy = frame.copy()
        paste(copy, chip, chip_affine(where, method.chip.size, method.chip.padding), method.mask)
        frames.append(decode(encode(copy, "JPEG")).pixels)
    with torch.inference_mode():
        right = method.restore(cut(frames), bits_of(12))
    assert float(ssim(right, chips).mean()) > 0.85


@pytest.mark.parametrize("kind", ["one bit", "random", "attributes"])
def test_a_wrong_password_gives_another_person(
    method: SecureDualNetwork, chips: torch.Tensor, published: torch.Tensor, kind: str
) -> None:
    bits, by = bits_of(12), method
    if kind == "one bit":
        bits[np.arange(12), np.arange(12)] ^= 1
    elif kind == "random":
        bits = bits_of(12, 7)
    else:
        by = SecureDualNetwork(Settings(wanted="Young:1"), "cpu")
    with torch.inference_mode():
        wrong = by.restore(published, bits)
        right = method.restore(published, bits_of(12))
    inside = torch.from_numpy(method.mask) > 0.9

    def error(faces: torch.Tensor) -> torch.Tensor:
        return (faces - chips)[:, :, inside].abs().mean((1, 2))

    assert bool((error(wrong) > 2 * error(right)).all())
    # A face, not noise: as smooth as the published one.
    rough = losses.gradient_loss(wrong, torch.zeros_like(wrong))
    assert float(rough) < 1.5 * float(losses.gradient_loss(published, torch.zeros_like(published)))


def test_the_pattern_tells_nothing_without_the_key(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    """Under any wrong key a face's point has the likelihood of noise, and all points the same
    length; under the right one it is far away from that."""
    net = method.bottleneck
    points = net.point(net.components(chips))
    assert torch.allclose(points.norm(dim=1), torch.full((12,), 32.0), atol=1e-3)
    keys = sdn_keys.expand(bits_of(12))
    locked = sdn_keys.lock(points, keys)
    wrong = torch.stack(
        [net.likelihood(sdn_keys.unlock(locked, sdn_keys.expand(bits_of(12, n)))) for n in (1, 2)]
    )
    assert float(wrong.max()) < sdn.FACE < float(net.likelihood(points).min())


def test_components_survive_the_sphere(method: SecureDualNetwork, chips: torch.Tensor) -> None:
    net = method.bottleneck
    given = net.components(chips)
    back = net.from_point(net.point(given), torch.full((12,), 1e-6))
    assert float((back - given).norm() / given.norm()) < 0.02


def test_two_passwords_give_two_faces_and_one_gives_the_same_bytes(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    with torch.inference_mode():
        one, two = (method(chips, context(bits_of(12, seed))) for seed in (0, 1))
        fresh = SecureDualNetwork(Settings(), "cpu")(chips.flip(0), context(bits_of(12)[::-1]))
        alone = method(chips[3:4], context(bits_of(12)[3:4]))
    assert torch.equal(one, fresh.flip(0)) and torch.equal(one[3:4], alone)
    assert float((one - two).abs().mean((1, 2, 3)).min()) > 0.01


def test_restoring_does_not_depend_on_the_batch(
    method: SecureDualNetwork, published: torch.Tensor
) -> None:
    many = published.repeat(2, 1, 1, 1)
    bits = np.concatenate([bits_of(12), bits_of(12, 9)])
    with torch.inference_mode():
        together = method.restore(many, bits)
        alone = torch.cat([method.restore(many[n : n + 1], bits[n : n + 1]) for n in (0, 7, 20)])
    assert torch.equal(together[[0, 7, 20]], alone)


def test_the_latent_has_the_attributes_that_are_asked_for(method: SecureDualNetwork) -> None:
    net, rows = method.identity, torch.arange(200)
    fitting = torch.arange(200)[:, None] + torch.arange(8)
    edges, fit = net.edges[200:400], method.bottleneck.edge_fit
    for name in ("Male", "Smiling"):
        for present in (True, False):
            moved = net.latents(rows, fitting, edges, fit, {name: present}, {})
            beyond = net.standing(moved, name) > 0
            assert float((beyond == present).float().mean()) > 0.95
    given = (rows, fitting, edges, fit)
    plain, shifted = (net.latents(*given, {}, s) for s in ({}, {"Smiling": 1.0}))
    risen = net.standing(shifted, "Smiling") - net.standing(plain, "Smiling")
    assert torch.allclose(risen, torch.ones(200), atol=0.02)


def test_persons_that_are_drawn_fit_and_are_unlike_each_other() -> None:
    """Sex decides who fits; among those, a key that draws otherwise draws another."""
    net = Identity(600)
    column = CELEBA_ATTRIBUTES.index("Male")
    net.probabilities[:300, column] = net.labels[:300, column] = 1
    net.embeddings[torch.arange(600), torch.arange(600) % 100] = 1  # 100 kinds of faces
    logits = torch.full((2, 40), -20.0)
    logits[0, column] = 20
    given = (logits, torch.zeros(2, 10), torch.zeros(2, 48))
    numbers = [torch.full((2,), (n + 0.5) / 128, dtype=torch.float64) for n in range(128)]
    drawn = torch.stack([net.draw(*given, number, {})[0] for number in numbers])  # (128, 2)
    assert bool((drawn[:, 0] < 300).all()) and bool((drawn[:, 1] >= 300).all())
    assert len((drawn[:, 0] % 100).unique()) == len(drawn[:, 0].unique()) == 64
    asked, _ = net.draw(*given, numbers[0], {"Male": False})
    assert bool((asked >= 300).all())


# --- Fitting strangers in


def test_a_picture_tells_of_the_face_that_was_in_it(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    """What goes with edge and tone is most of a face's components, and nothing is moved where
    the picture is the stranger's own."""
    net = method.bottleneck
    codes, edges = net.components(chips)[:, :512], net.edge(chips).float()
    rest = codes - edges @ net.edge_fit
    assert float((rest - rest.mean(0)).norm()) < 0.75 * float((codes - codes.mean(0)).norm())
    who = Identity(12)
    who.codes.copy_(codes)
    who.edges.copy_(edges)
    fitting = torch.arange(12)[:, None]
    for row in (0, 5):
        rows = torch.full((12,), row)
        same = who.latents(rows, fitting, edges, net.edge_fit, {}, {})[row]
        assert torch.allclose(same, codes[row], atol=1e-3)
    moved = who.latents(torch.zeros(12).long(), fitting * 0, edges, net.edge_fit, {}, {})
    assert torch.allclose(moved, codes[0] + (edges - edges[0]) @ net.edge_fit, atol=1e-3)


def test_a_stranger_looks_as_if_he_had_been_hidden(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    """As much off as a face that was read, with fine components as wide as faces have them."""
    net, whole = method.bottleneck, method.bottleneck.components(chips)
    points = torch.randn(12, sdn_keys.CODE, generator=torch.Generator().manual_seed(0))
    points = torch.nn.functional.normalize(points) * 32
    noise = float(net.noise[1])
    read = net.as_read(whole[:, :512], points)
    right = net.from_point(
        torch.nn.functional.normalize(net.point(whole) + noise**0.5 * points.flip(0)) * 32,
        torch.full((12,), noise),
    )
    for part in (slice(512), slice(512, None)):
        sizes = [float(faces[:, part].norm()) for faces in (read, right)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.4)
    errors = [float((faces - whole)[:, :512].norm()) for faces in (read, right)]
    assert errors[0] == pytest.approx(errors[1], rel=0.3)


def test_traits_are_what_people_differ_by() -> None:
    """Two hundred people who differ in the first eighty components, and differ from themselves in
    the others."""
    generator = torch.Generator().manual_seed(0)
    persons = torch.arange(2000) % 200
    own = torch.randn(200, 300, generator=generator)
    own[:, 80:] = 0
    codes = own[persons] * 3 + torch.randn(2000, 300, generator=generator)
    into, back = traits(codes, persons)
    kept = codes @ into @ back
    assert torch.allclose(kept @ into @ back, kept, atol=1e-3)  # a projection
    assert float(kept[:, :80].norm() / codes[:, :80].norm()) > 0.75
    assert float(kept[:, 80:].norm() / codes[:, 80:].norm()) < 0.35
    nobody, _ = traits(codes, torch.full((2000,), -1))
    assert not nobody.any()


def test_attributes_without_a_direction_are_an_error(method: SecureDualNetwork) -> None:
    weights = method.identity.steps.clone()
    column = CELEBA_ATTRIBUTES.index("Bald")
    try:
        method.identity.steps[column] = 0
        method.wanted = {"Bald": True}
        with pytest.raises(UsageError, match="no direction for Bald"):
            method._check_directions()
    finally:
        method.identity.steps.copy_(weights)
        method.wanted = {}


# --- Training


def test_kill_and_resume_give_the_same_weights(
    tmp_path: Path, method: SecureDualNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in each part; the bottleneck's closed form, which takes a minute, is given."""
    monkeypatch.setattr(sdn_training, "fit_bottleneck", lambda *_: method.bottleneck)
    root, cache = celeba(tmp_path / "celeba"), tmp_path / "cache"
    quick = sdn_training.Settings(
        extractor_steps=3,
        steps=4,
        pool_size=4,
        batch_size=4,
        extractor_batch=4,
        classifier_every=2,
        adversarial_from=0.5,
        checkpoint_steps=1,
    )
    files = []
    for name, stops in (("whole", []), ("killed", [1, 3, 2])):
        out = tmp_path / name
        for stop in stops:
            assert sdn_training.train([root], out, quick, cache, stop_after=stop) is None
        made = sdn_training.train([root], out, quick, cache)
        assert made is not None
        files.append(made[0].read_bytes())
    assert files[0] == files[1]
    tensors = load_file(tmp_path / "whole" / "sdn-compact.safetensors")
    assert float(tensors["reveal.last.weight"].abs().max()) > 0  # it started at zero
    with pytest.raises(DeidError, match="other settings: rate"):
        changed = sdn_training.Settings(extractor_steps=3, rate=0.5, extractor_batch=4)
        sdn_training.train([root], tmp_path / "whole", changed, cache)


def test_training_without_labels_is_refused_before_the_first_step(tmp_path: Path) -> None:
    copy_people(tmp_path / "in", 3)
    with pytest.raises(DeidError, match="no labels"):
        cache = tmp_path / "cache"
        sdn_training.train([tmp_path / "in"], tmp_path / "out", sdn_training.Settings(), cache)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_bottleneck_in_closed_form(chips: torch.Tensor) -> None:
    from deidcli.methods.sdn.fitting import fit_bottleneck

    faces = (chips * 255).byte().permute(0, 2, 3, 1).contiguous()
    net = fit_bottleneck(faces, faces, 2.0, 0)
    eye = net.carriers.T @ net.carriers
    assert torch.allclose(eye, torch.eye(sdn_keys.CODE), atol=1e-3)
    assert float(net.noise[0]) < 0.1


def test_training_needs_to_be_told_a_size_it_knows(
    tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    outcome = deid("train", "sdn", tmp_path, "--size", "huge")
    assert outcome.code == 2 and "compact, paper" in outcome.stderr
