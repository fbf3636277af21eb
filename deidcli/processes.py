"""Worker processes: how they start, how many threads they use, and that they end in time."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import wait


def default_workers() -> int:
    """One a core that this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))


def limit_threads(threads: int) -> None:
    """Threads of torch and OpenCV in this process."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


PRELOADED = ["torch", "deidcli.pipeline", "deidcli.methods.filters", "deidcli.faces.dlib_nets"]


def warm_up() -> None:
    """Start the server that workers are forked from; it imports torch while this process goes on.

    It imports once, and forks from a process that has no threads of its own: workers start in
    milliseconds and share what was imported.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def worker_pool(workers: int, threads: int) -> ProcessPoolExecutor:
    """Processes that end with their parent, `threads` threads each."""
    warm_up()
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
    )


def _start_worker(threads: int) -> None:
    limit_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker must not write on after the run that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
