"""Each figure of `deid score` on faces of known embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.evaluate import figures
from deidcli.evaluate.intervals import wilson
from deidcli.evaluate.pairs import PairRef
from deidcli.evaluate.rows import Faces, Row, share_row
from deidcli.faces.recognizers import RECOGNIZERS

COUNT = 12
RNG = np.random.default_rng(5)
CODES = RNG.normal(size=(COUNT, 128)).astype(np.float32)
"""As far apart as no two faces are."""


def faces(
    published: np.ndarray, withheld: int = 0, persons: list[str | None] | None = None
) -> Faces:
    """Faces whose embeddings are known."""
    data = {
        "cnn_original": np.ones(COUNT, bool),
        "hog_original": np.ones(COUNT, bool),
        "cnn_published": np.arange(COUNT) < 3,
        "hog_published": np.arange(COUNT) < 6,
        "dlib/original": CODES,
        "dlib/published": published,
        "dlib/original_blurred": CODES,
        "dlib/published_blurred": published,
        "dlib/published_jpeg": published,
    }
    people = persons or [None] * COUNT
    refs = tuple(PairRef(str(n), str(n), (), {}, people[n]) for n in range(COUNT))
    return Faces(data, refs, withheld, ())


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_withheld_pictures_count_for_privacy_and_against_use() -> None:
    hits = np.array([1, 1, 0, 0])
    utility = share_row("FCNS", hits, "", "higher", 4)
    privacy = share_row("DEID", hits, "", "higher", 4, recognizer="dlib")
    known = share_row("rank-1", hits, "", "lower", 4, recognizer="dlib")
    assert [row.with_withheld for row in (utility, privacy, known)] == [0.25, 0.75, 0.25]
    assert share_row("x", hits, "", "lower").with_withheld is None
    assert (utility.low, utility.high) == wilson(2, 4) and utility.value == 0.5


def test_figures_of_untouched_and_of_blank_faces() -> None:
    own = by_name(figures.deep_autoencoder_rows(faces(CODES)))
    assert own["DEID"].value == 0 and own["DEID"].original == 1
    assert own["DIV"].value == own["DIV"].original == 1 and own["ANON"].value == 1
    assert own["FCNS"].value == 0.25 and own["FCNS"].original == 1
    blank = by_name(figures.deep_autoencoder_rows(faces(np.zeros_like(CODES))))
    assert blank["DEID"].value == 1 and blank["DIV"].value == 0 and blank["DIV"].original == 1
    assert blank["ANON"].value == blank["ANON median"].value == COUNT


def test_diversity_compares_no_face_with_itself() -> None:
    """Two groups of equal faces: pairs within a group are near, and no pair is a face twice."""
    halves = np.repeat(CODES[:2], COUNT // 2, axis=0)
    value = by_name(figures.deep_autoencoder_rows(faces(halves)))["DIV"].value
    assert value == pytest.approx((COUNT / 2) / (COUNT - 1), abs=0.02)


def test_figures_of_a_recognizer() -> None:
    own = by_name(figures.recognizer_rows(faces(CODES, 4), "dlib"))
    assert own["rank-1"].value == own["verification"].value == own["TAR at FAR 1e-3"].value == 1
    assert own["rank-1"].chance == pytest.approx(1 / COUNT) and own["farthest match"].value == 0
    assert own["ID-distance"].value == pytest.approx(0, abs=1e-6) and own["SPR"].value == 0
    assert own["rank-1"].with_withheld == 0.75 and own["SPR"].with_withheld == 0.25
    moved = by_name(figures.recognizer_rows(faces(np.roll(CODES, 1, axis=0)), "dlib"))
    assert moved["rank-1"].value == moved["verification"].value == 0 and moved["SPR"].value == 1
    assert moved["rank-1 both blurred"].value == moved["rank-1 after JPEG 90"].value == 0


def test_each_figure_reads_its_own_features() -> None:
    said = faces(CODES)
    other = np.roll(CODES, 1, axis=0)
    blurred = replace(said, data={**said.data, "dlib/published_blurred": other})
    jpeg = replace(said, data={**said.data, "dlib/published_jpeg": other})
    names = ("rank-1", "rank-1 both blurred", "rank-1 after JPEG 90")
    for changed, expected in ((blurred, [1, 0, 1]), (jpeg, [1, 1, 0])):
        rows = by_name(figures.recognizer_rows(changed, "dlib"))
        assert [rows[name].value for name in names] == expected


def test_a_distance_of_the_threshold_is_verified_and_protected_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = replace(RECOGNIZERS["dlib"], threshold=0.5)
    monkeypatch.setitem(RECOGNIZERS, "dlib", entry)
    published = np.zeros_like(CODES)
    published[:, 0] = 0.5
    said = faces(published)
    rows = by_name(
        figures.recognizer_rows(
            replace(said, data={**said.data, "dlib/original": np.zeros_like(CODES)}), "dlib"
        )
    )
    assert rows["ID-distance"].value == 0.5
    assert rows["verification"].value == rows["SPR"].value == 1


def test_published_faces_are_the_probes_and_originals_the_gallery() -> None:
    """Two published faces are one person's, and their originals are two: one is found."""
    published, originals = CODES.copy(), CODES.copy()
    published[1] = CODES[0]
    originals[1] = CODES[2] + 1e-3
    said = faces(published)
    gallery = dict.fromkeys(("dlib/original", "dlib/original_blurred"), originals)
    rows = by_name(figures.recognizer_rows(replace(said, data={**said.data, **gallery}), "dlib"))
    for name in ("rank-1", "rank-1 both blurred", "rank-1 after JPEG 90"):
        assert rows[name].value == pytest.approx((COUNT - 1) / COUNT)


def test_a_face_found_again_counts_once_with_the_withheld() -> None:
    rows = by_name(figures.deep_autoencoder_rows(faces(CODES, withheld=12)))
    assert rows["FCNS"].with_withheld == 0.125 and rows["DEID"].with_withheld == 0.5
    halves = np.repeat(CODES[: COUNT // 2], 2, axis=0)
    said = faces(CODES)
    said = replace(said, data={**said.data, "dlib/original": halves})
    told = by_name(figures.deep_autoencoder_rows(said))
    assert told["ANON"].value == 1 and told["ANON"].original == 2
    assert told["DIV"].value == 1 and 0.8 < told["DIV"].original < 1  # type: ignore[operator]


def test_verification_and_spr_near_the_threshold() -> None:
    """Nearer is accepted, farther counts as protected."""
    threshold = RECOGNIZERS["dlib"].threshold
    shifted = CODES.astype(np.float64)
    shifted[:, 0] += [threshold - 0.01] * 6 + [threshold + 0.01] * 6
    rows = by_name(figures.recognizer_rows(faces(shifted.astype(np.float32)), "dlib"))
    assert rows["verification"].value == rows["SPR"].value == 0.5
    assert rows["ID-distance"].value == pytest.approx(threshold, abs=1e-3)


def test_the_far_threshold_is_of_these_originals() -> None:
    near = CODES * 1e-3  # strangers as near as 0.02: nothing but a copy may be accepted
    said = faces(30 * near)  # as far from their originals as no two originals are
    said = replace(said, data={**said.data, "dlib/original": near})
    rows = by_name(figures.recognizer_rows(said, "dlib"))
    assert rows["verification"].value == 1 and rows["TAR at FAR 1e-3"].value == 0


def test_linkability_by_person() -> None:
    people: list[str | None] = [str(n // 2) for n in range(COUNT)]
    pairs = np.repeat(CODES[: COUNT // 2], 2, axis=0)
    row = by_name(figures.recognizer_rows(faces(pairs, 0, people), "dlib"))["linkability"]
    assert row.value == 1 and row.n == COUNT // 2 and row.original is not None
    assert 0 < row.original < 1 and row.low is not None and row.low <= 1
    rows = by_name(figures.recognizer_rows(faces(pairs), "dlib"))
    assert "linkability" not in rows


def test_attributes_are_scored_where_they_are_labeled() -> None:
    said = faces(CODES)
    labels = [1, 1, 1, 1, -1, -1, -1, -1, 0, 0, 0, 0]
    refs = tuple(
        replace(ref, labels={"Male": label} if label else {})
        for ref, label in zip(said.refs, labels, strict=True)
    )
    after = np.zeros((COUNT, 40), np.float32)
    after[[0, 1, 2, 4, 8], CELEBA_ATTRIBUTES.index("Male")] = 0.5
    before = np.zeros((COUNT, 40), np.float32)
    before[:4, CELEBA_ATTRIBUTES.index("Male")] = 0.9
    data = {**said.data, "attributes_published": after, "attributes_original": before}
    rows = by_name(figures.attribute_rows(Faces(data, refs, 0, ("Male", "Smiling"))))
    assert rows["ATTR"].value == 0.75 and rows["ATTR"].n == 4 and rows["ATTR"].original == 1
    accuracy = rows["prediction accuracy Male"]
    assert accuracy.value == 0.75 and accuracy.n == 8 and accuracy.original == 1
    assert "prediction accuracy Smiling" not in rows
    known = rows["rank-1 by kept attributes alone"]
    assert known.value == pytest.approx(3 / COUNT) and known.chance == pytest.approx(1 / COUNT)


def test_detection_rates_are_of_their_detectors() -> None:
    rows = by_name(figures.detection_rows(faces(CODES, withheld=12)))
    assert rows["detection CNN"].value == 0.25 and rows["detection HOG"].value == 0.5
    assert rows["detection HOG"].with_withheld == 0.25
