"""Run the faces of some pictures through the method, paste them back, and run the gate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deidcli.crypto.keys import face_bits
from deidcli.faces.align import Image, crop, frame_box, paste, scale_of
from deidcli.methods.base import Context, FaceInFrame, InFrames, OnPixels, Patch
from deidcli.pipeline.gating import pass_gate
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import FaceAtWork, Stages, Work

Pairs = list[tuple[Work, FaceAtWork]]


def replace_faces(works: list[Work], run: Run, stages: Stages) -> None:
    """Run method, paste and gate; frames change only after the method has returned everything."""
    pairs = [(work, face) for work in works for face in work.fitted]
    if stages.gate is not None:
        for work, face in pairs:
            face.original = stages.gate.cut(work.frame, face.unit)
    for work in works:
        if run.settings.seal and work.original is None:  # on a retry the frame is already changed
            work.original = work.frame.copy()
    if isinstance(stages.method, InFrames):
        replaced = _replace_in_frames(pairs, run, stages, stages.method)
    else:
        _replace_chips(pairs, run, stages)
        replaced = pairs
    for work in works:
        for face in work.faces:
            if not face.face.fitted:
                stages.cover(work.frame, face.face, face.unit)
                face.method = "blackout"
    if stages.gate is not None and replaced:
        pass_gate(replaced, stages)
    if run.settings.output == "crops":
        for work, face in pairs:
            face.chip = _published_chip(work.frame, face, stages)


def _replace_in_frames(pairs: Pairs, run: Run, stages: Stages, method: InFrames) -> Pairs:
    """Paste what the method makes of each face; return the faces that it could replace.

    The others are blacked out, last, so that no patch lies on them.
    """
    made = list(zip(pairs, _patches(pairs, run, method), strict=True))
    # From the smallest face to the largest, so that the nearer one lies on top; of equals the one
    # that was found later.
    for (work, face), patch in sorted(made, key=lambda one: -scale_of(one[0][1].unit)):
        if patch is not None:
            paste(work.frame, patch.pixels, patch.affine, patch.mask)
            face.touched.append(frame_box(patch.affine, len(patch.pixels), work.frame.shape))
            face.method = run.settings.method
    for (work, face), patch in made:
        if patch is None:
            stages.black_out(work.frame, face.unit)
            face.method, work.status = "blackout", "fallback"
    return [pair for pair, patch in made if patch is not None]


def _patches(pairs: Pairs, run: Run, method: InFrames) -> list[Patch | None]:
    """Run faces through the method, batch by batch, and change no frame."""
    views: dict[int, Image] = {}
    for work, _ in pairs:
        if id(work) not in views:
            views[id(work)] = work.frame.view()
            views[id(work)].setflags(write=False)
    faces = [FaceInFrame(views[id(work)], face.face.landmarks, face.seed) for work, face in pairs]
    patches: list[Patch | None] = []
    for start in range(0, len(faces), run.batch_size):
        batch = faces[start : start + run.batch_size]
        patches += [patch for _, patch in zip(batch, method.in_frames(batch), strict=True)]
    return patches


def _replace_chips(pairs: Pairs, run: Run, stages: Stages) -> None:
    """Cut each face's chip, run it through the method and paste it back."""
    if not pairs:
        return
    chips = np.stack([stages.cut(work.frame, face.unit) for work, face in pairs])
    replaced = _apply(chips, [face for _, face in pairs], run, stages)
    for (work, face), chip in zip(pairs, replaced, strict=True):
        paste(work.frame, chip, face.affine, stages.method.mask)
        face.chip, face.method = chip, run.settings.method


def _apply(chips: Image, faces: list[FaceAtWork], run: Run, stages: Stages) -> Image:
    """Run (N, S, S, 3) uint8 chips through the method, batch by batch."""
    out = np.empty_like(chips)
    for start in range(0, len(chips), run.batch_size):
        rows = slice(start, start + run.batch_size)
        context = Context(
            seeds=np.array([face.seed for face in faces[rows]], dtype=np.uint64),
            scales=np.array([scale_of(face.affine) for face in faces[rows]]),
            plan=stages.plan,
            bits=_bits(faces[rows], run),
        )
        out[rows] = _through(stages, chips[rows], context)
    return out


def _through(stages: Stages, chips: Image, context: Context) -> Image:
    """Run one batch through the method."""
    if isinstance(stages.method, OnPixels):
        pixels = stages.method.on_pixels(chips.astype(np.float32) / np.float32(255), context)
        return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)
    import torch  # here, so that runs without networks start without it

    with torch.inference_mode():
        batch = torch.from_numpy(chips).to(stages.device)
        new = stages.method(batch.permute(0, 3, 1, 2).float() / 255, context)
        scaled = (new.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.asarray(scaled.permute(0, 2, 3, 1).cpu().numpy(), np.uint8)


def _bits(faces: list[FaceAtWork], run: Run) -> NDArray[np.uint8] | None:
    nonces = [face.nonce for face in faces if face.nonce is not None]
    if run.password is None or not nonces:
        return None
    return face_bits(run.password.keys, nonces)


def _published_chip(frame: Image, face: FaceAtWork, stages: Stages) -> Image:
    """Return the crop for `--output crops`: the method's chip, surrounded by the published frame.

    If a method's `whole_chips` is set, its chips are publishable up to their edges. If it is an
    InFrames, its patches are already in the frame, and nothing but the frame is cut.
    """
    if isinstance(stages.method, InFrames):
        return crop(frame, face.affine, stages.method.chip.size, extend=False)
    whole = stages.method.whole_chips
    if whole and face.chip is not None:
        # Only what surrounds the head would distinguish one black crop from another.
        return np.zeros_like(face.chip) if face.method == "blackout" else face.chip
    around = crop(frame, face.affine, stages.method.chip.size, extend=False)
    if face.method == "blackout" or face.chip is None:
        return around
    share = stages.method.mask[:, :, None]
    mixed = share * face.chip + (1 - share) * around
    return np.asarray(np.rint(mixed), dtype=np.uint8)
