"""Shell completion: what a shell offers after a word."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import Outcome

Deid = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("deid anonymize x --method b", {"blackout", "blur"}),
        ("deid anonymize x --detector ", {"auto", "cnn", "hog", "none"}),
        ("deid methods k", {"k-same"}),
        ("deid train e", {"eae"}),
        ("deid score x --recognizer dl", {"dlib"}),
        ("deid veri", {"verify"}),
    ],
)
def test_a_shell_completes(line: str, offered: set[str]) -> None:
    program = "import sys; sys.argv[0] = 'deid'; from deidcli.__main__ import main; main()"
    words = line.split(" ")
    told = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_DEID_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **told},
    )
    assert set(done.stdout.split()) == offered, done.stderr


def test_completion_can_be_installed(deid: Deid) -> None:
    assert "--install-completion" in deid("--help").stdout
