"""Train what `target=strangers` needs: the network that describes a face, and the pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align, recognizers
from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae.networks import Autoencoder, FullyConnected, pack, principal_components
from deidcli.methods.dae.recipe import (
    BLOCK,
    SAMPLES,
    Run,
    batch_of,
    faces_of,
    fit,
    in_blocks,
    tensor_of,
)
from deidcli.methods.dae.strangers import ATTRIBUTES, KEPT, Matcher, features
from deidcli.training.chips import Chips
from deidcli.training.loop import log


def train_strangers(
    body: Autoencoder,
    encoder: Autoencoder,
    faces: Chips,
    landmarks: NDArray[np.float32],
    run: Run,
    cache: Path,
) -> dict[str, Tensor]:
    """The network that describes a face, and the pool; see dae_strangers."""
    settings = run.settings
    assert isinstance(body, FullyConnected) and isinstance(encoder, FullyConnected)
    shapes = torch.from_numpy(landmarks - align.MEAN_FACE_5.astype(np.float32)).flatten(1)
    spread = shapes.std(0).clamp(min=1e-4)
    embeddings = torch.from_numpy(_embeddings(faces.chips, run.out / "embeddings.npy"))
    center = embeddings.mean(0)
    matcher = train_matcher(
        body, faces, shapes / spread, functional.normalize(embeddings - center), run
    )
    chips = tensor_of(faces_of([Path(settings.pool)], cache, 0)[0] if settings.pool else faces)
    some = torch.linspace(0, len(chips) - 1, min(settings.pool_size, len(chips))).round().long()
    chips = torch.cat([chips[some], chips[some].flip(2)])
    with torch.no_grad():
        codes = in_blocks(body.encode, chips, settings.device)
        basis = kept_directions(in_blocks(encoder.encode, tensor_of(faces), settings.device))
        kept = in_blocks(encoder.encode, chips, settings.device) @ basis
        packed = in_blocks(lambda x: pack(x, True), chips, settings.device).double()
        logits, shape, _ = matcher.cpu().double()(packed)
        described = features(packed, logits, shape)
    likeness = torch.from_numpy(_embeddings(chips.numpy(), run.out / "pool.npy")) - center
    tensors = {f"matcher.{key}": value for key, value in matcher.state_dict().items()}
    return {
        **tensors,
        "pool.codes": codes,
        "pool.kept": kept,
        "pool.basis": basis,
        "pool.features": described,
        "pool.embeddings": functional.normalize(likeness),
    }


def kept_directions(codes: Tensor) -> Tensor:
    """(D, KEPT) orthonormal: the directions of (N, D) codes of the tuned encoder that are kept."""
    _, components = principal_components(codes, min(KEPT, codes.shape[1]))
    return components


def train_matcher(
    body: FullyConnected, faces: Chips, shapes: Tensor, embeddings: Tensor, run: Run
) -> Matcher:
    """Attributes by cross-entropy, landmarks and embedding by squared error.

    Args:
        shapes: (N, 10) landmarks less the mean face, in standard deviations.
        embeddings: (N, 128) unit length.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    chips = tensor_of(faces)
    packed = in_blocks(lambda x: pack(x, True), chips[:: max(1, len(chips) // 20_000)], "cpu")
    matcher = Matcher(packed.shape[1])
    first = matcher.layers[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        mean, components = principal_components(packed, first.out_features)
        spread = ((packed - mean) @ components).std(0).clamp(min=1e-3)
        matcher.mean.copy_(mean)
        # Whitened components, mixed: units of both signs from the start.
        mix = torch.linalg.qr(torch.randn(len(spread), len(spread)))[0]
        first.weight.copy_(mix @ (components / spread).T)
    matcher = matcher.to(settings.device)
    labels = torch.from_numpy(
        faces.labels[:, [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]]
    ).float()

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        values = pack(batch_of(chips, rows, settings.device), True)
        logits, shape, embedding = matcher(values)
        wanted = labels[rows].to(values.device)
        parts = functional.binary_cross_entropy_with_logits(
            logits, (wanted + 1) / 2, reduction="none"
        )
        attributes = (parts * (wanted != 0)).sum() / (wanted != 0).sum().clamp(min=1)
        shaped = functional.mse_loss(shape, shapes[rows].to(values.device))
        alike = functional.mse_loss(embedding, embeddings[rows].to(values.device) * 10)
        return attributes + 0.3 * shaped + 0.5 * alike

    fixed = run.fixed(("matcher_epochs", *SAMPLES))
    fit(
        "matcher",
        matcher,
        len(chips),
        settings.matcher_epochs,
        settings.rate * 4,
        loss_of,
        run,
        fixed,
    )
    return matcher


def _embeddings(chips: NDArray[np.uint8], path: Path) -> NDArray[np.float32]:
    """dlib's descriptors of (N, 64, 64, 3) chips, kept beside the checkpoints."""
    if path.is_file():
        kept = np.load(path)
        if len(kept) == len(chips):
            return np.asarray(kept, np.float32)
    log(f"descriptors of {len(chips)} faces")
    unit = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    parts = [
        recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in block])
        for block in np.array_split(chips, max(1, len(chips) // BLOCK))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(parts))
    return np.concatenate(parts)
