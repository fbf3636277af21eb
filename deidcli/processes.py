"""Where work runs: processes, their threads, the device; and that workers end in time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import wait
from typing import get_args

from deidcli.errors import DeidError, UsageError
from deidcli.settings import DeviceName


def default_workers() -> int:
    """One a core that this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))


def limit_threads(threads: int) -> None:
    """Threads of OpenCV and torch in this process; torch may be loaded later, or never."""
    import cv2

    cv2.setNumThreads(threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


PRELOADED = ("deidcli.pipeline.steps", "deidcli.faces.dlib_nets")
"""For commands that run networks."""


def modules_of(method: str, gate: bool, detector: str) -> tuple[str, ...]:
    """What a run's workers import, and nothing that they do not need: above all not torch.

    Args:
        method: where the method's class is, `module:Class`.
        gate: whether there is one.
    """
    modules = ["deidcli.pipeline.steps", method.partition(":")[0]]
    if gate:
        modules.append("deidcli.faces.gate")
    if detector == "auto":
        modules.append("onnxruntime")
    if detector == "cnn":
        modules.append("deidcli.faces.dlib_detector")
    return tuple(modules)


def warm_up(modules: Sequence[str] = PRELOADED) -> None:
    """Start the server that workers are forked from; it imports while this process goes on.

    It imports once, and forks from a process that has no threads of its own: workers start in
    milliseconds and share what was imported.
    """
    multiprocessing.set_forkserver_preload(list(modules))
    try:
        _start_server()
    except OSError as error:
        raise DeidError(
            f"workers cannot be started: {error.strerror or error}",
            "see that TMPDIR can be written, or use --workers 1",
        ) from None


def _start_server() -> None:
    _shorten_temporary_folder()
    # The server and the workers forked from it are not told of Ctrl-C, or each would print a
    # traceback: this process is, and they end with it. The tracker comes first, for its start
    # lifts the mask.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


LONGEST_SOCKET = 100
"""Bytes of a socket's path; Linux allows 107, macOS 103."""
_SOCKET = "/pymp-12345678/listener-12345678"


def _shorten_temporary_folder() -> None:
    """Where TMPDIR is too long for the path of a socket, put sockets elsewhere."""
    config = getattr(multiprocessing.current_process(), "_config", {})
    usual = tempfile.gettempdir()
    if config.get("tempdir") or len(os.fsencode(usual + _SOCKET)) <= LONGEST_SOCKET:
        return
    short = next((f for f in ("/tmp", "/var/tmp") if os.access(f, os.W_OK | os.X_OK)), None)
    if short is None:
        raise DeidError(
            "the path of TMPDIR is too long for the sockets of workers",
            "set TMPDIR to a shorter one, or use --workers 1",
        )
    tempfile.tempdir = short
    try:
        util.get_temp_dir()  # which is kept, and removed in the end
    finally:
        tempfile.tempdir = usual


def remove_sockets() -> None:
    """Remove the folder of the workers' sockets, which a process that just ends leaves behind."""
    folder = getattr(multiprocessing.current_process(), "_config", {}).get("tempdir")
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def end_workers() -> None:
    """End the workers and the server that forks them, whatever they do.

    A server that still imports would fork workers of a process that is gone by then.
    """
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(5)


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


def check_device(name: str) -> None:
    """Refuse a device that is not known or not there.

    Raises:
        UsageError: another name than `auto`, `cpu`, `cuda`.
        DeidError: `cuda` where there is none.
    """
    if name not in get_args(DeviceName):
        raise UsageError(f"--device {name} is not known", "one of: auto, cpu, cuda")
    if name == "cuda" and resolve_device(name) != "cuda":
        raise DeidError("torch sees no CUDA device", "use --device cpu, or install its CUDA build")


def resolve_device(name: str) -> str:
    """`auto` to what torch has: `cpu` or `cuda`."""
    if name == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
