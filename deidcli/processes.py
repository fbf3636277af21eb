"""Worker processes, their threads and devices, and ending workers in time."""

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
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, get_args

from deidcli.errors import DeidError, UsageError
from deidcli.settings import DeviceName


def default_workers() -> int:
    """Return one worker per core that this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))


def limit_threads(threads: int) -> None:
    """Limit the threads of OpenCV and torch in this process; torch may be loaded later or never."""
    import cv2

    cv2.setNumThreads(threads)
    _limit_torch(threads)


def _limit_torch(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def leave_threads() -> None:
    """Use one thread for OpenCV and torch in a process that may be forked from one with more.

    The parent's threads do not exist in a forked process, and code that needs them would wait
    forever. OpenCV therefore gets 0, which works in the calling thread and leaves its pool alone;
    with 1 it would join the pool.
    """
    import cv2

    cv2.setNumThreads(0)
    _limit_torch(1)


PRELOADED = ("deidcli.pipeline.steps", "deidcli.faces.dlib_nets")
"""Modules to preload for commands that run networks."""


def modules_of(method: str, gate: bool, detector: str) -> tuple[str, ...]:
    """Return the modules that a run's workers import, without unneeded ones, above all torch.

    Args:
        method: the method's class, as `module:Class`.
        gate: whether the run has a gate.
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
    """Start the server that workers are forked from; it imports in parallel with this process.

    It imports once and forks from a process without threads, so workers start in milliseconds and
    share the imported modules.
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
    # Ctrl-C is blocked in the server and its workers, or each would print a traceback; they end
    # with this process. The tracker is started first, because starting it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


LONGEST_SOCKET = 100
"""Maximum bytes of a socket's path; Linux allows 107, macOS 103."""
_SOCKET = "/pymp-12345678/listener-12345678"


def _shorten_temporary_folder() -> None:
    """Put sockets elsewhere if TMPDIR is too long for a socket's path."""
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
        util.get_temp_dir()  # cached, and removed at the end
    finally:
        tempfile.tempdir = usual


def remove_sockets() -> None:
    """Remove the folder of the workers' sockets, which a killed process leaves behind."""
    folder = getattr(multiprocessing.current_process(), "_config", {}).get("tempdir")
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def end_workers() -> None:
    """Kill the workers and the server that forks them, whatever they are doing.

    A server that is still importing would otherwise fork workers for a process that is gone.
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


class _Worker(ForkServerProcess):
    """A process that does not import the program that starts it.

    It needs nothing from that program, and a script that calls `deidcli.anonymize` without
    `if __name__ == "__main__"` would start again in every worker.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 - multiprocessing's name
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return ForkServerProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = program


class _Context(ForkServerContext):
    Process = _Worker


def worker_pool(workers: int, threads: int) -> ProcessPoolExecutor:
    """Return a pool of processes that end with their parent, with `threads` threads each."""
    warm_up()
    context = _Context()
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
    )


def _start_worker(threads: int) -> None:
    limit_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends: it must not keep writing after the run was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def check_device(name: str) -> None:
    """Refuse an unknown or unavailable device.

    Raises:
        UsageError: the name is not `auto`, `cpu` or `cuda`.
        DeidError: `cuda` is not available.
    """
    if name not in get_args(DeviceName):
        raise UsageError(f"--device {name} is not known", "one of: auto, cpu, cuda")
    if name == "cuda" and resolve_device(name) != "cuda":
        raise DeidError("torch sees no CUDA device", "use --device cpu, or install its CUDA build")


def resolve_device(name: str) -> str:
    """Resolve `auto` to what torch has: `cpu` or `cuda`."""
    if name == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
