"""What a user types: inputs, config, dry run, errors as JSON, completion, Ctrl-C, 80 columns."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deidcli import __version__
from deidcli.cli import printing
from deidcli.cli.config import merged, read_config
from deidcli.cli.parameters import pairs
from deidcli.cli.printing import Terminal, duration, size
from deidcli.errors import DeidError, Stopped, UsageError
from deidcli.pipeline.inputs import with_list
from tests.conftest import PEOPLE, Outcome, copy_people, tree

Deid = Callable[..., Outcome]
LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""


def command(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in its own process."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# ---------------------------------------------------------------------------- inputs


def test_python_m_deidcli() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"deid {__version__}\n")


def test_one_picture_is_an_input(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path, 1)
    outcome = deid("anonymize", folder / "person_01.jpg", *LIGHT)
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "person_01-deid/images/person_01.jpg").is_file()


def test_several_inputs_make_one_output(tmp_path: Path, deid: Deid) -> None:
    first, second = copy_people(tmp_path / "a", 1), copy_people(tmp_path / "b", 2)
    (first / "person_01.jpg").rename(first / "other.jpg")
    files = [first, *second.glob("*.jpg")]  # as a shell's glob gives them
    outcome = deid("anonymize", *files, "--out", tmp_path / "out", *LIGHT, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["ok"] == 3
    assert deid("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
def test_a_list_on_stdin(tmp_path: Path, separator: str) -> None:
    folder = copy_people(tmp_path / "a", 2)
    names = separator.join(str(path) for path in sorted(folder.iterdir())) + separator
    args = ["anonymize", "-", "--out", tmp_path / "out", *LIGHT, "--json"]
    done = command(*args, input=names)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["ok"] == 2


def test_lists_that_are_none() -> None:
    assert with_list(["a", "-", "b"], io.BytesIO(b"x\n\ny z\n")) == ["a", "x", "y z", "b"]
    with pytest.raises(UsageError, match="once"):
        with_list(["-", "-"], io.BytesIO(b"x"))
    with pytest.raises(UsageError, match="no path"):
        with_list(["-"], io.BytesIO(b"\n\n"))
    with pytest.raises(UsageError, match="stdin"):
        with_list(["-"], None)


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/a.jpg", "hf://datasets/a/b"])
def test_an_address_gets_a_sentence(address: str, tmp_path: Path, deid: Deid) -> None:
    outcome = deid("anonymize", address, "--out", tmp_path / "out")
    assert outcome.code in (1, 2) and f"{address} is an address" in outcome.stderr
    assert "download it" in outcome.stderr and not everything(tmp_path)


# ---------------------------------------------------------------------------- dry run


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 3)
    (folder / "notes.txt").write_text("x")
    before = everything(tmp_path)
    outcome = deid("anonymize", folder, "--method", "blur", *LIGHT, "--dry-run", "--json")
    assert outcome.code == 0 and everything(tmp_path) == before
    told = outcome.json
    assert told["inputs"] == {
        "total": 4,
        "pictures": 3,
        "kinds": {".jpg": 3},
        "not_read": {"skipped: not a picture": 1},
    }
    assert told["settings"]["method"] == "blur" and told["settings"]["gate"] is None
    assert told["settings"]["method_settings"]["sigma"] == 0.5
    assert told["sample"] == {"pictures": 3, "faces": 3, "statuses": {"ok": 3}}
    assert told["estimate"]["faces"] == 3 and told["estimate"]["seconds"] > 0
    assert told["free_bytes"] > told["needs_bytes"] > 0 and told["state"] == "new"
    shown = deid("anonymize", folder, "--method", "blur", *LIGHT, "--dry-run")
    assert "nothing was written" in shown.stdout and "blur sigma=0.5" in shown.stdout
    assert everything(tmp_path) == before


def test_what_a_dry_run_estimates_is_written(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 5)
    told = deid("anonymize", folder, *LIGHT, "--dry-run", "--json").json
    assert deid("anonymize", folder, *LIGHT).code == 0
    written = sum(path.stat().st_size for path in (tmp_path / "in-deid/images").iterdir())
    assert abs(told["estimate"]["bytes"] - written) < 5_000
    again = deid("anonymize", folder, *LIGHT, "--dry-run", "--json")
    assert again.json["state"] == "finished"


def test_a_dry_run_of_every_kind_of_method(tmp_path: Path, deid: Deid) -> None:
    """k-same wants all faces first, sdn a password, --seal too: none is asked for, none written."""
    folder = copy_people(tmp_path / "in", 2)
    before = everything(tmp_path)
    for extra in (["--method", "k-same"], ["--method", "sdn"], ["--seal"]):
        outcome = deid("anonymize", folder, *LIGHT, *extra, "--dry-run", "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["sample"]["faces"] == 2
        assert outcome.json["asks_for_password"] == (extra != ["--method", "k-same"])
    assert everything(tmp_path) == before


def test_a_dry_run_is_refused_where_the_run_would_be(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    assert deid("anonymize", folder, *LIGHT).code == 0
    other = deid("anonymize", folder, *LIGHT, "--method", "blur", "--dry-run")
    assert other.code == 1 and "method (blackout -> blur)" in other.stderr
    over = deid("anonymize", folder, *LIGHT, "-m", "blur", "--overwrite", "-n", "--json")
    assert over.json["state"] == "overwritten"


# ---------------------------------------------------------------------------- config


def test_config_sets_options_and_the_command_line_wins(tmp_path: Path, deid: Deid) -> None:
    folder, config = copy_people(tmp_path / "in", 1), tmp_path / "deid.toml"
    config.write_text(
        'method = "blur"\non-no-face = "blackout"\nno-gate = true\nseed = 7\nkeep-identity = true\n'
        f'detector = "hog"\nworkers = 1\nout = "{tmp_path / "out"}"\n[set]\nsigma = 0.25\n'
    )
    args = ["anonymize", folder, "--config", config, "--json"]
    settings = deid(*args).json["settings"]
    assert (settings["method"], settings["seed"], settings["gate"]) == ("blur", 7, None)
    assert settings["on_no_face"] == "blackout" and settings["keep_identity"]
    assert settings["method_settings"] == {"sigma": 0.25, "kernel_px": 0, "region": "head"}
    typed = ["--seed", 3, "--gate", 0.7, "--no-keep-identity", "--set", "region=face"]
    other = deid(*args, *typed, "--out", tmp_path / "typed").json
    assert other["output"] == str(tmp_path / "typed")
    assert other["settings"]["seed"] == 3 and other["settings"]["gate"] == 0.7
    assert not other["settings"]["keep_identity"]
    assert other["settings"]["method_settings"] == {
        "sigma": 0.25,
        "kernel_px": 0,
        "region": "face",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methode = 'blur'", "there is no option 'methode'"),
        ("seed = 'x'", "seed = 'x' is not a whole number"),
        ("seal = 1", "seal = 1 is not true or false"),
        ("set = 3", "set is not a table"),
        ("[set]\nk = [1]", "set.k is neither text nor number"),
        ("method = ", "is not TOML"),
        ("detector = 'eyes'", "--detector eyes is not known"),
        ("[set]\nzzz = 1", "blackout has no setting 'zzz'"),
    ],
)
def test_a_wrong_config_is_refused(text: str, words: str, tmp_path: Path, deid: Deid) -> None:
    config = tmp_path / "deid.toml"
    config.write_text(text)
    outcome = deid("anonymize", copy_people(tmp_path / "in", 1), "--config", config)
    assert outcome.code == 2 and words in outcome.stderr
    assert not (tmp_path / "in-deid.private").exists()


def test_a_finished_run_is_repeated(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 2)
    given = ["--method", "pixelate", "--set", "blocks=4", "--attrs", "G", "--seed", 5, "--no-mark"]
    more = ["--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1]
    first = deid("anonymize", folder, *given, *more, "--json")
    assert first.code == 0, first.stderr
    manifest = tmp_path / "in-deid/manifest.json"
    args = ["anonymize", folder, "--config", manifest, "--out", tmp_path / "again", "--json"]
    again = deid(*args, "--workers", 1)
    assert again.json["settings"] == first.json["settings"]
    assert tree(tmp_path / "again") == tree(tmp_path / "in-deid")
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "deid_version": "0.0.1"}))
    older = deid(*args, "--workers", 1)
    assert older.code == 0 and "deid 0.0.1" in older.stderr
    record["settings"]["haircut"] = 1
    manifest.write_text(json.dumps(record))
    assert "haircut" in deid(*args).stderr
    (tmp_path / "no.json").write_text("{}")
    assert "not the manifest" in deid("anonymize", folder, "-c", tmp_path / "no.json").stderr


def test_settings_go_with_their_method() -> None:
    config = {"method": "blur", "settings": {"sigma": "0.3"}, "no_gate": True}
    assert merged(config, {"method": "k-same"}) == {"method": "k-same", "no_gate": True}
    assert merged(config, {"gate": 0.7, "settings": {"region": "face"}}) == {
        "method": "blur",
        "settings": {"sigma": "0.3", "region": "face"},
        "gate": 0.7,
    }


def test_what_a_manifest_says_in_other_words(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    said = {"method": "sdn", "seed": None, "gate": 0.6, "columns": ["a", "b"], "mark": False}
    path.write_text(json.dumps({"settings": {**said, "boxes": "table"}}))
    values = read_config(path, {}).values
    assert values["columns"] == "a,b" and values["no_mark"] and "seed" not in values
    with pytest.raises(UsageError, match="boxes from a file"):
        merged(values, {})
    assert merged(values, {"boxes": "mine.csv"})["boxes"] == "mine.csv"
    path.write_text(json.dumps({"settings": {**said, "seed": 0, "mark": True, "columns": []}}))
    values = read_config(path, {}).values
    assert values["seed"] == 0 and not {"columns", "no_mark"} & values.keys()


def test_a_setting_given_twice_is_refused(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    outcome = deid("anonymize", folder, "-m", "blur", "--set", "sigma=1", "--set", "sigma=0.1")
    assert outcome.code == 2 and "--set sigma is given twice" in outcome.stderr
    assert pairs(["a=1", "b = 2"]) == {"a": "1", "b": "2"}


# ---------------------------------------------------------------------------- what is said


def test_quiet(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    outcome = deid("anonymize", folder, *LIGHT, "--quiet")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert deid("verify", tmp_path / "in-deid", "--quiet").stdout == ""
    wrong = deid("anonymize", folder, "--attrs", "Q", "--quiet")
    assert wrong.code == 2 and "--attrs" in wrong.stderr


def test_what_is_loaded_is_said_first(tmp_path: Path, deid: Deid) -> None:
    lines = deid("anonymize", copy_people(tmp_path / "in", 1), *LIGHT).stderr.splitlines()
    assert lines[0].startswith("listing the inputs")
    assert lines[1].startswith("loading the face detector (hog) and the method blackout")
    assert re.fullmatch(r"de-identifying: 1 of 1, [0-9.]+ a second", lines[-1])


def test_progress_is_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Terminal() as reporter:
        reporter.progress("working", 10, 100)
        for _ in range(90):
            now[0] += 1.0
            reporter.progress("working", 1, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 90 / printing.SECONDS_A_LINE and "\r" not in "".join(lines)
    assert lines[0] == "working: 15 of 100, 1.0 a second, 85 s left"
    assert lines[-1] == "working: 100 of 100, 1.0 a second"


def test_words_for_durations_and_sizes() -> None:
    assert [duration(s) for s in (8.4, 200, 7500)] == ["8 s", "3 min", "2 h 5 min"]
    assert [size(n) for n in (12, 3200, 5e12)] == ["12 B", "3.2 kB", "5.0 TB"]


def test_every_error_has_one_schema(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    nothing = tmp_path / "nothing"
    cases: list[tuple[list[object], int]] = [
        (["anonymize", nothing], 1),
        (["anonymize", folder, "--attrs", "Q"], 2),
        (["anonymize", folder, "--no-such-option"], 2),
        (["anonymize", folder, "--workers", "many"], 2),
        (["anonymize"], 2),
        (["methods", "zzz"], 2),
        (["verify", nothing], 1),
        (["restore", nothing, "--to", tmp_path / "to"], 1),
        (["score", nothing, "--recognizer", "zzz"], 2),
        (["no-such-command"], 2),
    ]
    for args, code in cases:
        outcome = deid(*args, "--json")
        assert outcome.code == code, (args, outcome)
        told = outcome.json
        assert set(told) == {"error"} and set(told["error"]) == {"message", "hint", "code"}
        assert told["error"]["code"] == code
        assert f"deid: {told['error']['message']}" in outcome.stderr


def test_a_failed_check_is_one_object_too(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    assert deid("anonymize", folder, *LIGHT).code == 0
    assert set(deid("verify", tmp_path / "in-deid", "--json").json) == {"ok", "checks"}
    (tmp_path / "in-deid/images/person_01.jpg").unlink()
    outcome = deid("verify", tmp_path / "in-deid", "--json")
    assert outcome.code == 1 and not outcome.json["ok"]
    assert outcome.json["error"]["code"] == 1 and outcome.json["checks"]


def test_errors_keep_their_kind_between_processes() -> None:
    import pickle

    for error in (DeidError("a", "b"), UsageError("a", "b"), Stopped("b")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (again.message, again.hint, again.code) == (error.message, error.hint, error.code)


# ---------------------------------------------------------------------------- start


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


def test_settings_that_trained_methods_share_with_their_facts() -> None:
    """What is known of a method before its network is loaded is what its class says."""
    from deidcli.methods import FACTS, method_class, method_facts, settings_class

    for name in FACTS:
        assert issubclass(method_class(name), method_facts(name))
        assert settings_class(name) is method_class(name).__init__.__globals__["Settings"]


def test_names_that_are_known_without_an_import() -> None:
    from deidcli.faces.recognizers import RECOGNIZERS
    from deidcli.settings import RECOGNIZER_NAMES

    assert tuple(RECOGNIZERS) == RECOGNIZER_NAMES


# ---------------------------------------------------------------------------- completion


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


# ---------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sign", ["listing", "loading", "de-identifying"])
def test_ctrl_c_leaves_one_line(tmp_path: Path, workers: int, sign: str) -> None:
    """All processes of the terminal get it, as soon as a line with this sign is there."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(150):
        os.link(PEOPLE / "portraits" / "person_01.jpg", folder / f"{number}.jpg")
    args = ["anonymize", folder, "--workers", workers, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None and process.stdout is not None
    said = ""
    while sign not in said:
        line = process.stderr.readline()
        assert line, f"ended by itself: {said}"
        said += line
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()  # until the last worker has closed it
    assert process.wait() == 130, said + rest
    assert "Traceback" not in rest and "Warning" not in rest, rest
    assert "deid: stopped" in rest and "resumes" in rest
    assert process.stdout.read() == ""


def test_ctrl_c_while_the_command_is_loaded() -> None:
    program = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from deidcli.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "deid: stopped\n")


def test_an_interrupted_import_of_a_c_module_is_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, deid: Deid
) -> None:
    from deidcli import methods

    def interrupted(name: str) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(methods, "method_facts", interrupted)
    outcome = deid("methods", "blur")
    assert outcome.code == 130 and outcome.stderr == "deid: stopped\n"


# ---------------------------------------------------------------------------- 80 columns


def on_a_terminal(*args: object) -> tuple[int, list[str]]:
    """Run a command on a terminal of 80 columns. Its exit code and the lines it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())
    return process.wait(), re.split(r"[\r\n]+", plain)


COMMANDS: list[list[object]] = [
    ["--help"],
    ["anonymize", "--help"],
    ["score", "--help"],
    ["train", "--help"],
    ["verify", "--help"],
    ["restore", "--help"],
    ["weights", "list"],
    ["weights", "verify"],
    ["methods"],
    *(["methods", name] for name in ("blur", "dae", "eae", "a3gan", "sdn")),
    ["anonymize", PEOPLE, "--dry-run", *LIGHT],
    ["anonymize", PEOPLE, "--attrs", "Q"],
    ["anonymize", PEOPLE, "--method", "a3gan", "--set", "change=Hat"],
    ["anonymize", PEOPLE, "--method", "eae", "--attrs", "ES"],
    ["score", "/nothing/there", "--recognizer", "zzz"],
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: " ".join(str(a) for a in args[:4]))
def test_a_terminal_of_80_columns_is_enough(args: list[object]) -> None:
    code, lines = on_a_terminal(*args)
    assert code in (0, 1, 2) and any(lines)
    assert [line for line in lines if len(line) > 80] == []


def test_a_run_fits_80_columns(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 2)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"x" * 50)
    code, lines = on_a_terminal("anonymize", folder, "-o", tmp_path / "o", *LIGHT)
    assert code == 3 and any(line.startswith("failed") for line in lines)
    longest = [line for line in lines if len(line) > 80]
    assert all(str(tmp_path) in line for line in longest)  # a path is not broken
    code, lines = on_a_terminal("verify", tmp_path / "o")
    assert code == 0 and [line for line in lines if len(line) > 80] == []


def test_the_score_table_fits_80_columns() -> None:
    from deidcli.evaluate import score
    from deidcli.evaluate.rows import Row

    row = Row("rank-1 after JPEG 90", 1.0, 9, "", "", 1.0, 1.0, "mobilefacenet", "", 1.0, 1.0)
    report = {"rows": [dataclasses.asdict(row)], "faces": 1, "withheld": 0}
    lines = score.table(report).splitlines()
    assert max(len(line) for line in lines) <= 80 and "100.00 - 100.00" in lines[1]
