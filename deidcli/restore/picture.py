"""Restore published faces, from the seal's pixels or by the method's network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from deidcli.crypto.keys import Keys, face_bits
from deidcli.crypto.sealing import Place, Unsealable, unseal
from deidcli.data.finished_output import Picture
from deidcli.data.geometry import Places
from deidcli.data.images import BadImage, Format, decode, encode
from deidcli.data.sealed import SealedRows
from deidcli.faces.align import Image, crop, paste
from deidcli.methods import load_method
from deidcli.processes import resolve_device
from deidcli.restore.written import Restored, lossless

MOST_WAITING = 64
"""Maximum number of pictures waiting for a full batch."""
BYTES_WAITING = 64 << 20
"""Maximum total of their encoded bytes."""


class Restorer(Protocol):
    """A way to restore pictures."""

    name: str

    def is_full(self, waiting: Sequence[Picture]) -> bool:
        """Return whether the waiting pictures are enough for one call."""

    def __call__(self, pictures: Sequence[Picture]) -> list[Restored]:
        """Restore pictures; one that cannot be restored has the result `failed`."""


class SealRestorer:
    """Restores the original pixels from OUT/sealed."""

    name = "seal"

    def __init__(self, keys: Keys, fingerprint: str, rows: SealedRows) -> None:
        self._keys, self._fingerprint, self._rows = keys, fingerprint, rows

    def is_full(self, waiting: Sequence[Picture]) -> bool:
        return True

    def __call__(self, pictures: Sequence[Picture]) -> list[Restored]:
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: Picture) -> Restored:
        if picture.problem:
            return Restored(picture, "failed", reason=picture.problem)
        try:
            sealed = self._rows.faces(picture.name)
            if len(sealed) != len(picture.faces):
                raise Unsealable
            if not sealed:
                return Restored(picture, "copied", picture.data)
            decoded = decode(picture.data)
            for index, face in enumerate(sealed):
                place = Place.of(self._fingerprint, picture.data, index)
                (x0, y0, x1, y1), pixels = unseal(self._keys, place, face)
                decoded.pixels[y0:y1, x0:x1] = pixels
            format = lossless(decoded.format)
            data = encode(decoded.pixels, format)
        except (Unsealable, KeyError):
            return Restored(picture, "failed", reason="it is not what was sealed")
        except (BadImage, ValueError, MemoryError) as error:
            return Restored(picture, "failed", reason=_words(error))
        return Restored(picture, "exact", data, format, faces=len(sealed))


class _Open:
    """A decoded picture with the chips to be restored."""

    def __init__(self, picture: Picture, method: Any, name: str, places: Places | None) -> None:
        decoded = decode(picture.data)
        self.frame: Image = decoded.pixels
        self.format: Format = decoded.format
        count, is_crop = len(picture.faces), places is None
        affines = [] if places is None else places.affines(picture.name, count)
        its = [n for n, face in enumerate(picture.faces) if face["method"] == name]
        self.blacked_out = count - len(its)
        self.affines = [affines[n] for n in its] if affines else []
        self.nonces = [str(picture.faces[n]["nonce"]) for n in its]
        side = method.chip.size
        if is_crop and its and self.frame.shape[:2] != (side, side):
            raise ValueError("it is not of the size that was published")
        self.chips = (
            [self.frame.copy() for _ in its]
            if is_crop
            else [crop(self.frame, affine, side, extend=True) for affine in self.affines]
        )


class NetworkRestorer:
    """Restores by the method's network, from chips cropped from the published pictures.

    The method's `restore_mask`, or else its `mask`, selects the pixels that are replaced.
    This class does not check whether the password is right; under a wrong one the method makes
    other faces. That keeps nothing secret, for the published picture and the weights are enough
    to check it.
    """

    name = "network"

    def __init__(
        self, record: dict[str, Any], keys: Keys, places: Places | None, device: str,
        batch_size: int,
    ) -> None:  # fmt: skip
        """Load the method.

        Args:
            places: the face positions; None: the pictures are crops.
        """
        settings = record["settings"]
        given = {key: str(value) for key, value in settings["method_settings"].items()}
        self._device = resolve_device(device)
        self._method = load_method(record["method"], given, self._device)
        self._mask = self._method.restore_mask
        self._name, self._keys, self._batch = str(record["method"]), keys, batch_size
        self._places = places

    def is_full(self, waiting: Sequence[Picture]) -> bool:
        faces = sum(len(picture.faces) for picture in waiting)
        size = sum(len(picture.data) for picture in waiting)
        return faces >= self._batch or len(waiting) >= MOST_WAITING or size >= BYTES_WAITING

    def __call__(self, pictures: Sequence[Picture]) -> list[Restored]:
        try:
            return self._all(pictures)
        except Exception:  # find the picture that caused it, one at a time
            return [self._alone(picture) for picture in pictures]

    def _alone(self, picture: Picture) -> Restored:
        try:
            return self._all([picture])[0]
        except Exception as error:  # a decoder may raise anything on a changed file
            return Restored(picture, "failed", reason=_words(error))

    def _all(self, pictures: Sequence[Picture]) -> list[Restored]:
        opened: list[_Open | None] = []
        for picture in pictures:
            closed = bool(picture.problem) or not self._has_way_back(picture)
            opened.append(
                None if closed else _Open(picture, self._method, self._name, self._places)
            )
        works = [work for work in opened if work is not None]
        chips = [chip for work in works for chip in work.chips]
        nonces = [nonce for work in works for nonce in work.nonces]
        restored: Iterator[Image] = iter(self._run(np.stack(chips), nonces) if chips else ())
        results = []
        for picture, work in zip(pictures, opened, strict=True):
            if picture.problem:
                results.append(Restored(picture, "failed", reason=picture.problem))
            elif work is None:
                black = len(picture.faces)
                results.append(Restored(picture, "copied", picture.data, blacked_out=black))
            else:
                results.append(self._put_back(picture, work, [next(restored) for _ in work.chips]))
        return results

    def _has_way_back(self, picture: Picture) -> bool:
        return any(face["method"] == self._name for face in picture.faces)

    def _run(self, chips: Image, nonces: Sequence[str]) -> Image:
        """Run (N, S, S, 3) uint8 chips through the network, batch by batch."""
        import torch

        bits, out = face_bits(self._keys, nonces), np.empty_like(chips)
        for start in range(0, len(chips), self._batch):
            rows = slice(start, start + self._batch)
            with torch.inference_mode():
                batch = torch.from_numpy(chips[rows]).to(self._device)
                new = self._method.restore(batch.permute(0, 3, 1, 2).float() / 255, bits[rows])
                scaled = (new.clamp(0, 1) * 255).round().to(torch.uint8)
            out[rows] = scaled.permute(0, 2, 3, 1).cpu().numpy()
        return out

    def _put_back(self, picture: Picture, work: _Open, chips: Sequence[Image]) -> Restored:
        format = lossless(work.format)
        if self._places is None:
            frame = self._crop(work, chips[0])
        else:
            frame = work.frame
            # As published: where faces overlap, only the last one's pixels are there to restore.
            for chip, affine in zip(chips, work.affines, strict=True):
                paste(frame, chip, affine, self._mask)
        return Restored(
            picture, "network", encode(frame, format), format, len(chips), work.blacked_out
        )

    def _crop(self, work: _Open, chip: Image) -> Image:
        """Return the crop: the network's chip inside the mask, the published pixels outside."""
        if self._method.whole_chips:
            return chip
        share = self._mask[:, :, None]
        return np.asarray(np.rint(share * chip + (1 - share) * work.frame), dtype=np.uint8)


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
