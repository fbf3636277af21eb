"""How fast `deid anonymize` is: ratios within one run, start-up included.

    python -m benchmarks.anonymize ../shared/data --deface path/to/deface

Needs the pictures beside the repository and, for the comparison, `deface` 1.5.0 in an environment
of its own (`pip install deface==1.5.0 onnx onnxruntime`). Each pair of programs runs in turns, and
the ratio of the medians is printed; seconds are given for orientation only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

DEID = [sys.executable, "-m", "deidcli", "anonymize"]
PLAIN = ["--method", "blackout", "--no-gate"]


def timed(command: list[str]) -> float:
    """Seconds that a command takes, start-up included."""
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def write_celeba(data: Path, folder: Path, count: int) -> Path:
    """celeba/test as a folder of pictures."""
    folder.mkdir(parents=True)
    number = 0
    for path in sorted((data / "celeba").glob("test-*.parquet")):
        for row in pq.read_table(path, columns=["image"])["image"].to_pylist():
            if number < count:
                (folder / f"{number:06d}.jpg").write_bytes(row["bytes"])
            number += 1
    return folder


def copy_frames(data: Path, folder: Path) -> Path:
    """frames/dlib_faces and frames/wild together."""
    folder.mkdir(parents=True)
    for name in ("dlib_faces", "wild"):
        for path in (data / "frames" / name).glob("*.jpg"):
            shutil.copy(path, folder / f"{name}_{path.name}")
    return folder


def ours(source: Path, scratch: Path, *extra: str) -> float:
    """Seconds of one run of deid into a fresh folder."""
    out = Path(tempfile.mkdtemp(dir=scratch)) / "out"
    seconds = timed([*DEID, str(source), "--out", str(out), *extra])
    shutil.rmtree(out.parent)
    return seconds


def theirs(deface: str, source: Path, scratch: Path) -> float:
    """Seconds of one run of deface, default settings, on a fresh copy of the folder."""
    copy = Path(tempfile.mkdtemp(dir=scratch)) / "in"
    shutil.copytree(source, copy)
    seconds = timed([deface, str(copy)])
    shutil.rmtree(copy.parent)
    return seconds


def _detect_slice(paths: list[str]) -> int:
    import cv2
    import torch

    from deidcli.data.images import decode
    from deidcli.faces.detect import Detector

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = Detector("auto")
    return sum(len(detector(decode(Path(path).read_bytes()).pixels)) for path in paths)


def detection_alone(source: Path, workers: int) -> float:
    """Seconds that decoding and detection take with the same worker count, start-up included."""
    program = (
        "import sys; from benchmarks.anonymize import detect_all;"
        "detect_all(sys.argv[1], int(sys.argv[2]))"
    )
    return timed([sys.executable, "-c", program, str(source), str(workers)])


def detect_all(source: str, workers: int) -> None:
    """Detect the faces of every picture of a folder in several processes."""
    paths = sorted(str(path) for path in Path(source).iterdir())
    slices = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_detect_slice, slices))


def peak_memory(source: Path, scratch: Path, *extra: str) -> int:
    """MB of the whole process tree at its peak (proportional set size), one run."""
    out = Path(tempfile.mkdtemp(dir=scratch)) / "out"
    process = subprocess.Popen(
        [*DEID, str(source), "--out", str(out), *extra],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_pss(pid) for pid in _session(process.pid)))
        time.sleep(0.2)
    shutil.rmtree(out.parent)
    return peak // 1024


def _session(leader: int) -> list[int]:
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getsid(int(entry)) == leader:
                    members.append(int(entry))
            except ProcessLookupError:
                continue
    return members


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def ratio(name: str, above: list[float], below: list[float], count: int) -> None:
    """Print how many times longer the first took than the second."""
    a, b = statistics.median(above), statistics.median(below)
    print(
        f"{name}: {a / b:.2f} ({a:.1f} s against {b:.1f} s; "
        f"{count / a:.0f} and {count / b:.0f} pictures/s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--deface", help="the deface command")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        celeba = write_celeba(args.data, scratch / "celeba", 2501)
        frames = copy_frames(args.data, scratch / "frames")
        if args.deface:
            for label, source in (("frames", frames), ("celeba/test", celeba)):
                pairs = [
                    (theirs(args.deface, source, scratch), ours(source, scratch, *PLAIN))
                    for _ in range(args.rounds)
                ]
                count = len(list(source.iterdir()))
                ratio(f"deface / deid, {label}", *map(list, zip(*pairs, strict=True)), count)
        pairs = [
            (ours(celeba, scratch, *PLAIN), detection_alone(celeba, args.workers))
            for _ in range(args.rounds)
        ]
        ratio("deid / detection alone, celeba/test", *map(list, zip(*pairs, strict=True)), 2501)
        gated = [ours(celeba, scratch, "--method", "blackout")]
        ratio("with the gate / without, celeba/test", gated, [a for a, _ in pairs], 2501)
        few = write_celeba(args.data, scratch / "few", 500)
        many = scratch / "many"
        shutil.copytree(celeba, many / "a")
        shutil.copytree(celeba, many / "b")
        small, large = (peak_memory(source, scratch) for source in (few, many))
        print(f"peak memory, 500 pictures: {small} MB; 5,002: {large} MB ({large / small:.2f})")


if __name__ == "__main__":
    main()
