"""What a command imports: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import (
    PEOPLE,
    copy_people,
)

LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""
PROGRAM = """
import sys
from deidcli import cli
code = cli.run(sys.argv[1:])
heavy = {"torch", "onnxruntime"} & set(sys.modules)
print("imported:", sorted(heavy))
sys.exit(code)
"""


def imports_of(*args: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(str(arg) for arg in args)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--attrs", "Q"],
        ["--method", "zzz"],
        ["--set", "zzz=1"],
        ["--detector", "eyes"],
        ["--gate", "9"],
        ["--method", "dae", "--set", "target=zzz"],
        ["--method", "eae", "--attrs", "ES"],
        ["--method", "a3gan", "--set", "change=Hat"],
        ["--method", "sdn", "--set", "shift=Smiling:9"],
        ["--method", "k-same", "--set", "k=1"],
    ],
)
def test_a_mistake_is_refused_before_anything_heavy_is_loaded(wrong: list[str]) -> None:
    code, said = imports_of("anonymize", PEOPLE, *wrong)
    assert code == 2 and "imported: []" in said, said


def test_a_filter_without_gate_needs_no_torch(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 1)
    for method in ("blackout", "pixelate", "blur"):
        args = ["anonymize", folder, "--out", tmp_path / method, "-m", method, *LIGHT, "--quiet"]
        assert imports_of(*args) == (0, "imported: []\n")


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    program = (
        "import sys; from deidcli import cli; code = cli.run(['--help']);"
        "heavy = {'torch', 'dlib', 'cv2', 'ray', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
