"""Enhanced embedded autoencoders: a face goes in, a picture without a face comes out.

Liu, Zhao, Li, Min, Li, "Enhanced Embedded AutoEncoders: An Attribute-Preserving Face
De-identification Framework", IEEE Internet of Things Journal 2023. From the published picture the
asked attributes, and nothing else, can be predicted. An external autoencoder turns the face into
a code r, an internal autoencoder replaces r by y, near the map d of the Feature Selection Network
(FSN), and the external decoder turns y into the picture. The Privacy Evaluation Network (PEN)
must see no likeness. One external autoencoder alone is the ablation SPRN, `network=sprn`.

Kept: the four networks with their counts of layers, eq. 4 to 8, the three procedures, all but the
internal autoencoder frozen in evaluation mode. What departs, and why:

- **The internal code is one number an attribute, rounded to +1 or -1.** The paper leaves its size
  open and reports that faces with the same attributes get identical pictures; here they do by
  construction, so m attributes give at most 2^m pictures and nobody can read more than m bits of a
  face. Rounding passes no gradient, so the attribute term of eq. 7 is also laid on that code,
  where it trains the internal encoder (with the FSN's probabilities as soft labels).
- Four of the six pooled blocks of the FSN halve the map (224 -> 14), the others pool with stride
  1; six halvings would leave 3 x 3. `compact` (112 px, 192 x 7 x 7) halves once by the stride of
  its first convolution, which costs a third.
- The external encoder is the FSN's first five blocks, and the reconstruction loss trains its
  decoder alone: trained by that loss itself, the encoder lost what tells a smile. The internal
  encoder's first layer starts from the FSN's sixth block.
- The negative part of the cosine (eq. 5) is cut off: below 0 it would teach an "anti-identity",
  which can be turned round.
- One FSN with a group for each of G, S, B, E, Y serves every set; since y depends on the bits of
  the asked attributes alone, the rest of d does not reach the picture.
- A term of ours makes a set's pictures alike to the PEN, see `eae_pen.likeness_loss`.
- AdamW in place of SGD; means in place of sums over a map, so that the terms have like scales.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import parse_attributes
from deidcli.faces.align import Mask
from deidcli.methods.base import Chip, Context, PlanFace
from deidcli.methods.eae.settings import Facts, Settings, card_name, card_of
from deidcli.weights.own import own_weights

SIDE = 224
"""Side of published chips, px (sec. IV-A). `compact` computes at half of it."""
PADDING = 0.65
"""The chip holds the whole square that recognizers with the ArcFace template see, and an edge."""
SOFT = 0.1
"""Width of the soft edge within the chip, in sides of the mean face."""
MICRO_BATCH = 8
"""Faces that go through the encoder at once, always exactly so many: see faces.recognizers."""
SLOPE = 0.1
"""Of LeakyReLU on the negative side; the paper gives none."""

# --- Networks


@dataclass(frozen=True)
class Size:
    """The shape of the networks."""

    side: int
    """Of the chips that they take, px."""
    widths: tuple[int, int, int, int, int, int]
    """Channels of the FSN's six blocks; the external autoencoder has those of the first five."""
    kernel: int
    """Of the first convolution, px."""
    stride: int
    """Of the first convolution."""
    pools: tuple[int, int, int, int, int, int]
    """Strides of the six max-poolings: 2 halves the map."""
    hidden: tuple[int, int]
    """Units of the first two fully connected layers of each group."""
    inner: tuple[int, int, int, int, int]
    """Channels of the internal encoder's first five layers; the sixth gives the code."""
    back: tuple[int, int, int, int, int]
    """Channels of the internal decoder's first five layers; the sixth gives y."""
    embedder: str
    """torchvision's network of a PEN that is trained here."""

    @property
    def code_side(self) -> int:
        """Side of r, y and d."""
        side = self.side // self.stride
        for pool in self.pools:
            side //= pool
        return side

    @property
    def channels(self) -> int:
        """Channels of r, y and d."""
        return self.widths[-1]


SIZES: dict[str, Size] = {
    "compact": Size(
        112, (24, 48, 96, 160, 192, 192), 5, 2, (2, 2, 1, 2, 1, 1), (64, 32),
        (192, 192, 256, 256, 256), (64, 64, 64, 96, 128), "resnet18",
    ),
    "paper": Size(
        224, (64, 128, 256, 512, 512, 512), 3, 1, (2, 2, 2, 2, 1, 1), (128, 64),
        (512, 512, 512, 512, 512), (256, 256, 256, 256, 512), "resnet50",
    ),
}  # fmt: skip


def _block(inputs: int, outputs: int, kernel: int, stride: int, pool: int) -> nn.Sequential:
    """Conv-BatchNorm-LeakyReLU-MaxPool (Fig. 6); pooling first gives the same and costs less."""
    pooling = nn.MaxPool2d(2) if pool == 2 else nn.MaxPool2d(3, 1, 1)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        pooling,
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _blocks(size: Size, count: int) -> nn.Sequential:
    """The first `count` shared blocks: (N, 3, S, S) in [-1, 1] -> (N, C, s, s)."""
    blocks, inputs = [], 3
    for index, (width, pool) in enumerate(zip(size.widths[:count], size.pools, strict=False)):
        kernel, stride = (size.kernel, size.stride) if index == 0 else (3, 1)
        blocks.append(_block(inputs, width, kernel, stride, pool))
        inputs = width
    return nn.Sequential(*blocks)


class FeatureSelection(nn.Module):
    """FSN: six shared blocks, whose output is d, and a group of three layers an attribute."""

    def __init__(self, size: Size, groups: int) -> None:
        super().__init__()
        self.shared = _blocks(size, 6)
        first, second = size.hidden
        self.groups = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size.channels * size.code_side**2, first),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(0.5),
                nn.Linear(first, second),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(0.5),
                nn.Linear(second, 2),
            )
            for _ in range(groups)
        )

    def desired(self, chips: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> d (N, C, s, s)."""
        out: Tensor = self.shared(chips * 2 - 1)
        return out

    def heads(self, desired: Tensor) -> Tensor:
        """d -> (N, groups, 2) logits: absent, present."""
        flat = desired.flatten(1)
        return torch.stack([group(flat) for group in self.groups], 1)

    def forward(self, chips: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, groups, 2) logits."""
        return self.heads(self.desired(chips))

    def answers(self, chips: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, groups): P(present), logits averaged with the mirror image's."""
        logits: Tensor = (self(chips) + self(chips.flip(3))) / 2
        return logits.softmax(2)[:, :, 1]


class ExternalAutoencoder(nn.Module):
    """Five layers each way: x (N, 3, S, S) in [0, 1] -> r (N, C, s, s) -> the same as x."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        assert size.widths[4] == size.channels
        self.encoder = _blocks(size, 5)
        layers: list[nn.Module] = []
        inputs, outputs = size.widths[4::-1], (*size.widths[3::-1], 3)
        for index in range(5):
            if index == 0:
                layers.append(nn.Conv2d(inputs[0], outputs[0], 3, 1, 1))
            else:  # doubles the side; a kernel of twice the stride covers evenly
                layers.append(nn.ConvTranspose2d(inputs[index], outputs[index], 4, 2, 1))
            if index < 4:
                layers += [nn.BatchNorm2d(outputs[index]), nn.LeakyReLU(SLOPE, inplace=True)]
        self.decoder = nn.Sequential(*layers, nn.Sigmoid())

    def encode(self, chips: Tensor) -> Tensor:
        """x -> r."""
        out: Tensor = self.encoder(chips * 2 - 1)
        return out

    def decode(self, code: Tensor) -> Tensor:
        """r or y -> a picture in [0, 1]."""
        out: Tensor = self.decoder(code)
        return out

    def forward(self, chips: Tensor) -> Tensor:
        return self.decode(self.encode(chips))


class InternalAutoencoder(nn.Module):
    """Six layers each way: r (N, C, s, s) -> code (N, m) -> bits in {-1, 1} -> y (N, C, s, s)."""

    def __init__(self, size: Size, attributes: int) -> None:
        super().__init__()
        channels, side = size.channels, size.code_side
        assert size.inner[0] == channels
        self.sides = [side, side]
        layers: list[nn.Module] = [_block(channels, channels, 3, 1, 1)]
        inputs = channels
        for width, stride in zip(size.inner[1:], (1, 2, 1, 2), strict=True):
            layers += [
                nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            self.sides.append((self.sides[-1] - 1) // stride + 1)
            inputs = width
        self.encoder = nn.Sequential(*layers, nn.Dropout(0.3))
        self.code = nn.Conv2d(inputs, attributes, self.sides[-1])
        widths = [attributes, *size.back, channels]
        self.decoder = nn.ModuleList(
            nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:-1])

    def encode(self, code: Tensor) -> Tensor:
        """r -> (N, m): above 0 where the attribute is there."""
        out: Tensor = self.code(self.encoder(code))
        return out.flatten(1)

    def decode(self, bits: Tensor) -> Tensor:
        """(N, m) in {-1, 1} -> y."""
        x = bits[:, :, None, None]
        for index, layer in enumerate(self.decoder):
            side = self.sides[-1 - index] if index < len(self.sides) else self.sides[0]
            x = layer(functional.interpolate(x, (side, side)))
            if index < len(self.norms):
                x = functional.leaky_relu(self.norms[index](x), SLOPE)
        return x


def bits_of(code: Tensor) -> Tensor:
    """(N, m) numbers -> +1 where above 0, else -1: all that leaves the internal encoder."""
    return torch.where(code > 0, 1.0, -1.0)


def code_of(external: ExternalAutoencoder, internal: InternalAutoencoder, chips: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> (N, m): the mean over a chip and its mirror image."""
    numbers = [internal.encode(external.encode(x)) for x in (chips, chips.flip(3))]
    return (numbers[0] + numbers[1]) / 2


# --- Losses


def attribute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 4, one term an attribute: cross-entropy of the softmax over absent and present.

    Args:
        logits: (N, m, 2).
        targets: (N, m) in [0, 1]: the share of "present"; negative: not labeled.

    Returns:
        (m,) means over the labeled rows; 0 where no row is.
    """
    logs = torch.log_softmax(logits, 2)
    losses = -(targets * logs[:, :, 1] + (1 - targets) * logs[:, :, 0])
    labeled = (targets >= 0).float()
    return (losses * labeled).sum(0) / labeled.sum(0).clamp(min=1)


def identity_loss(original: Tensor, published: Tensor) -> Tensor:
    """Eq. 5: the cosine of (N, D) embeddings, below 0 counted as 0; mean over N."""
    return functional.cosine_similarity(original, published).clamp(min=0).mean()


def reconstruction_loss(original: Tensor, published: Tensor) -> Tensor:
    """Eq. 6 and L_i of eq. 7: squared error, here the mean over a picture's or map's values."""
    return functional.mse_loss(published, original)


def multiple_loss(
    closeness: Tensor, attributes: Tensor, identity: Tensor, a1: float, a2: float
) -> Tensor:
    """Eq. 7 and 8: closeness + a1 * sum of the attributes' terms + a2 * identity.

    Args:
        closeness: L_i(d, y) for the PRN, L_e(x, x') for the SPRN.
        attributes: (m,) from `attribute_loss`.
    """
    return closeness + a1 * attributes.sum() + a2 * identity


# --- The class that is called


def load_part(module: nn.Module, name: str, device: str | torch.device) -> nn.Module:
    """Give a network the tensors of our weights `name`, ready for inference."""
    tensors = {key: value.float() for key, value in own_weights(name)[0].items()}
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **tensors})
    return frozen(module.to(device))


def frozen(module: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class EmbeddedAutoencoders(Facts):
    """A picture without a face, from which only the asked attributes can be read."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.device = device
        self.size = SIZES[settings.size]
        self.chip = Chip(SIDE, PADDING)
        self.mask = _mask()
        name = card_of(settings)
        sprn = settings.network == "sprn"
        external = name if sprn else card_name(settings.size, "external")
        self.external = ExternalAutoencoder(self.size)
        load_part(self.external, external, device)
        self.internal = None
        if not sprn:
            names = parse_attributes(settings.attrs)
            self.internal = InternalAutoencoder(self.size, len(names))
            load_part(self.internal, name, device)
        self._pictures: dict[tuple[float, ...], Tensor] = {}

    def prepare(self, faces: Iterable[PlanFace]) -> None:
        """Nothing: each face is a matter of its own."""
        return None

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        factor = SIDE // self.size.side
        small = functional.avg_pool2d(chips, factor) if factor > 1 else chips
        parts = [self._few(few) for few in torch.split(small, MICRO_BATCH)]
        # Doubled pixels: whoever averages them back has the network's own picture.
        return functional.interpolate(torch.cat(parts), scale_factor=factor)

    def _few(self, chips: Tensor) -> Tensor:
        """Up to MICRO_BATCH chips, always as many with black ones: sums round by batch size."""
        full = chips.new_zeros(MICRO_BATCH, *chips.shape[1:])
        full[: len(chips)] = chips
        full = full.contiguous(memory_format=torch.channels_last)
        if self.internal is None:
            out: Tensor = self.external(full)[: len(chips)]
            return out
        bits = bits_of(code_of(self.external, self.internal, full))[: len(chips)]
        return torch.cat([self._picture(tuple(row.tolist())) for row in bits])

    def _picture(self, bits: tuple[float, ...]) -> Tensor:
        """The picture of one code, made once: at most 2^m of them."""
        if bits not in self._pictures:
            assert self.internal is not None
            y = self.internal.decode(torch.tensor([bits], device=self.device))
            self._pictures[bits] = self.external.decode(y)
        return self._pictures[bits]


def _mask() -> Mask:
    """(SIDE, SIDE): 1, falling to 0 over SOFT at the edge."""
    unit = SIDE / (1 + 2 * PADDING)
    line = (torch.arange(SIDE) + 0.5) / unit
    ramp = (torch.minimum(line, line.flip(0)) / SOFT).clamp(max=1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    mask: Mask = torch.minimum(smooth[:, None], smooth[None]).numpy()
    return mask
