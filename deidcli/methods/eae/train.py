"""Train `eae`: `deid train eae DATA --attrs GSBE --size compact|paper`.

The three procedures of Liu et al. (sec. IV-B) one after another, each with its own checkpoint and
weight file in OUT: the FSN on the attributes, the external autoencoder by its squared error, the
internal one by eq. 7 with all else frozen, and on request (`--set part=sprn`) the ablation by
eq. 8 and (`--set pen=arcface`) a PEN of its own by the ArcFace loss. A part whose weight file is
there with the same settings is not trained again. OUT gets a weights.toml with a card for each,
so that DEID_WEIGHTS=OUT makes `deid anonymize` use them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.faces import recognizers
from deidcli.methods.eae import losses, networks
from deidcli.methods.eae import settings as eae_settings
from deidcli.methods.eae.pen import (
    Classified,
    Embedder,
    arcface_loss,
    likeness_loss,
    recognizer_view,
)
from deidcli.methods.eae.recipe import (
    Run,
    Settings,
    accuracy,
    adamw,
    batches,
    fit,
    is_made,
    labels_of,
    metadata,
    read,
    write_cards,
)
from deidcli.training.chips import with_own_faces

__all__ = ["Settings", "train"]


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train the parts and write their weights and cards to `out`.

    Run it again after a kill: it goes on where it was and ends with the same weights.

    Args:
        data, validation: folders or parquet files with labels; validation is only scored.
        cache: folder of the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps of a part, as a kill would (for tests).

    Returns:
        The weights' paths; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    run = Run(data, out, settings, cache, validation, stop_after)
    if "internal" in _parts(settings) and settings.pen != "arcface":
        recognizers.load(settings.pen)  # the last part needs it: say so before the first
    done = []
    for part in _parts(settings):
        path = run.path(part)
        if not is_made(path, run.fixed(part)) and not _RECIPES[part](run):
            return None
        done.append(path)
    write_cards(run, done)
    return done


def _parts(settings: Settings) -> list[str]:
    if settings.part != "all":
        return [settings.part]
    own_pen = ["pen"] if settings.pen == "arcface" else []
    return ["fsn", "external", *own_pen, "internal"]


# --- The parts


def _train_fsn(run: Run) -> bool:
    """Procedure 1: the FSN on the attributes (eq. 4)."""
    torch.manual_seed(run.settings.seed)
    model = networks.FeatureSelection(run.size, len(run.fsn_attributes))
    if run.settings.fsn_initial:
        read(model, Path(run.settings.fsn_initial))

    def loss_of(model: nn.Module, images: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        return losses.attribute_loss(model(images), run.targets(rows)).sum()

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        if run.held_out is None:
            return {}
        assert isinstance(model, networks.FeatureSelection)
        shown = batches(run.held_out, run.settings.device)
        present = torch.cat([model.answers(b) for b in shown]).cpu().numpy() > 0.5
        return accuracy(run.held_out, run.fsn_attributes, present)

    steps = run.settings.fsn_epochs * run.per_epoch
    optimizer = adamw(run, [(model, run.settings.fsn_rate)])
    return fit(run, "fsn", model, optimizer, steps, run.settings.batch_size, loss_of, scores)


def _train_external(run: Run) -> bool:
    """Procedure 3, line 5: the external autoencoder by its squared error (eq. 6)."""
    torch.manual_seed(run.settings.seed + 1)
    model = networks.ExternalAutoencoder(run.size)
    fsn = run.load("fsn", networks.FeatureSelection(run.size, len(run.fsn_attributes)))
    assert isinstance(fsn, networks.FeatureSelection)
    model.encoder.load_state_dict(fsn.shared[:5].state_dict())
    fixed = run.settings.encoder_share == 0
    model.encoder.requires_grad_(not fixed)

    def loss_of(model: nn.Module, images: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        assert isinstance(model, networks.ExternalAutoencoder)
        if fixed:
            model.encoder.eval()
        # Times a picture's area in code places, which brings it to the order of 1.
        return losses.reconstruction_loss(images, model(images)) * run.size.code_side**2

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        if run.held_out is None:
            return {}
        shown = batches(run.held_out, run.settings.device)
        errors = [float(losses.reconstruction_loss(b, model(b))) for b in shown]
        return {"PSNR, dB": round(float(-10 * np.log10(np.mean(errors))), 2)}

    settings = run.settings
    steps = settings.external_epochs * run.per_epoch
    rate = settings.external_rate
    groups = [(model.encoder, rate * settings.encoder_share), (model.decoder, rate)]
    optimizer = adamw(run, groups)
    return fit(run, "external", model, optimizer, steps, settings.batch_size, loss_of, scores)


@dataclass(frozen=True)
class _Judges:
    """The frozen networks that judge published pictures in training."""

    fsn: networks.FeatureSelection
    external: networks.ExternalAutoencoder
    pen: Callable[[Tensor], Tensor]
    """(N, 3, S, S) in [0, 1] -> (N, D) embeddings less their mean over DATA, differentiable."""


def _judges(run: Run) -> _Judges:
    fsn = run.load("fsn", networks.FeatureSelection(run.size, len(run.fsn_attributes)))
    external = run.load("external", networks.ExternalAutoencoder(run.size))
    assert isinstance(fsn, networks.FeatureSelection) and isinstance(
        external, networks.ExternalAutoencoder
    )
    pen = _pen(run)
    # dlib's descriptors share most of their length: without its mean, strangers have a cosine of
    # 0.83. The others' mean is near 0 anyhow.
    some = run.chips.keep(np.arange(len(run.chips)) < CENTERED)
    with torch.no_grad():
        center = torch.cat([pen(b) for b in batches(some, run.settings.device)]).mean(0)
    return _Judges(fsn, external, lambda chips: pen(chips) - center)


CENTERED = 512
"""Pictures of DATA whose mean embedding is taken off the PEN's."""


def _pen(run: Run) -> Callable[[Tensor], Tensor]:
    """The frozen PEN: chips -> embeddings."""
    if run.settings.pen == "arcface":
        entry = recognizers.RECOGNIZERS["mobilefacenet"]  # the geometry of ArcFace's template
        net: nn.Module = run.load("pen", Embedder(run.size))
    else:
        loaded = recognizers.load(run.settings.pen, run.settings.device)
        net, entry = loaded, loaded.recognizer
    return lambda chips: net(recognizer_view(chips, entry))


def _train_internal(run: Run) -> bool:
    """Procedure 3, line 7: the internal autoencoder by eq. 7, all else frozen."""
    settings = run.settings
    torch.manual_seed(settings.seed + 2)
    model = networks.InternalAutoencoder(run.size, len(run.attributes))
    if settings.internal_initial:
        read(model, Path(settings.internal_initial))
    if settings.warm:
        _warm_start(run, model, Path(settings.warm))
    judges = _judges(run)
    if not (settings.internal_initial or settings.warm):
        model.encoder[0].load_state_dict(judges.fsn.shared[5].state_dict())

    def loss_of(model: nn.Module, images: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        assert isinstance(model, networks.InternalAutoencoder)
        with torch.no_grad():
            code = judges.external.encode(images)
            desired = judges.fsn.desired(images)
            said = judges.fsn.heads(desired)[:, run.chosen].softmax(2)[:, :, 1]
        if settings.warm:
            model.encoder.eval()
        numbers = model.encode(code)
        hard = torch.from_numpy(labels_of(run.chips, run.attributes, rows)).to(said.device)
        targets = torch.where(hard < 0, said, hard + settings.soft * (said - hard))
        logits = torch.stack([-numbers / 2, numbers / 2], 2)
        encoder = losses.attribute_loss(logits, targets).sum() * settings.a1
        if not settings.warm and step % settings.picture_every:
            return encoder
        bits = networks.bits_of(numbers.detach())
        return encoder + _picture_loss(run, judges, model, images, bits, desired)

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        if run.held_out is None:
            return {}
        assert isinstance(model, networks.InternalAutoencoder)
        parts = [
            networks.code_of(judges.external, model, b) > 0
            for b in batches(run.held_out, settings.device)
        ]
        return accuracy(run.held_out, run.attributes, torch.cat(parts).cpu().numpy())

    optimizer = adamw(run, [(model, settings.internal_rate)])  # without what warm start froze
    steps = settings.internal_steps or max(300, 6 * run.per_epoch)
    batch = settings.batch_size
    return fit(run, "internal", model, optimizer, steps, batch, loss_of, scores)


MOST_CODES = 32
"""Codes whose pictures are judged in a step; all of them up to five attributes."""


def _picture_loss(
    run: Run,
    judges: _Judges,
    model: networks.InternalAutoencoder,
    images: Tensor,
    bits: Tensor,
    desired: Tensor,
) -> Tensor:
    """Eq. 7 on the pictures of a batch, each distinct picture made and judged once.

    Args:
        images: the originals. bits: (N, m) in {-1, 1}. desired: (N, C, s, s), the FSN's d.
    """
    codes, inverse = torch.unique(bits, dim=0, return_inverse=True)
    count = bits.shape[1]
    if 2**count <= MOST_CODES:  # the codes that no face of the batch has are judged too
        places = 2 ** torch.arange(count, device=bits.device)
        inverse = ((bits > 0) * places).sum(1)
        codes = ((torch.arange(2**count, device=bits.device)[:, None] & places) > 0) * 2.0 - 1
    y = model.decode(codes)
    pictures = judges.external.decode(y)
    # The picture carries the code and nothing else, so the code is what the FSN can read off it.
    # Mirrored too, for the FSN's answer is the mean over both.
    shown = torch.cat([pictures, pictures.flip(3)])
    said = judges.fsn(shown)[:, run.chosen]
    read = losses.attribute_loss(said, (codes.repeat(2, 1) + 1) / 2)
    closeness = losses.reconstruction_loss(desired, y[inverse])
    with torch.no_grad():
        originals = judges.pen(images)
    embeddings = judges.pen(pictures)
    identity = losses.identity_loss(originals, embeddings[inverse])
    loss = losses.multiple_loss(closeness, read, identity, run.settings.a1, run.settings.a2)
    return loss + run.settings.alike * likeness_loss(embeddings)


def _warm_start(run: Run, model: networks.InternalAutoencoder, path: Path) -> None:
    """The encoder of other weights, and of its code the units of the asked attributes."""
    from safetensors.torch import load_file

    names = eae_settings.names_of(metadata(path)["settings"]["attrs"])
    chosen = [names.index(name) for name in run.attributes]
    tensors = {name: value.float() for name, value in load_file(path).items()}
    own = model.state_dict()
    for name, value in tensors.items():
        if name.startswith("encoder."):
            own[name].copy_(value)
        elif name.startswith("code."):
            own[name].copy_(value[chosen])
    model.encoder.requires_grad_(False)
    model.code.requires_grad_(False)


def _train_sprn(run: Run) -> bool:
    """The ablation: the external autoencoder alone, by eq. 8."""
    settings = run.settings
    judges = _judges(run)
    model = deepcopy(judges.external)
    if settings.sprn_initial:
        read(model, Path(settings.sprn_initial))
    model.requires_grad_(True).train()

    def loss_of(model: nn.Module, images: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        pictures = model(images)
        hard = torch.from_numpy(labels_of(run.chips, run.attributes, rows)).to(images.device)
        read = losses.attribute_loss(judges.fsn(pictures)[:, run.chosen], hard)
        identity = losses.identity_loss(judges.pen(images), judges.pen(pictures))
        closeness = losses.reconstruction_loss(images, pictures)
        return losses.multiple_loss(closeness, read, identity, settings.a1, settings.a2)

    optimizer = adamw(run, [(model, settings.sprn_rate)])
    return fit(run, "sprn", model, optimizer, settings.sprn_steps, settings.sprn_batch, loss_of)


def _train_pen(run: Run) -> bool:
    """Procedure 2: a PEN by the ArcFace loss on the persons of DATA."""
    settings = run.settings
    torch.manual_seed(settings.seed + 3)
    persons, numbers = np.unique(run.chips.persons.astype(str), return_inverse=True)
    model = Classified(Embedder(run.size), len(persons))
    entry = recognizers.RECOGNIZERS["mobilefacenet"]

    def loss_of(model: nn.Module, images: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        assert isinstance(model, Classified)
        embeddings = model.embedder(recognizer_view(images, entry))
        labels = torch.from_numpy(numbers[rows]).to(images.device)
        return arcface_loss(embeddings, model.centers, labels)

    optimizer = torch.optim.SGD(
        model.parameters(), settings.pen_rate, momentum=0.9, weight_decay=5e-4
    )
    steps = settings.pen_epochs * run.per_epoch
    return fit(run, "pen", model, optimizer, steps, settings.batch_size, loss_of)


_RECIPES: dict[str, Callable[[Run], bool]] = {
    "fsn": _train_fsn,
    "external": _train_external,
    "pen": _train_pen,
    "internal": _train_internal,
    "sprn": _train_sprn,
}
