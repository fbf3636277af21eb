"""SHA256SUMS, as `sha256sum` has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deidcli.data.manifest import write_sums
from deidcli.data.sums import escape_sum_name, read_sums, unescape_sum_name


def test_sums_are_what_sha256sum_writes_and_checks(tmp_path: Path) -> None:
    names = ["images/a b.jpg", "images/\\n.jpg", "images/new\nline.jpg", "c\rd.jpg", "ü.jpg"]
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number]))
    line = subprocess.run(
        ["sha256sum", *names], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "SHA256SUMS").write_text(line)
    theirs = read_sums(tmp_path)
    assert sorted(theirs) == sorted(names)
    write_sums(tmp_path, list(theirs.items()))
    assert read_sums(tmp_path) == theirs
    assert sorted((tmp_path / "SHA256SUMS").read_text().splitlines()) == sorted(line.splitlines())
    check = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_escapes_are_undone() -> None:
    for name in ("a\\n", "a\n", "\\\\r\r", "plain"):
        assert unescape_sum_name(escape_sum_name(name)) == name
    assert escape_sum_name("a\nb\\") == "a\\nb\\\\"
