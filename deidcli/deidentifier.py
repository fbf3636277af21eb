"""One picture at a time, in memory: `Deidentifier`.

It goes through the same steps as a picture of `deid anonymize`: detection, the method, the gate.
What needs a whole data set or a folder is left to `api.anonymize`: random names, metadata, marks
in files, seals, checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from deidcli.api import checked_password, options_of
from deidcli.errors import DeidError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pil

    from deidcli.data.images import Decoded
    from deidcli.pipeline.run import Run, RunKeys
    from deidcli.pipeline.stages import Stages, Work

    Boxes = Sequence[Sequence[float]] | NDArray[np.floating[Any]]

OPTIONS = (
    *("detector", "on_no_face", "yes", "boxes_are", "box_format", "gate", "no_gate", "seed"),
    *("device",),
)
"""The options of a run that mean something for one picture."""
_IMPORTED_BY = os.getpid()
"""The process that imported this module; one forked from it has another number."""


@dataclass(frozen=True)
class ReplacedFace:
    """One face that was replaced."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the picture that is returned."""
    score: float
    """The detector's confidence; 1.0 for a box that the caller gave."""
    method: str
    """What covers it: the method, or `blackout` where its face still matched, has no landmarks or
    could not be replaced by the method."""
    gate_distance: float | None
    """dlib distance between what the method made and the original; None: not measured."""


@dataclass(frozen=True)
class Done:
    """What was done to a picture."""

    status: Literal["ok", "fallback", "no_face"]
    """ok: every face was replaced. fallback: one still matched its original, or the method could
    not replace it, and was blacked out. no_face: none was found; see `on_no_face`."""
    faces: tuple[ReplacedFace, ...] = ()
    reason: str = ""
    """Where no face was found: what became of the picture."""
    notes: tuple[str, ...] = ()
    """What had to be converted, e.g. `EXIF orientation applied`."""
    doubts: tuple[tuple[float, float, float, float], ...] = ()
    """Boxes of places that may be faces and were left as they are."""


@dataclass
class _Loaded:
    """The stages in this process; two threads must not use them at once."""

    process: int
    stages: Stages
    lock: Any


class Deidentifier:
    """A function from a picture to its de-identified copy.

    It can be pickled: settings travel and networks do not, which each process loads once, with its
    first picture. So it works in `datasets.map(num_proc=...)`, Ray Data and a `DataLoader`.

    What comes out holds no metadata and no mark of how it was made.
    """

    def __init__(
        self,
        method: str = "blur",
        *,
        seed: int | None = None,
        password: str | None = None,
        **settings: Any,
    ) -> None:
        """Check everything; nothing is loaded yet.

        Args:
            method: a name that `deid methods` lists, except those that look at a whole set first.
            seed: the same picture gets the same face again; None: random numbers follow from a
                secret that this object draws, and that travels with it.
            password: for a method that needs one. Keys made of it travel with this object, so
                whoever can read its pickle has them. `deid restore` knows nothing of pictures that
                were made here.
            settings: OPTIONS, as `deid anonymize` has them, and settings of the method. Of
                `on_no_face`, the default `withhold` returns no picture at all.

        Raises:
            UsageError: a method that cannot be used here, or a setting that is not known.
            DeidError: the method's weights are missing, or there is no such device.
        """
        from deidcli.methods import keeps_attributes, method_facts
        from deidcli.pipeline.anonymize import run_settings

        known = (*OPTIONS, "attrs") if keeps_attributes(method) else OPTIONS
        facts = method_facts(method)
        if facts.whole_set:
            raise UsageError(
                f"{method} looks at all faces of a data set before it replaces one",
                "use deidcli.anonymize, or another method",
            )
        passphrase = checked_password(method, password, facts.needs_password)
        given = settings if seed is None else {**settings, "seed": seed}
        options = options_of(method, given, known)
        self._settings = run_settings(options)
        self._device = options.device
        self._secret = os.urandom(32) if seed is None or passphrase is not None else b""
        self._keys = None if passphrase is None else _keys(passphrase, self._secret)
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __repr__(self) -> str:
        return f"Deidentifier({self._settings.method!r})"

    @overload
    def __call__(
        self, image: Pil.Image, boxes: Boxes | None = None, *, key: str | None = None
    ) -> tuple[Pil.Image | None, Done]: ...

    @overload
    def __call__(
        self, image: NDArray[np.uint8], boxes: Boxes | None = None, *, key: str | None = None
    ) -> tuple[NDArray[np.uint8] | None, Done]: ...

    def __call__(
        self, image: Any, boxes: Boxes | None = None, *, key: str | None = None
    ) -> tuple[Any, Done]:
        """De-identify one picture.

        Args:
            image: (H, W, 3) uint8 RGB, upright; or a Pillow picture of any mode, which is turned
                as its EXIF says. It is not changed.
            boxes: where the caller knows of faces, as x0, y0, x1, y1 in pixels of the upright
                picture (or as `box_format` says). They are added to what the detector finds;
                `boxes_are="replace"`: the detector is not asked.
            key: what tells this picture from others where random numbers are drawn; None: its
                pixels. With the name that `deid anonymize` lists the picture by and the same seed,
                the faces are the same, too.

        Returns:
            The picture, an array or a Pillow picture in RGB as it was given, and what was done.
            In place of the picture None, where no face was found and `on_no_face` is `withhold`.

        Raises:
            UsageError: it is no such picture.
            DeidError: it cannot be de-identified.
        """
        import numpy as np

        from deidcli.data.boxes import to_boxes
        from deidcli.data.samples import Sample
        from deidcli.data.sink import Result
        from deidcli.pipeline.opening import open_decoded
        from deidcli.pipeline.replacing import replace_faces

        loaded = self._load()
        decoded = _decoded(image)
        run = self._run(has_boxes=boxes is not None)
        listed = boxes.tolist() if isinstance(boxes, np.ndarray) else boxes
        marked = to_boxes(listed, self._settings.box_format)
        sample = Sample(_digest(decoded) if key is None else key, boxes=tuple(marked))
        with loaded.lock:
            work = open_decoded(sample, decoded, run, loaded.stages)
            if isinstance(work, Result):
                if work.status != "no_face":
                    raise DeidError(f"the picture cannot be de-identified: {work.reason}")
                doubts = tuple(doubt.box for doubt in work.doubts)
                return None, Done("no_face", (), work.reason, work.notes, doubts)
            replace_faces([work], run, loaded.stages)
        done = _done(work)
        if isinstance(image, _pil().Image):
            return _pil().fromarray(work.frame), done
        return work.frame, done

    def _load(self) -> _Loaded:
        """The networks, loaded once a process."""
        process = os.getpid()
        if self._loaded is None or self._loaded.process != process:
            from deidcli.pipeline.stages import load_stages
            from deidcli.processes import leave_threads

            if process != _IMPORTED_BY or multiprocessing.parent_process() is not None:
                leave_threads()  # one of several workers
            stages = load_stages(self._settings, self._device)
            self._loaded = _Loaded(process, stages, threading.Lock())
        return self._loaded

    def _run(self, has_boxes: bool) -> Run:
        """The run of one picture, in no folder."""
        from deidcli.data.source import Source
        from deidcli.pipeline.run import Run

        settings = self._settings
        if has_boxes:
            settings = dataclasses.replace(settings, boxes="given")
        nowhere = Path(os.devnull)
        return Run(
            settings,
            Source("folder", nowhere, (), 0, ""),
            nowhere,
            "",
            {},
            None,
            "",
            self._device,
            seed=self._secret if settings.seed is None else settings.seed,
            password=self._keys,
        )


def _keys(passphrase: bytes, secret: bytes) -> RunKeys:
    from deidcli.crypto.keys import derive, new_kdf
    from deidcli.pipeline.run import RunKeys

    kdf = new_kdf(secret)
    return RunKeys(derive(passphrase, kdf), kdf, secret)


def _pil() -> Any:
    from PIL import Image as Pil

    return Pil


def _decoded(image: Any) -> Decoded:
    """A picture's own copy of its pixels, upright.

    Raises:
        UsageError: it is neither an array of that shape and type nor a Pillow picture.
        DeidError: Pillow cannot decode it.
    """
    import numpy as np

    from deidcli.data.images import Decoded
    from deidcli.data.pixels import orientation, to_rgb, turned
    from deidcli.errors import words

    if isinstance(image, _pil().Image):
        notes: list[str] = []
        try:
            image.load()
            turn = orientation(image)
            pixels = turned(to_rgb(image, notes), turn)
        except Exception as error:  # Pillow's decoders raise almost every built-in exception
            raise DeidError(f"the picture cannot be decoded: {words(error)}") from None
        if turn > 1:
            notes.insert(0, "EXIF orientation applied")
        return Decoded(pixels, "PNG", tuple(notes))
    if not isinstance(image, np.ndarray):
        raise UsageError(f"a {type(image).__name__} is no picture", _PICTURE)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UsageError(f"an array {image.shape} of {image.dtype} is no picture", _PICTURE)
    return Decoded(np.array(image, order="C"), "PNG", ())


_PICTURE = "give (H, W, 3) uint8 RGB or a Pillow picture"


def _digest(decoded: Decoded) -> str:
    """What tells a picture by its pixels."""
    shape = repr(decoded.pixels.shape).encode()
    return hashlib.sha256(shape + decoded.pixels.tobytes()).hexdigest()


def _done(work: Work) -> Done:
    """What was done.

    Raises:
        DeidError: a face was left as it is; none ever should.
    """
    faces = tuple(
        ReplacedFace(face.face.box, face.face.score, face.method, face.distance)
        for face in work.faces
    )
    if not all(face.method for face in faces):
        raise DeidError("a face was not replaced", "please report this")
    status: Any = work.status
    doubts = tuple(doubt.box for doubt in work.doubts)
    return Done(status, faces, work.reason, work.notes, doubts)
