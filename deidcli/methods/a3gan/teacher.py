"""What the generator of `a3gan` learns from: described faces, latents, masks, teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT, Canvas, laid, pack
from deidcli.methods.a3gan.latents import Description, Pool, describe
from deidcli.methods.a3gan.method import mask_of
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator
from deidcli.methods.a3gan.portraits import Album
from deidcli.methods.a3gan.recipe import (
    MATERIAL,
    NAMES,
    Faces,
    Run,
    batch_of,
    embeddings_of,
    in_blocks,
)
from deidcli.methods.a3gan.settings import ATTRIBUTES, CHANGE
from deidcli.methods.blend import rim_to_face
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.loop import log


@dataclass
class Material:
    """What the generator learns from."""

    faces: Faces
    described: Description
    album: Album
    """The computer-made faces; row P + i of the pool is i's mirror image."""
    pool: Pool
    canvas: Canvas


def gather(
    faces: Faces, source: Faces, reader: Discriminator, spread: Tensor, center: Tensor, run: Run
) -> Material:
    """Describe all faces, and make latents of the source's; kept in `out/material.pt`."""
    path, fixed = run.out / "material.pt", run.fixed(MATERIAL)
    found = load_checkpoint(path, fixed)
    if found is None:
        made = _gather(faces, source, reader, spread, center, run)
        found = {
            "own": vars(made.described),
            "theirs": vars(made.pool.described),
            "codes": made.pool.codes,
            "files": made.album.files,
            "ends": made.album.ends,
            "canvas": made.canvas.state_dict(),
        }
        save_checkpoint(path, {"settings": fixed, **found})
    canvas = Canvas(SIZES[run.settings.size].side)
    canvas.load_state_dict(found["canvas"])
    pool = Pool(found["codes"], Description(**found["theirs"]))
    album = Album(found["files"], found["ends"])
    return Material(faces, Description(**found["own"]), album, pool, canvas)


def _gather(
    faces: Faces, source: Faces, reader: Discriminator, spread: Tensor, center: Tensor, run: Run
) -> Material:
    device = run.settings.device

    def said(x: Tensor) -> Tensor:
        return torch.cat(list(vars(describe(reader, x)).values()), 1)

    own = _described(in_blocks(said, faces.chips, device))
    own.shape = faces.shape / spread
    own.attributes = torch.where(faces.labels < 0, own.attributes, faces.labels)
    chips, labels = source.chips, None
    if run.settings.pool_labels:
        labels = torch.from_numpy(np.load(run.settings.pool_labels).astype(np.float32))
        require_rows(len(labels), len(chips), run.settings.pool_labels)
        fit = ~labels.isnan().any(1)
        chips, labels = chips[fit], labels[fit]
    both = torch.cat([chips, chips.flip(2)])
    theirs = _described(in_blocks(said, both, device))
    if labels is not None:
        labels = labels[:, [CELEBA_ATTRIBUTES.index(name) for name in NAMES]]
        theirs.attributes = torch.cat([labels, labels])
    likeness = embeddings_of(chips, run.out / "pool.npy") - center
    theirs.embedding = functional.normalize(torch.cat([likeness, likeness]))
    log(f"principal components of {len(chips)} portraits")
    mean, components, codes = latents_of(in_blocks(pack, both, device), run.settings.seed)
    packed = in_blocks(pack, faces.chips, device)
    every = faces.every.clamp(min=0)
    components[COMPONENTS : COMPONENTS + every.shape[1]] = prototypes_of(packed, every)
    canvas = Canvas(chips.shape[1])
    canvas.mean.copy_(mean)
    canvas.components.copy_(components)
    return Material(faces, own, Album.of(chips.numpy()), Pool(codes, theirs), canvas)


def require_rows(found: int, wanted: int, path: str) -> None:
    """Make sure that the labels of a pool are of its pictures.

    Raises:
        DeidError: they are not.
    """
    if found != wanted:
        raise DeidError(
            f"{path} has {found} rows; the pool has {wanted} pictures with a face",
            "make it anew with `python -m benchmarks.a3gan labels`",
        )


def prototypes_of(values: Tensor, attributes: Tensor) -> Tensor:
    """(A, V): what each attribute adds to a packed face, the others being equal.

    The coefficients of a linear regression, a little ridge where an attribute is rare.

    Args:
        values: (N, V) packed faces. attributes: (N, A) in [0, 1].
    """
    centered = attributes - attributes.mean(0)
    gram = centered.T @ centered + 20 * torch.eye(attributes.shape[1])
    found: Tensor = torch.linalg.solve(gram, centered.T @ (values - values.mean(0)))
    return found


def _described(values: Tensor) -> Description:
    return Description(*torch.split(values, [len(NAMES), 10, 11, 128, 180], 1))


def latents_of(values: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(P, V) packed faces -> mean (V,), components (512, V) times their spread, codes (P, 512).

    The codes have mean 0 and variance 1, so that a latent from N(0, I) is such a code. Rows and
    columns beyond COMPONENTS are 0.
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
    """A generator whose canvas draws the latents, and whose AINet hears the wide ones first."""
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


def drawn_masks(count: int, generator: torch.Generator) -> Tensor:
    """(count, 10): a third nothing may change, a third one of the presets, a third any."""
    kind = torch.rand(count, 1, generator=generator)
    presets = torch.stack([mask_of(str(change)) for change in CHANGE])
    some = presets[torch.randint(len(presets), (count,), generator=generator)]
    share = torch.rand(count, 1, generator=generator)
    free = (torch.rand(count, len(ATTRIBUTES), generator=generator) < share).float()
    return torch.where(kind < 1 / 3, torch.zeros_like(free), torch.where(kind < 2 / 3, some, free))


def seeds_of(count: int, generator: torch.Generator) -> NDArray[np.uint64]:
    """(count,) numbers, as `Context` has them."""
    numbers = torch.randint(1 << 62, (count,), generator=generator).numpy()
    return np.asarray(numbers.astype(np.uint64) * np.uint64(4), np.uint64)


@dataclass
class Lesson:
    """One batch."""

    chips: Tensor
    mask: Tensor
    latent: Tensor
    faces: Tensor
    """(B, 3, S, S): the faces that the latents stand for."""
    target: Tensor
    """(B, 3, S, S): these in the pictures' tone."""
    attributes: Tensor
    """(B, 10) a_s."""


def lesson_of(material: Material, rows: Tensor, generator: torch.Generator, run: Run) -> Lesson:
    """Faces, masks, latents and what the teacher makes of them."""
    device = run.settings.device
    chips = batch_of(material.faces.chips, rows, device)
    mask = drawn_masks(len(rows), generator)
    faces = material.described.rows(rows)
    chosen = material.pool.draw(faces, mask, seeds_of(len(rows), generator))
    noise = torch.randn(len(rows), LATENT, generator=generator)
    latent = material.pool.latents(faces, mask, chosen, noise)
    drawn = material.canvas.around(
        material.album.faces(chosen), latent, material.pool.codes[chosen]
    )
    drawn = drawn.to(device)
    return Lesson(
        chips,
        mask.to(device),
        latent.to(device),
        drawn,
        laid(chips, drawn, _spread(device)),
        faces.attributes[:, : len(ATTRIBUTES)].to(device),
    )


_SPREADS: dict[str, Tensor] = {}


def _spread(device: str) -> Tensor:
    """What `laid` needs, made once a device."""
    if device not in _SPREADS:
        _SPREADS[device] = rim_to_face().to(device)
    return _SPREADS[device]
