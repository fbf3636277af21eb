"""The settings of a training run of a generator's head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A head that draws 256 or 128 px from features on the way, trained on the generator itself."""

    side: int = 256
    """Of the pictures that the head draws, px: 256 or 128."""
    steps: int = 1500
    """Steps of the whole run."""
    faces: int = 20_000
    """Random faces that steps draw from; each is drawn anew where it is needed."""
    batch_size: int = 3
    """Faces a step."""
    styles: int = 4
    """Styles a face: the face's own, and those of others at the places that the head stands for.
    Features cost much and these little, so it is a cheap way to see many colors."""
    window: int = 24
    """Side of what a step looks at of each face, in cells of the features."""
    linear_faces: int = 12
    """Faces that the linear map is found from before the first step."""
    rate: float = 2e-3
    """Adam's highest learning rate."""
    style_rate: float = 2e-4
    """The same of the maps from w, which have many more inputs."""
    detail: float = 2.0
    """Weight of the L1 distance of the Haar details beside that of the picture."""
    warmup: int = 50
    """Steps of linear warmup."""
    average: float = 0.995
    """Decay of the averaged weights, which are the ones that are kept."""
    seed: int = 0
    """Of the faces, of the order that they come in and of all that a step draws."""
    checkpoint_steps: int = 50
    """A kill costs so many steps at most."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"
    """Where the head is trained, as torch names it."""
