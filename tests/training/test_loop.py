"""The training loop: schedule, order, optimizer step, average, checkpoints, resuming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deidcli.errors import DeidError
from deidcli.training import loop
from deidcli.training.loop import (
    StoppedError,
    TrainingRun,
    average_decay,
    cosine,
    epoch_order,
    optimizer_step,
    seed_step,
    take_steps,
    update_average,
)


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    checkpoint_steps: int = 3
    rate: float = 0.1
    pool: str = ""


def test_cosine_warms_up_and_ends_at_its_floor() -> None:
    assert [cosine(step, 20, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(4, 20, warmup=4) == 1.0
    assert cosine(12, 20, warmup=4) == pytest.approx(0.5)
    assert cosine(20, 20, warmup=4, floor=0.1) == pytest.approx(0.1)
    assert cosine(99, 20, floor=0.1) == pytest.approx(0.1)


def test_random_numbers_depend_on_seed_and_step_alone() -> None:
    def draws(seed: int, step: int) -> list[float]:
        generator = seed_step(seed, step)
        return [*torch.rand(2).tolist(), *torch.rand(2, generator=generator).tolist()]

    assert draws(1, 5) == draws(1, 5)
    assert len({tuple(draws(seed, step)) for seed in (0, 1) for step in (0, 1)}) == 4
    own = draws(1, 5)
    assert own[:2] != own[2:]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(9, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == epoch_order(9, 0, 0).tolist()


def test_the_average_moves_a_share_towards_the_model_and_copies_counters() -> None:
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    for value in (model.weight.data, model.running_mean):
        assert value is not None
        value.fill_(3.0)
    average.weight.data.fill_(1.0)
    assert model.num_batches_tracked is not None
    model.num_batches_tracked.fill_(7)
    update_average(average, model, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean is not None and average.running_mean.tolist() == [0.75, 0.75]
    assert average.num_batches_tracked is not None and int(average.num_batches_tracked) == 7
    assert average.weight.grad_fn is None and model.weight.tolist() == [3.0, 3.0]


def test_the_decay_of_the_average_grows_to_its_full_value() -> None:
    decays = [average_decay(step, 0.9) for step in (0, 8, 80, 10_000)]
    assert decays == [0.1, 0.5, 0.9, 0.9]


def plain_sgd(*sizes: int, rate: float = 1.0) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    values = [nn.Parameter(torch.zeros(size)) for size in sizes]
    return values, torch.optim.SGD([{"params": [value]} for value in values], lr=rate)


def test_a_step_clips_the_gradient_over_all_parameters() -> None:
    (one, two), optimizer = plain_sgd(1, 1)
    loss = 30 * one.sum() + 40 * two.sum()
    assert optimizer_step(optimizer, loss + 2, clip=5.0) == 2.0
    assert [one.item(), two.item()] == pytest.approx([-3.0, -4.0])  # a gradient of norm 5
    (one, two), optimizer = plain_sgd(1, 1)
    optimizer_step(optimizer, 30 * one.sum() + 40 * two.sum(), clip=5.0, each_group=True)
    assert [one.item(), two.item()] == pytest.approx([-5.0, -5.0])
    (one,), optimizer = plain_sgd(1)
    optimizer_step(optimizer, 0.5 * one.sum())
    assert one.item() == pytest.approx(-0.5)  # below the norm it is left as it is


def test_the_factor_is_of_the_first_rate_and_gradients_do_not_add_up() -> None:
    (one,), optimizer = plain_sgd(1, rate=0.1)
    for _ in range(3):
        optimizer_step(optimizer, one.sum(), factor=0.5)
    assert one.item() == pytest.approx(-0.15)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    optimizer_step(optimizer, one.sum())
    assert one.item() == pytest.approx(-0.25)


class Fit:
    """A line through points by SGD with momentum, whose state a checkpoint has to hold."""

    def __init__(self, out: Path, count: int = 8, **settings: Any) -> None:
        torch.manual_seed(0)
        self.count, self.out = count, out
        self.recipe = replace(Recipe(), **settings)
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), self.recipe.rate, momentum=0.9)
        self.seen: list[tuple[int, list[int]]] = []
        self.drawn: list[float] = []

    def step(self, step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        self.seen.append((step, rows.tolist()))
        noise = torch.rand(len(rows), 1, generator=generator)
        self.drawn.append(float(noise[0]))
        x = rows[:, None] / self.count + 0.01 * noise
        loss = (self.model(x) - 2 * x).square().mean()
        return {"loss": optimizer_step(self.optimizer, loss)}

    def run(
        self, steps: int, left: int | None = None, batch_size: int = 3, **more: Any
    ) -> Mapping[str, Tensor]:
        parts = {"model": self.model, "optimizer": self.optimizer}
        run = TrainingRun(self.recipe, self.out, left)
        fixed = run.fixed(("seed", "rate", "pool"))
        take_steps("line", parts, self.count, batch_size, steps, self.step, run, fixed, **more)
        return self.model.state_dict()


def test_steps_go_through_the_epochs_in_sorted_batches(tmp_path: Path) -> None:
    fit = Fit(tmp_path, count=8)
    fit.run(4)
    assert [step for step, _ in fit.seen] == [0, 1, 2, 3]
    assert all(rows == sorted(rows) and len(rows) == 3 for _, rows in fit.seen)
    for epoch in (0, 1):  # two batches of three in an epoch of eight
        order = epoch_order(8, 0, epoch).tolist()
        rows = [row for _, some in fit.seen[2 * epoch : 2 * epoch + 2] for row in some]
        assert sorted(rows) == sorted(order[:6])
    few = Fit(tmp_path / "few", count=2)
    few.run(3, batch_size=64)
    assert [rows for _, rows in few.seen] == [[0, 1]] * 3


@pytest.mark.parametrize("left", [1, 3, 4, 5])
def test_a_run_that_was_killed_resumes_to_the_same_weights(left: int, tmp_path: Path) -> None:
    whole = Fit(tmp_path / "whole")
    expected = whole.run(7)
    killed = Fit(tmp_path / "killed")
    with pytest.raises(StoppedError):
        killed.run(7, left=left)
    assert len(killed.seen) == left
    resumed = Fit(tmp_path / "killed")
    found = resumed.run(7)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    begun = 3 * (left // 3)  # the last checkpoint
    assert resumed.seen == whole.seen[begun:] and resumed.drawn == whole.drawn[begun:]


def test_the_seed_decides_the_order_and_each_step_draws_anew(tmp_path: Path) -> None:
    runs = {seed: Fit(tmp_path / str(seed), seed=seed) for seed in (0, 5)}
    for fit in runs.values():
        fit.run(6)
        assert len(set(fit.drawn)) == 6
    assert runs[0].seen != runs[5].seen
    assert not {*runs[0].drawn} & {*runs[5].drawn}
    first = [row for _, rows in runs[5].seen[:2] for row in rows]
    assert sorted(first) == sorted(epoch_order(8, 5, 0).tolist()[:6])


def test_a_run_that_is_done_takes_no_step_and_has_its_weights(tmp_path: Path) -> None:
    expected = {name: value.clone() for name, value in Fit(tmp_path).run(5).items()}
    again = Fit(tmp_path)
    nn.init.zeros_(again.model.weight)
    found = again.run(5)
    assert again.seen == []
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    Fit(tmp_path, pool="/data/one/portraits").run(3)
    with pytest.raises(DeidError, match="other settings: rate, seed"):
        Fit(tmp_path, pool="/data/one/portraits", seed=1, rate=0.2).run(3)
    with pytest.raises(DeidError, match="other settings: pool"):
        Fit(tmp_path, pool="/data/one/faces").run(3)
    with pytest.raises(DeidError, match="other settings: samples"):
        Fit(tmp_path, pool="/data/one/portraits", count=9).run(3)
    Fit(tmp_path, pool="/moved/portraits", checkpoint_steps=9).run(3)


def test_the_log_has_the_mean_of_each_loss_and_what_the_caller_adds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = Fit(tmp_path)
    losses = iter([1.0, 2.0, 3.0, 10.0])
    fit.step = lambda step, rows, generator: {"loss": next(losses)}  # type: ignore[method-assign]
    fit.run(4, after=lambda step: f", seen after {step}")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "line: step 3 of 4, loss 2.0000, seen after 3",
        "line: step 4 of 4, loss 10.0000, seen after 4",
    ]


def test_a_kill_before_the_checkpoint_is_whole_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.training import checkpoints

    expected = Fit(tmp_path / "whole").run(7)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    Fit(tmp_path / "a").run(3)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Fit(tmp_path / "a").run(7)
    resumed = Fit(tmp_path / "a")
    found = resumed.run(7)
    assert resumed.seen[0][0] == 3
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert loop.PATHS == ("pool", "pool_labels")
