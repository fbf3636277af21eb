"""What the generator of `a3gan` learns from: described faces, latents, masks, target pictures."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.methods.a3gan.attribute_head import AttributeHead
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT, Canvas, match_light, pack
from deidcli.methods.a3gan.latents import Description, Pool, attribute_mask, describe
from deidcli.methods.a3gan.networks import SIZES, Generator
from deidcli.methods.a3gan.portraits import PortraitBank
from deidcli.methods.a3gan.recipe import MATERIAL, Run
from deidcli.methods.a3gan.settings import ATTRIBUTES, PRESETS, READ_ATTRIBUTES
from deidcli.methods.a3gan.training_faces import Faces, dlib_embeddings, in_blocks, to_batch
from deidcli.methods.blend import rim_to_face
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.loop import log

RIDGE = 20.0
"""The ridge of the regression of prototypes, in faces: it draws a rare attribute's towards 0."""


@dataclass
class Material:
    """What the generator learns from."""

    faces: Faces
    """The training faces."""
    described: Description
    """What is known of the training faces."""
    portraits: PortraitBank
    """The computer-made faces; row P + i of the pool is the mirror image of i."""
    pool: Pool
    canvas: Canvas


def gather_material(faces: Faces, source: Faces, head: AttributeHead, run: Run) -> Material:
    """Describe all faces and make the latents of a pool; kept in `out/material.pt`.

    Args:
        faces: those that the generator learns to replace. source: those of the pool.

    Raises:
        DeidError: the checkpoint was made with other settings, or the pool's labels are not its.
    """
    path, fixed = run.out / "material.pt", run.fixed(MATERIAL)
    found = load_checkpoint(path, fixed)
    if found is None:
        made = _make_material(faces, source, head, run)
        found = {
            "own": vars(made.described),
            "theirs": vars(made.pool.described),
            "codes": made.pool.codes,
            "files": made.portraits.files,
            "ends": made.portraits.ends,
            "canvas": made.canvas.state_dict(),
        }
        save_checkpoint(path, {"settings": fixed, **found})
    canvas = Canvas(SIZES[run.settings.size].side)
    canvas.load_state_dict(found["canvas"])
    pool = Pool(found["codes"], Description(**found["theirs"]))
    portraits = PortraitBank(found["files"], found["ends"])
    return Material(faces, Description(**found["own"]), portraits, pool, canvas)


def _make_material(faces: Faces, source: Faces, head: AttributeHead, run: Run) -> Material:
    device = run.settings.device

    def described(chips: Tensor) -> Description:
        rows = in_blocks(
            lambda x: torch.cat(list(vars(describe(head.network, x)).values()), 1), chips, device
        )
        return Description(*torch.split(rows, [len(READ_ATTRIBUTES), 10, 11, 128, 180], 1))

    own = described(faces.chips)
    own.shape = faces.shape / head.landmark_std
    own.attributes = torch.where(faces.labels < 0, own.attributes, faces.labels)
    chips, labels = source.chips, None
    if run.settings.pool_labels:
        labels = torch.from_numpy(np.load(run.settings.pool_labels).astype(np.float32))
        require_rows(len(labels), len(chips), run.settings.pool_labels)
        fit = ~labels.isnan().any(1)
        chips, labels = chips[fit], labels[fit]
    both = torch.cat([chips, chips.flip(2)])
    theirs = described(both)
    if labels is not None:
        labels = labels[:, [CELEBA_ATTRIBUTES.index(name) for name in READ_ATTRIBUTES]]
        theirs.attributes = torch.cat([labels, labels])
    likeness = dlib_embeddings(chips, run.out / "pool.npy") - head.mean_embedding
    theirs.embedding = functional.normalize(torch.cat([likeness, likeness]))
    log(f"principal components of {len(chips)} portraits")
    mean, components, codes = principal_latents(in_blocks(pack, both, device), run.settings.seed)
    packed = in_blocks(pack, faces.chips, device)
    attributes = faces.all_labels.clamp(min=0)
    components[COMPONENTS : COMPONENTS + attributes.shape[1]] = prototypes(packed, attributes)
    canvas = Canvas(chips.shape[1])
    canvas.mean.copy_(mean)
    canvas.components.copy_(components)
    return Material(faces, own, PortraitBank.encode(chips.numpy()), Pool(codes, theirs), canvas)


def require_rows(found: int, expected: int, path: str) -> None:
    """Make sure that the labels of a pool are those of its pictures.

    Raises:
        DeidError: there is another number of them.
    """
    if found != expected:
        raise DeidError(
            f"{path} has {found} rows; the pool has {expected} pictures with a face",
            "make it anew with `python -m benchmarks.pool`",
        )


def prototypes(values: Tensor, attributes: Tensor) -> Tensor:
    """Return (A, V): what each attribute adds to a packed face, the others being equal.

    These are the coefficients of a ridge regression (Rowland and Perrett 1995 take differences of
    means instead, which mixes attributes that occur together).

    Args:
        values: (N, V) packed faces. attributes: (N, A) in [0, 1].
    """
    centered = attributes - attributes.mean(0)
    gram = centered.T @ centered + RIDGE * torch.eye(attributes.shape[1])
    found: Tensor = torch.linalg.solve(gram, centered.T @ (values - values.mean(0)))
    return found


def principal_latents(values: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the whitened principal components of packed faces (P, V).

    Returns:
        The mean (V,); the components (512, V), each times its standard deviation; the faces' codes
        (P, 512), of mean 0 and variance 1, so that a latent from N(0, I) is such a code. Rows and
        columns from COMPONENTS on are 0.
    """
    torch.manual_seed(seed)
    mean = values.mean(0)
    count = min(COMPONENTS, *values.shape)
    _, sizes, directions = torch.pca_lowrank(values - mean, q=count, center=False, niter=2)
    deviations = (sizes / len(values) ** 0.5).clamp(min=1e-6)
    components = torch.zeros(LATENT, values.shape[1])
    components[:count] = directions.T * deviations[:, None]
    codes = torch.zeros(len(values), LATENT)
    codes[:, :count] = (values - mean) @ directions / deviations
    return mean, components, codes


def new_generator(material: Material, run: Run) -> Generator:
    """Return a generator whose canvas draws the latents, untrained.

    AINet's first layer is scaled so that it listens first to components that change much.
    """
    torch.manual_seed(run.settings.seed)
    generator = Generator(SIZES[run.settings.size], run.settings.variant)
    if generator.canvas is not None:
        generator.canvas.load_state_dict(material.canvas.state_dict())
    first = generator.ainet.layers[0]
    assert isinstance(first, nn.Linear)
    spread = material.canvas.components.norm(dim=1)
    with torch.no_grad():
        first.weight[:, :LATENT] *= (spread / spread.mean()).sqrt()
    generator.to(memory_format=torch.channels_last)
    return generator.to(run.settings.device)


def draw_masks(count: int, generator: torch.Generator) -> Tensor:
    """Return (count, 10) masks: a third empty, a third one of the presets, a third at random."""
    kind = torch.rand(count, 1, generator=generator)
    presets = torch.stack([attribute_mask(name) for name in PRESETS])
    some = presets[torch.randint(len(presets), (count,), generator=generator)]
    share = torch.rand(count, 1, generator=generator)
    free = (torch.rand(count, len(ATTRIBUTES), generator=generator) < share).float()
    return torch.where(kind < 1 / 3, torch.zeros_like(free), torch.where(kind < 2 / 3, some, free))


def draw_seeds(count: int, generator: torch.Generator) -> NDArray[np.uint64]:
    """Return (count,) faces' numbers, as `Context.seeds` has them."""
    numbers = torch.randint(1 << 62, (count,), generator=generator).numpy()
    return np.asarray(numbers.astype(np.uint64) * np.uint64(4), np.uint64)


@dataclass
class Batch:
    """B training faces, each with a mask, a latent, and the picture that the teacher asks for."""

    chips: Tensor
    """(B, 3, S, S) in [0, 1]."""
    mask: Tensor
    """(B, 10)."""
    latent: Tensor
    """(B, 512)."""
    faces: Tensor
    """(B, 3, S, S): the faces that the latents stand for."""
    target: Tensor
    """(B, 3, S, S): these faces in the pictures' light."""
    attributes: Tensor
    """(B, 10) a_s."""


def make_batch(material: Material, rows: Tensor, generator: torch.Generator, run: Run) -> Batch:
    """Return a batch of training faces.

    Args:
        rows: (B,) rows of `material.faces`. generator: what masks and latents are drawn from.
    """
    device = run.settings.device
    chips = to_batch(material.faces.chips, rows, device)
    mask = draw_masks(len(rows), generator)
    described = material.described.rows(rows)
    chosen = material.pool.draw(described, mask, draw_seeds(len(rows), generator))
    noise = torch.randn(len(rows), LATENT, generator=generator)
    latent = material.pool.latents(described, mask, chosen, noise)
    faces = material.canvas.from_portraits(
        material.portraits.faces(chosen), latent, material.pool.codes[chosen]
    ).to(device)
    return Batch(
        chips,
        mask.to(device),
        latent.to(device),
        faces,
        match_light(chips, faces, _spread(device)),
        described.attributes[:, : len(ATTRIBUTES)].to(device),
    )


def canvas_faces(generator: Generator, batch: Batch, latent: Tensor | None = None) -> Tensor | None:
    """Return the faces (B, 3, S, S) of a batch's canvas, or None where there is no canvas.

    The first half of the batch gets its portraits, the other what the latents alone draw.

    Args:
        latent: (B, 512) in place of the batch's own.
    """
    if generator.canvas is None:
        return None
    latent = batch.latent if latent is None else latent
    half = len(latent) // 2
    return torch.cat([batch.faces[:half], generator.canvas(latent[half:])])


@functools.cache
def _spread(device: str) -> Tensor:
    """Return what `match_light` needs, made once a device."""
    return rim_to_face().to(device)
