"""What the generator of `a3gan` learns from: described faces, latents, masks, teacher."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.data.attributes import CELEBA_ATTRIBUTES
from deidcli.methods.a3gan import CHANGE, mask_of
from deidcli.methods.a3gan_canvas import (
    ATTRIBUTES,
    CHROMA,
    COMPONENTS,
    LATENT,
    laid,
    pack,
    unpack,
    warped,
    widened,
)
from deidcli.methods.a3gan_latents import Description, Pool, describe
from deidcli.methods.a3gan_loop import (
    NAMES,
    READER,
    Faces,
    Run,
    batch_of,
    embeddings_of,
    in_blocks,
)
from deidcli.methods.a3gan_nets import SIZES, Discriminator, Generator
from deidcli.methods.dae import rim_to_face
from deidcli.training import load_checkpoint, log, save_checkpoint


@dataclass
class Material:
    """What the generator learns from."""

    faces: Faces
    described: Description
    source: Tensor
    """(P, S, S, 3) uint8: the computer-made faces; row P + i of the pool is i's mirror image."""
    pool: Pool
    mattes: Tensor
    """(P, 1, S/4, S/4) float32: where the head is; see `matte_of`."""
    mean: Tensor
    components: Tensor
    """Of the canvas."""

    def chosen(self, rows: Tensor, device: str) -> tuple[Tensor, Tensor]:
        """The faces that rows of the pool stand for (B, 3, S, S) and their mattes."""
        count = len(self.source)
        chips = batch_of(self.source, rows % count, device)
        mattes = widened(self.mattes[rows % count].to(device), chips.shape[2])
        turned = (rows >= count).to(chips.device)[:, None, None, None]
        return torch.where(turned, chips.flip(3), chips), torch.where(
            turned, mattes.flip(3), mattes
        )


def gather(
    faces: Faces, source: Faces, reader: Discriminator, spread: Tensor, center: Tensor, run: Run
) -> Material:
    """Describe all faces, and make latents of the source's; kept in `out/material.pt`."""
    path, fixed = run.out / "material.pt", run.fixed((*READER, "pool_labels"))
    found = load_checkpoint(path, fixed)
    if found is None:
        made = _gather(faces, source, reader, spread, center, run)
        own, theirs = vars(made.described), vars(made.pool.described)
        found = {
            "own": own,
            "theirs": theirs,
            "codes": made.pool.codes,
            "mattes": made.mattes,
            "mean": made.mean,
            "components": made.components,
        }
        save_checkpoint(path, {"settings": fixed, **found})
    pool = Pool(found["codes"], Description(**found["theirs"]))
    own_described = Description(**found["own"])
    canvas = (found["mattes"], found["mean"], found["components"])
    return Material(faces, own_described, source.chips, pool, *canvas)


def _gather(
    faces: Faces, source: Faces, reader: Discriminator, spread: Tensor, center: Tensor, run: Run
) -> Material:
    device = run.settings.device

    def said(x: Tensor) -> Tensor:
        found = describe(reader, x)
        return torch.cat([found.attributes, found.shape, found.tone, found.embedding], 1)

    own = _described(in_blocks(said, faces.chips, device))
    own.shape = faces.shape / spread
    own.attributes = torch.where(faces.labels < 0, own.attributes, faces.labels)
    both = torch.cat([source.chips, source.chips.flip(2)])
    theirs = _described(in_blocks(said, both, device))
    path = run.settings.pool_labels
    if path:
        columns = [CELEBA_ATTRIBUTES.index(name) for name in NAMES]
        labels = torch.from_numpy(np.load(path)[:, columns].astype(np.float32))
        theirs.attributes = torch.cat([labels, labels])
    likeness = embeddings_of(source.chips, run.out / "pool.npy") - center
    theirs.embedding = functional.normalize(torch.cat([likeness, likeness]))
    log("principal components of the pool")
    mean, components, codes = latents_of(in_blocks(pack, both, device), run.settings.seed)
    packed = in_blocks(pack, faces.chips, device)
    labels = faces.every.clamp(min=0)
    components[COMPONENTS : COMPONENTS + labels.shape[1]] = prototypes_of(packed, labels)
    mattes = mattes_of(source.chips)
    canvas = with_mattes(mean, components, codes, mattes)
    return Material(faces, own, source.chips, Pool(codes, theirs), mattes, *canvas)


def mattes_of(chips: Tensor) -> Tensor:
    """(P, S, S, 3) uint8 -> (P, 1, S/4, S/4) float32: 1 where a head is, 0 where its ground."""
    mattes = np.stack([matte_of(chip) for chip in chips.numpy()])
    return functional.avg_pool2d(torch.from_numpy(mattes)[:, None].float(), CHROMA)


def matte_of(chip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(S, S, 3) -> (S, S): 0 where the plain ground of a portrait reaches in from the border.

    A picture without a plain ground is all head.
    """
    side = len(chip)
    filled = np.zeros((side + 2, side + 2), np.uint8)
    plain = np.median(
        np.concatenate(
            [
                chip[:4].reshape(-1, 3),
                chip[: side // 3, :4].reshape(-1, 3),
                chip[: side // 3, -4:].reshape(-1, 3),
            ]
        ),
        axis=0,
    )
    steps = range(2, side - 2, 6)
    seeds = [(x, 2) for x in steps] + [
        (x, y) for y in range(2, side // 2, 6) for x in (2, side - 3)
    ]
    picture = np.ascontiguousarray(cv2.GaussianBlur(chip, (0, 0), 0.8))
    for x, y in seeds:
        if np.abs(picture[y, x] - plain).max() < 28 and not filled[y + 1, x + 1]:
            flags = 8 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
            cv2.floodFill(picture, filled, (x, y), (0, 0, 0), (18,) * 3, (18,) * 3, flags)
    head = 1 - filled[1:-1, 1:-1].astype(np.float32)
    whole = cv2.morphologyEx(head, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray(cv2.GaussianBlur(whole, (0, 0), 1.0), np.float32)


def with_mattes(
    mean: Tensor, components: Tensor, codes: Tensor, mattes: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and components that draw mattes, too: the linear fit of (2P, ...) codes to them."""
    values = torch.cat([mattes, mattes.flip(3)]).flatten(1)
    middle = values.mean(0)
    fit = codes.T @ (values - middle) / len(values)
    return torch.cat([mean, middle]), torch.cat([components, fit], 1)


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
    return Description(*torch.split(values, [len(NAMES), 10, 11, 128], 1))


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
        generator.canvas.mean.copy_(material.mean)
        generator.canvas.components.copy_(material.components)
    first = generator.ainet.layers[0]
    assert isinstance(first, nn.Linear)
    spread = material.components.norm(dim=1)
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
    target: Tensor
    """(B, 3, S, S): the latent's own face in the picture's tone."""
    attributes: Tensor
    """(B, 10) a_s."""


def lesson_of(material: Material, rows: Tensor, generator: torch.Generator, run: Run) -> Lesson:
    """Faces, masks, latents and what the teacher makes of them."""
    device = run.settings.device
    chips = batch_of(material.faces.chips, rows, device)
    mask = drawn_masks(len(rows), generator)
    own = material.described
    faces = Description(own.attributes[rows], own.shape[rows], own.tone[rows], own.embedding[rows])
    chosen = material.pool.draw(faces, mask, seeds_of(len(rows), generator))
    noise = torch.randn(len(rows), LATENT, generator=generator)
    latent = material.pool.latents(faces, mask, chosen, noise).to(device)
    face, matte = material.chosen(chosen, device)
    beyond = latent - material.pool.codes[chosen].to(device)
    pushed = unpack(beyond @ material.components.to(device), chips.shape[2])
    target = warped((face + pushed).clamp(0, 1), latent)
    return Lesson(
        chips,
        mask.to(device),
        latent,
        laid(chips, target, warped(matte, latent), _spread(device)),
        own.attributes[rows, : len(ATTRIBUTES)].to(device),
    )


_SPREADS: dict[str, Tensor] = {}


def _spread(device: str) -> Tensor:
    """What `toned` needs, made once a device."""
    if device not in _SPREADS:
        _SPREADS[device] = rim_to_face().to(device)
    return _SPREADS[device]
