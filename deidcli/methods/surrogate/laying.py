"""Lay a drawn head into a picture: its outline, what the old head uncovers, its light and grain.

All pictures here are *views*: squares around a face, upright, in which the drawn picture fills the
middle (`view.py`). Nothing of the old face is used but means: of the skin's and the hair's color,
of the light that lies on the face, of how sharp and how grainy the picture is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Image, Mask
from deidcli.faces.segmenter import CLOTHES, FACE, GROUND, HAIR, NECK, OCCLUDER
from deidcli.methods.surrogate.grain import Grain, as_sharp
from deidcli.methods.surrogate.heads import disk, drawn_head, middle

Floats = NDArray[np.float32]
"""(S, S) or (S, S, C) float32."""

MARGIN = 0.018
"""How far around the old head its hair still tints the ground, in sides of the view."""
FADE = 0.06
"""Over which share of the drawn picture's side a head fades that reaches past its edge."""
LIGHT_REACH = 0.09
"""Width (sigma) over which light on the face is averaged, in sides of the view: too wide to show
features."""
LIGHT_SHARE = 0.7
"""How much of the difference in light is taken over."""
CROWN = 0.2
"""Height of a head's top beyond the drawn picture, in widths of the head there."""
TONE_LIMIT = np.array([60.0, 25.0, 25.0], np.float32)
"""Largest change of L, a and b (each of 255) of the mean skin or hair."""
HAIR_SHARE = 0.85
"""How much of the difference in the hair's mean color is taken over."""


@dataclass(frozen=True)
class Parts:
    """What a view shows where."""

    picture: Image
    """(S, S, 3) uint8 RGB."""
    shares: Floats
    """(S, S, 6) float32 in [0, 1], of the classes in `segmentation`."""

    def of(self, *classes: int) -> Floats:
        """(S, S) the share of some classes together."""
        found: Floats = self.shares[:, :, list(classes)].sum(2)
        return found


def lay_head(
    old: Parts, new: Parts, inside: Mask, grain: Grain, noise: Floats
) -> tuple[Image, Mask]:
    """Lay the drawn head over the old one; what of the old head is not covered is filled in.

    Args:
        old: the picture as it is. new: the drawn one, in its place in the view.
        inside: (S, S) 1 within the drawn picture, fading to 0 at its edge.
        grain: of the old face. noise: (S, S) of deviation 1.

    Returns:
        (S, S, 3) uint8, and (S, S) the share of it that is to be published at each pixel: 1 on
        all of the old head.
    """
    side = len(old.picture)
    hand = occluder(old)
    edge = hair_at_edge(new, inside)
    inside = np.maximum(inside, crown(old, edge, inside))
    # Hair that reaches past the drawn picture goes on as the old hair does.
    stays = edge * (inside < 1) * old.of(HAIR)
    gone = _opened(old.of(HAIR, FACE), side) * (1 - hand) * (1 - stays)
    cover = new_share(old, new, inside, edge) * (1 - hand)
    base = filled(old, new, gone)
    drawn = in_light(old, new)
    drawn = foreground(drawn, cover)
    drawn = as_sharp(drawn, new.of(FACE), grain, noise)
    share = cover[:, :, None]
    mixed = drawn * share + base * (1 - share)
    around = cv2.GaussianBlur(gone, (0, 0), side * MARGIN / 2)
    mask = np.maximum(np.clip(2 * around, 0, 1) * (1 - hand), cover)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8), np.asarray(mask, np.float32)


def lay_face(
    old: Parts, new: Parts, inside: Mask, grain: Grain, noise: Floats
) -> tuple[Image, Mask]:
    """Lay the drawn face alone over the old one; hair, ears and neck stay. See `lay_head`."""
    side = len(old.picture)
    skin = cv2.dilate((old.of(FACE) > 0.5).astype(np.float32), disk(side * MARGIN / 2))
    cover = np.maximum(
        skin, new_share(old, new, inside, new.of(HAIR)) * (1 - old.of(HAIR, CLOTHES, GROUND))
    )
    cover = cv2.GaussianBlur(cover, (0, 0), side * MARGIN / 2) * (1 - occluder(old))
    drawn = as_sharp(in_light(old, new), new.of(FACE), grain, noise)
    mask = np.asarray(np.maximum(cover, skin * (1 - occluder(old))), np.float32)
    return np.asarray(np.clip(np.rint(drawn), 0, 255), np.uint8), mask


def lay_picture(
    old: Parts, new: Parts, inside: Mask, grain: Grain, noise: Floats
) -> tuple[Image, Mask]:
    """Lay the whole drawn picture over the old one, with its own ground. See `lay_head`."""
    gone = _opened(old.of(HAIR, FACE), len(old.picture))
    base = filled(old, new, gone)
    drawn = as_sharp(in_light(old, new), new.of(FACE), grain, noise)
    share = inside[:, :, None]
    mixed = drawn * share + base * (1 - share)
    around = cv2.GaussianBlur(gone, (0, 0), len(gone) * MARGIN / 2)
    mask = np.maximum(np.clip(2 * around, 0, 1), inside)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8), np.asarray(mask, np.float32)


def _opened(share: Floats, side: int) -> Floats:
    """The old head with a margin: (S, S) 0 or 1."""
    return np.asarray(cv2.dilate(middle(share), disk(side * MARGIN)), np.float32)


def occluder(old: Parts) -> Floats:
    """(S, S) what lies before the old head and stays: 1 where that is sure."""
    sure = np.clip((old.of(OCCLUDER) - 0.75) / 0.2, 0, 1)
    return np.asarray(sure, np.float32)


def new_share(old: Parts, new: Parts, inside: Mask, edge: Floats) -> Floats:
    """(S, S) the share of the drawn picture: its head, and its neck where the old one has skin."""
    found = np.maximum(new.of(HAIR, FACE), edge)
    skin = np.asarray(new.of(FACE) * (inside > 0), np.float32)  # the rim shows a mirror's faces
    mine = cv2.dilate(drawn_head(found, skin), disk(len(found) * MARGIN / 2))
    head = np.clip((found - 0.2) / 0.5, 0, 1) * mine
    room = cv2.GaussianBlur(old.of(HAIR, FACE, NECK), (0, 0), len(inside) * 0.008)
    neck = new.of(NECK) * np.clip(2 * room - 0.5, 0, 1)
    return np.asarray(np.clip(head + neck, 0, 1) * inside, np.float32)


def hair_at_edge(new: Parts, inside: Mask) -> Floats:
    """(S, S) the drawn hair, and in the rim that of the nearest place in the drawn picture."""
    width = int(np.flatnonzero(inside.max(0) > 0)[0])
    share = np.ascontiguousarray(new.of(HAIR)[width:-width, width:-width])
    return np.pad(share, width, mode="edge")


def crown(old: Parts, edge: Floats, inside: Mask) -> Floats:
    """(S, S) a round top for a head that the drawn picture cuts off, where the old one has none."""
    top = int(np.flatnonzero(inside.max(1) > 0)[0])
    across = np.flatnonzero(edge[top] > 0.5)
    cap = np.zeros_like(edge)
    if len(across) < 0.05 * len(edge) or top < 2:
        return cap
    width, middle = float(np.ptp(across)), float(across.mean())
    height = min(CROWN * width, 0.9 * top)
    axes = (max(1, round(width / 2)), max(1, round(height)))
    cv2.ellipse(cap, (round(middle), top), axes, 0, 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(cap, (0, 0), 0.006 * len(edge))
    above = old.of(HAIR)[max(0, top - round(height)) : top, across[0] : across[-1] + 1]
    return np.asarray(soft * (1 - np.clip(1.5 * above.mean(), 0, 1)), np.float32)


def filled(old: Parts, new: Parts, gone: Floats) -> Floats:
    """The old picture without its head: (S, S, 3) float32.

    Ground is continued into what was head where the drawn picture has ground, clothes where it has
    clothes or a neck.
    """
    picture = old.picture.astype(np.float32)
    keep = 1 - gone
    low = new.of(CLOTHES, NECK)
    share = cv2.GaussianBlur(np.asarray(low / np.maximum(low + new.of(GROUND), 1e-3)), (0, 0), 3)
    ground = continued(picture, keep * (old.of(GROUND) > 0.6))
    clothes_known = keep * (old.of(CLOTHES, NECK) > 0.6)
    clothes = continued(picture, clothes_known) if clothes_known.sum() > 50 else ground
    if (keep * (old.of(GROUND) > 0.6)).sum() < 50:
        ground = clothes
    inner = ground * (1 - share[:, :, None]) + clothes * share[:, :, None]
    return np.asarray(picture * keep[:, :, None] + inner * gone[:, :, None], np.float32)


def continued(picture: Floats, known: Floats) -> Floats:
    """Fill what is not known smoothly from what is around it (push-pull).

    Source: Gortler et al. 1996, "The Lumigraph", section 3.4.2.

    Args:
        picture: (S, S, 3). known: (S, S) in [0, 1].
    """
    levels = [(picture * known[:, :, None], np.asarray(known, np.float32))]
    while min(levels[-1][1].shape) > 2:
        values, weight = levels[-1]
        size = (max(1, weight.shape[1] // 2), max(1, weight.shape[0] // 2))
        values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)
        weight = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
        full = np.minimum(4 * weight, 1)  # a quarter known is enough
        scale = np.where(weight > 1e-6, full / np.maximum(weight, 1e-6), 0)
        levels.append((values * scale[:, :, None], np.asarray(full, np.float32)))
    values, weight = levels[-1]
    found = values / np.maximum(weight, 1e-6)[:, :, None]
    for values, weight in reversed(levels[:-1]):
        size = (weight.shape[1], weight.shape[0])
        above = cv2.resize(found, size, interpolation=cv2.INTER_LINEAR).reshape(values.shape)
        found = values + above * (1 - weight)[:, :, None]
    return np.asarray(found, np.float32)


def in_light(old: Parts, new: Parts) -> Floats:
    """The drawn picture in the old one's light and with its mean skin and hair color.

    Returns:
        (S, S, 3) float32 RGB, about [0, 255].
    """
    theirs, mine = _lab(old.picture), _lab(new.picture)
    skin = _shift(theirs, mine, old.of(FACE), new.of(FACE))
    hair = HAIR_SHARE * _shift(theirs, mine, old.of(HAIR), new.of(HAIR))
    sigma = LIGHT_REACH * len(mine)
    light = _smooth(theirs, old.of(FACE), sigma) - _smooth(mine, new.of(FACE), sigma) - skin
    if not skin.any():  # hardly any skin to read light off
        light = np.zeros_like(light)
    near = cv2.GaussianBlur(new.of(FACE), (0, 0), sigma / 2)
    light = np.clip(light, -40, 40) * (LIGHT_SHARE * np.clip(2 * near, 0, 1))[:, :, None]
    share = cv2.GaussianBlur(new.of(FACE, NECK), (0, 0), 2.0)[:, :, None]
    moved = mine + share * (skin + light) + (1 - share) * hair
    return _rgb(moved)


def _shift(theirs: Floats, mine: Floats, old: Floats, new: Floats) -> Floats:
    """(3,) the change of the mean Lab color of a part; 0 where either has too little of it."""
    left, right = old * (old > 0.7), new * (new > 0.7)
    if left.sum() < 200 or right.sum() < 200:
        return np.zeros(3, np.float32)
    change = _mean(theirs, left) - _mean(mine, right)
    return np.asarray(np.clip(change, -TONE_LIMIT, TONE_LIMIT), np.float32)


def _mean(lab: Floats, weight: Floats) -> Floats:
    return np.asarray((lab * weight[:, :, None]).sum((0, 1)) / weight.sum(), np.float32)


def _smooth(lab: Floats, weight: Floats, sigma: float) -> Floats:
    """The mean around each pixel over one part of the picture: (S, S, 3)."""
    sure = weight * (weight > 0.7) + 1e-4
    # Blurred small: what is kept is far wider than eight pixels.
    small = cv2.resize(np.dstack([lab * sure[:, :, None], sure]), None, fx=0.125, fy=0.125,
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    small = cv2.GaussianBlur(small, (0, 0), sigma / 8, borderType=cv2.BORDER_CONSTANT)
    small = small[:, :, :3] / np.maximum(small[:, :, 3:], 1e-9)
    size = (lab.shape[1], lab.shape[0])
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.float32)


def _lab(picture: Image) -> Floats:
    """L, a and b, each scaled to 255."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(lab * np.array([2.55, 1, 1], np.float32), np.float32)


def _rgb(lab: Floats) -> Floats:
    plain = np.asarray(lab / np.array([2.55, 1, 1], np.float32), np.float32)
    plain[:, :, 0] = np.clip(plain[:, :, 0], 0, 100)
    return np.asarray(255 * cv2.cvtColor(plain, cv2.COLOR_LAB2RGB), np.float32)


def foreground(drawn: Floats, share: Floats) -> Floats:
    """The drawn picture with its own ground taken out of the head's edge.

    Source: Forte 2021, "Approximate Fast Foreground Colour Estimation", section 3, one pass.
    """
    inner = np.clip((share - 0.9) * 10, 0, 1)
    spread = continued(drawn, inner)
    edge = np.clip(1 - inner, 0, 1)[:, :, None]
    return np.asarray(drawn * (1 - edge) + (0.3 * drawn + 0.7 * spread) * edge, np.float32)
