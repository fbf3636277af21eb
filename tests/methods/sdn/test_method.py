"""sdn: both directions with the weights that are shipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode, encode
from deidcli.evaluate.quality import ssim
from deidcli.faces.align import chip_affine, paste
from deidcli.methods.sdn import losses
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.networks import CORE, OUTSIDE, edge_mask
from deidcli.methods.sdn.portraits import classified_attributes
from deidcli.methods.sdn.settings import SdnSettings
from tests.methods.sdn.faces import bits_of, context, cut, pixels, portraits


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
        by = SecureDualNetwork(SdnSettings(wanted="Young:1"), "cpu")
    with torch.inference_mode():
        wrong = by.restore(published, bits)
        right = method.restore(published, bits_of(12))
    inside = torch.from_numpy(method.mask) > 0.9

    def error(faces: torch.Tensor) -> torch.Tensor:
        return (faces - chips)[:, :, inside].abs().mean((1, 2))

    assert bool((error(wrong) > 2 * error(right)).all())
    # A face: what is left where no person takes the place of noise has -130 to 165 nats, half of
    # it below 0; a person has at least 237.
    net = method.bottleneck
    assert float(net.likelihood(net.point(net.components(wrong))).min()) > 200
    # Not rough: as smooth as the published one.
    rough = losses.gradient_loss(wrong, torch.zeros_like(wrong))
    assert float(rough) < 1.5 * float(losses.gradient_loss(published, torch.zeros_like(published)))


def test_two_passwords_give_two_faces_and_one_gives_the_same_bytes(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    with torch.inference_mode():
        one, two = (method(chips, context(bits_of(12, seed))) for seed in (0, 1))
        fresh = SecureDualNetwork(SdnSettings(), "cpu")(chips.flip(0), context(bits_of(12)[::-1]))
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


def share_with(name: str, made: torch.Tensor) -> float:
    """Share of chips in which the classifier of `deid score` sees an attribute."""
    said = classified_attributes(torch.from_numpy(pixels(made)))
    return float((said[:, CELEBA_ATTRIBUTES.index(name)] > 0.5).float().mean())


def made_by(chips: torch.Tensor, **settings: str) -> torch.Tensor:
    by = SecureDualNetwork(SdnSettings(**settings), "cpu")  # type: ignore[arg-type]
    with torch.inference_mode():
        out = by(chips, context(bits_of(len(chips))))
    mask = torch.from_numpy(by.mask)
    return mask * out + (1 - mask) * chips


@pytest.mark.parametrize("name", ["Male", "Smiling", "Eyeglasses"])
def test_attributes_are_published_as_wanted(chips: torch.Tensor, name: str) -> None:
    assert share_with(name, made_by(chips, wanted=f"{name}:1")) > 0.7
    assert share_with(name, made_by(chips, wanted=f"{name}:0")) < 0.3


def test_a_shift_moves_the_surrogate(chips: torch.Tensor) -> None:
    less, more = (made_by(chips, shift=f"Smiling:{by}") for by in ("-2", "+2"))
    assert share_with("Smiling", more) > share_with("Smiling", less) + 0.2


def test_the_pattern_in_the_picture_is_as_strong_as_asked(chips: torch.Tensor) -> None:
    """Two strengths of one key: all else is equal, so the difference is that of the patterns."""
    weak, strong = (
        SecureDualNetwork(SdnSettings(strength=strength), "cpu")(chips, context(bits_of(12)))
        for strength in (1.0, 3.0)
    )
    core = torch.from_numpy(edge_mask()) > CORE
    apart = (strong - weak)[:, :, core]
    assert float(apart.square().mean().sqrt()) * 255 == pytest.approx(2.0, rel=0.1)


def test_only_the_face_is_touched(method: SecureDualNetwork, published: torch.Tensor) -> None:
    """A restored picture differs from the published one everywhere in the mask and only there."""
    with torch.inference_mode():
        right = method.restore(published, bits_of(12))
    changed = (right != published).any(0).any(0)
    assert torch.equal(changed, torch.from_numpy(method.restore_mask) > 0)
    assert torch.equal(changed, torch.from_numpy(method.mask) > OUTSIDE)
