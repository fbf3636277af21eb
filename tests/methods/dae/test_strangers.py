"""Whose face a face becomes: who is drawn, and what is taken over from the original."""

from __future__ import annotations

import numpy as np
import torch

from deidcli.methods.dae.strangers import CANDIDATES, WINDOW, Pool


def test_the_stranger_is_one_that_fits_and_is_not_alike() -> None:
    count = 4 * CANDIDATES
    angle = torch.linspace(0, 3.1, count, dtype=torch.float64)
    embeddings = torch.stack([angle.cos(), angle.sin()], 1)
    place = torch.arange(count, dtype=torch.float64)[:, None]
    zeros = torch.zeros(count, 3)
    pool = Pool(zeros, zeros, torch.eye(3), place, embeddings)
    face = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    seeds = np.arange(200, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    drawn = torch.cat(
        [pool.draw(place[:1] + 10, face, seeds[i : i + 1]) for i in range(len(seeds))]
    )
    assert int(drawn.max()) < CANDIDATES, "a candidate that does not fit"
    # The likeness falls with the row: the drawn ones are the less alike of the candidates.
    assert int(drawn.min()) >= CANDIDATES * (1 - WINDOW[1]) - 1
    assert len(set(drawn.tolist())) >= 9
    together = pool.draw((place[:1] + 10).expand(200, 1), face.expand(200, 2), seeds)
    assert torch.equal(together, drawn)


def test_the_stranger_takes_over_only_what_is_kept() -> None:
    basis = torch.linalg.qr(torch.randn(6, 2))[0]
    codes, tuned = torch.randn(4, 6), torch.randn(4, 6)
    pool = Pool(codes, tuned @ basis, basis, torch.empty(4, 0), torch.empty(4, 0))
    kept, rows = torch.randn(3, 6), torch.tensor([2, 0, 2])
    made = pool.codes_of(kept, rows)
    torch.testing.assert_close(
        made @ basis, codes[rows] @ basis + (kept - tuned[rows]) @ basis, atol=1e-5, rtol=1e-5
    )
    beyond = torch.eye(6) - basis @ basis.T
    torch.testing.assert_close(made @ beyond, codes[rows] @ beyond, atol=1e-5, rtol=1e-5)
