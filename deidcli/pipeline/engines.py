"""Execute a run in this process, or in several on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pyarrow as pa

from deidcli.data.journal import Journal
from deidcli.data.source import Shard
from deidcli.errors import DeidError
from deidcli.pipeline import finish, plans, remaining, steps
from deidcli.pipeline.run import Run
from deidcli.processes import default_workers, limit_threads, worker_pool

Progress = Callable[[str, int, int], None]
"""Called as (phase, inputs done now, inputs in all)."""


def run_local(run: Run, workers: int, progress: Progress) -> dict[str, Any]:
    """Do what is left of a run on this machine, finish it, and return the manifest."""
    journal = Journal(run.out)
    try:
        return _run_local(run, workers, progress)
    except (DeidError, OSError, pa.ArrowException):
        journal.require()  # if this raises, it is the cause of the failure
        raise


def _run_local(run: Run, workers: int, progress: Progress) -> dict[str, Any]:
    journal = Journal(run.out)
    left = remaining.unfinished(run)
    shards: Sequence[Shard] = left.shards
    if left.plan_anew:
        plans.forget(journal.plan, journal.folder / "scan")
    if shards:  # a finished run is unfinished until this is done
        (run.out / "manifest.json").unlink(missing_ok=True)
    if steps.needs_scan(run):
        scan = journal.folder / "scan"
        unseen = [s for s in run.source.shards if not plans.is_scanned(scan, s.index)]
        _work(steps.scan_shard, run, unseen, workers, "looking", progress)
        steps.make_plan(run)
    _work(steps.run_shard, run, shards, workers, "de-identifying", progress)
    gone = remaining.missing(run)
    if gone:  # files were removed while we wrote: try once more
        _work(steps.run_shard, run, gone, workers, "making what was removed again", progress)
    return finish.finish_run(run)


Step = Callable[[Run, Shard], int]


def _work(
    step: Step, run: Run, shards: Sequence[Shard], workers: int, phase: str, progress: Progress
) -> None:
    """Map a step over shards; results may come in any order, as each shard is its own file."""
    total = run.source.total
    progress(phase, total - sum(len(shard) for shard in shards), total)
    # Shards are sent one by one; workers do not need the list of all of them.
    light = dataclasses.replace(run, source=dataclasses.replace(run.source, shards=()), files={})
    workers = min(workers, len(shards))
    if workers <= 1:
        limit_threads(default_workers())
        for shard in shards:
            progress(phase, step(light, shard), total)
        return
    light = dataclasses.replace(light, threads=max(1, default_workers() // workers))
    for done in _in_processes(step, light, shards, workers):
        progress(phase, done, total)


def _in_processes(step: Step, run: Run, shards: Sequence[Shard], workers: int) -> Iterator[int]:
    """Map a step over shards in several processes.

    A worker that dies (a decoder's crash, or lack of memory) only costs time: the shards in
    progress are processed again, one picture at a time, and a picture that crashes its worker even
    alone is withheld.
    """
    # The largest shards first, so that none is left for a single worker at the end.
    waiting = sorted(shards, key=lambda shard: (shard.weight(), -shard.index))
    while waiting:
        running: dict[Future[int], Shard] = {}
        pool = worker_pool(workers, run.threads)
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    shard = waiting[-1]
                    running[pool.submit(step, run, shard)] = shard
                    waiting.pop()  # only now, as submit raises if the pool just broke
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:
            for shard in sorted(running.values(), key=lambda shard: shard.index):
                yield _carefully(step, run, shard)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _carefully(step: Step, run: Run, shard: Shard) -> int:
    """Process a shard whose worker died, alone and one picture at a time."""
    journal = Journal(run.out)
    run = dataclasses.replace(run, careful=True)
    while True:
        journal.take_position()
        pool = worker_pool(1, run.threads)
        try:
            return pool.submit(step, run, shard).result()
        except BrokenProcessPool:
            key = journal.take_position()
        finally:  # without waiting, so that Ctrl-C ends it at once
            pool.shutdown(wait=False, cancel_futures=True)
        if key is None or key in run.poisoned:
            raise DeidError(
                "a worker was ended by the system, most likely for memory",
                "free some memory, then run the same command again: it resumes",
            ) from None
        run = dataclasses.replace(run, poisoned=run.poisoned | {key})
