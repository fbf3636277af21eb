"""Process pictures within one process: open, replace, publish, in batches.

`deidentify` takes inputs one by one and yields results in the same order; faces go through the
method and the gate in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deidcli.data.images import is_large
from deidcli.data.journal import Journal
from deidcli.data.samples import Sample
from deidcli.data.sink import Result
from deidcli.errors import words
from deidcli.pipeline.encoding import encoded
from deidcli.pipeline.opening import open_sample
from deidcli.pipeline.replacing import replace_faces
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import Stages, Work

FRAME_BUDGET = 24_000_000
"""Maximum pixels of decoded frames waiting for a full batch; this bounds memory."""
MOST_WAITING = 64
"""Maximum number of inputs waiting for a full batch."""


def deidentify(samples: Iterable[Sample], run: Run, stages: Stages) -> Iterator[Result]:
    """De-identify inputs, with faces in batches; yield results in the inputs' order."""
    waiting: list[Result | Work] = []
    faces = pixels = 0
    for sample in samples:
        if is_large(sample.data):
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
            with Journal(run.out).one_at_a_time():
                yield from _close([open_sample(sample, run, stages)], run, stages)
            continue
        work = open_sample(sample, run, stages)
        waiting.append(work)
        if isinstance(work, Work):
            faces += len(work.faces)
            pixels += work.frame.shape[0] * work.frame.shape[1]
        full = faces >= run.batch_size or pixels >= FRAME_BUDGET or len(waiting) >= MOST_WAITING
        if full or run.careful:
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
    yield from _close(waiting, run, stages)


def _close(waiting: list[Result | Work], run: Run, stages: Stages) -> list[Result]:
    """Replace, gate and encode all faces of some pictures."""
    works = [work for work in waiting if isinstance(work, Work)]
    errors: dict[int, str] = {}
    try:
        replace_faces(works, run, stages)
    except Exception:  # find the picture that caused it, one at a time
        for work in works:
            try:
                replace_faces([work], run, stages)
            except Exception as error:
                errors[id(work)] = f"method: {words(error)}"
    results = []
    for entry in waiting:
        if isinstance(entry, Result):
            results.append(entry)
        elif id(entry) in errors:
            results.append(Result(entry.sample, "failed", errors[id(entry)], entry.notes))
        else:
            results.append(encoded(entry, run))
    return results
