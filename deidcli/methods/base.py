"""What a method is, and what passes between it and the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import parse_attributes
from deidcli.data.marks import SourceType
from deidcli.faces.align import Affine, Image, Mask, Points

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Chip:
    """How faces are cut for a method."""

    size: int
    """Side in px."""
    padding: float
    """Share of the mean face's side added on each side; dlib's own chips have 0.25."""


Plan = Mapping[str, NDArray[Any]]
"""What a whole-set method found in its pass over the input: named arrays, the same in every
worker."""


@dataclass(frozen=True)
class PlanFace:
    """One face of the whole set, as `prepare` sees it."""

    seed: int
    """The face's own 64-bit number, from (seed, input key, face index)."""
    chip: Image
    person: str | None
    """The person, where the source says so and the picture shows one face."""


@dataclass(frozen=True)
class Context:
    """What is known about the N faces of a batch beside their pixels."""

    seeds: NDArray[np.uint64]
    """(N,) each face's own number; the only source of randomness."""
    scales: NDArray[np.float64]
    """(N,) chip pixels per frame pixel."""
    plan: Plan | None = None
    bits: NDArray[np.uint8] | None = None
    """(N, 128) of 0 and 1: each face's own password, made of the run's. Only for a method whose
    `needs_password` holds."""


class Facts:
    """What is known of a method before a network is loaded: the base of its class.

    A method whose `method.py` imports torch has a subclass of this in its `settings.py`, so that a
    mistake on the command line is refused without loading torch. Whatever differs from the
    defaults below is overridden there.
    """

    settings: Any
    """A frozen dataclass, a docstring under each field."""
    whole_set: ClassVar[bool] = False
    """Looks at all faces before the first shard: `prepare` returns a plan."""
    whole_chips: ClassVar[bool] = False
    """Published crops are the chip as it is, without the mask's soft edge."""
    needs_password: ClassVar[bool] = False
    """`Context.bits` must be given, and `restore` brings faces back."""
    source_type: ClassVar[SourceType | None] = None
    """IPTC's word for its pictures; None: trained where it has weights of ours, else an
    algorithm."""

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """The names of our weight files that these settings load.

        Raises:
            UsageError: there are no weights for these settings.
        """
        return ()

    @classmethod
    def kept(cls, settings: Any) -> tuple[str, ...] | None:
        """The attributes that the picture keeps, hence whose labels may stand beside it; None:
        all of them. By default what the setting `attrs` names, which --attrs fills."""
        attrs: str | None = getattr(settings, "attrs", None)
        return None if attrs is None else parse_attributes(attrs)

    @classmethod
    def per_person(cls, settings: Any) -> bool:
        """Whether all pictures of a person get one seed, hence one new face. It can only be so
        where the source says who is who and the picture shows one face."""
        return False

    @classmethod
    def warning(cls, settings: Any) -> str | None:
        """What must be known of these settings before publishing, one line."""
        return None


class Method(Facts, ABC):
    """A way to de-identify faces. Built as `Class(settings, device)`, once a process."""

    chip: Chip
    mask: Mask
    """(S, S) float32 in [0, 1]: which part of the chip is pasted back, see align.paste."""
    blank: bool = False
    """It leaves a black head itself, so the gate's fallback would change nothing."""

    @property
    def restore_mask(self) -> Mask:
        """(S, S) float32 in [0, 1]: which part of a restored chip is put back."""
        return self.mask

    def prepare(self, faces: Iterable[PlanFace]) -> Plan | None:
        """Whole-set methods: one pass over all faces before the first shard; others: None."""
        return None

    @abstractmethod
    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """(N, 3, S, S) float32 RGB in [0, 1] -> the same, de-identified."""

    def restore(self, chips: Tensor, bits: NDArray[np.uint8]) -> Tensor:
        """Published chips -> the originals under the right bits.

        Args:
            chips: (N, 3, S, S) float32 RGB in [0, 1]. bits: (N, 128) of 0 and 1.

        Raises:
            NotImplementedError: the method has no way back; `needs_password` tells.
        """
        raise NotImplementedError


Pixels = NDArray[np.float32]
"""(N, S, S, 3) RGB in [0, 1]: chips outside of torch."""


class OnPixels(Method):
    """The base of a method that needs no network: a run calls `on_pixels` and loads no torch."""

    @abstractmethod
    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        """The chips, de-identified."""

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """The same for tensors, as every method has it."""
        import torch

        out = self.on_pixels(chips.permute(0, 2, 3, 1).cpu().numpy(), context)
        return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 3, 1, 2))).to(chips.device)


@dataclass(frozen=True)
class FaceInFrame:
    """A face in its frame, for a method that looks at more than a chip."""

    frame: Image
    """(H, W, 3) uint8 RGB: the whole original frame, read-only; one array for all its faces."""
    landmarks: Points
    """(5, 2) float64, frame pixels, in the order of `align.MEAN_FACE_5`."""
    seed: int
    """The face's own 64-bit number; the only source of randomness."""


@dataclass(frozen=True)
class Patch:
    """What replaces a face: a picture of any size, pasted by `align.paste`.

    Raises:
        ValueError: it could not be pasted, or pasting it would leave the face as it was.
    """

    pixels: Image
    """(S, S, 3) uint8 RGB."""
    affine: Affine
    """(2, 3) float64, frame pixels -> patch pixels."""
    mask: Mask
    """(S, S) float32 in [0, 1]: the patch's weight at each pixel."""

    def __post_init__(self) -> None:
        side = len(self.pixels)
        if self.pixels.shape != (side, side, 3) or self.pixels.dtype != np.uint8:
            raise ValueError("a patch is (S, S, 3) uint8")
        if self.mask.shape != (side, side) or self.mask.dtype != np.float32:
            raise ValueError("the mask of a patch is (S, S) float32")
        if not (self.mask.min() >= 0 and self.mask.max() <= 1):  # nan fails too
            raise ValueError("the mask of a patch lies between 0 and 1")
        # Where these are not so, OpenCV pastes nothing and raises nothing.
        if self.affine.shape != (2, 3) or not np.isfinite(self.affine).all():
            raise ValueError("the affine of a patch is six finite numbers")
        if np.linalg.det(self.affine[:, :2]) == 0:
            raise ValueError("the affine of a patch has no inverse")


class InFrames(Method):
    """The base of a method that looks at whole frames and makes a patch of its own for each face.

    Its `chip` only says how a face is cut for `--output crops`.
    """

    mask: Mask = np.zeros((0, 0), np.float32)
    """Of no use here: each patch has its own."""

    @abstractmethod
    def in_frames(self, faces: Sequence[FaceInFrame]) -> list[Patch | None]:
        """A patch for each face, in their order; it depends on that face and its frame alone.

        None: the face cannot be replaced, such as an extreme profile. Its whole head becomes black.
        """

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """Not there: a chip is not enough.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("this method looks at whole frames: call in_frames")
