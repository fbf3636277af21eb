"""The wheel works outside of the clone, weights and all: `make wheel-test`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import PEOPLE, ROOT

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment of its own that has the wheel, and the dependencies of this one."""

    wheel: Path
    folder: Path

    def run(self, *args: object, program: str = "deid") -> str:
        """Run a program of that environment where no clone is near; its stdout."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DEID"))}
        command = [str(self.folder / "bin" / program), *map(str, args)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    home = folder / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", wheel]
    subprocess.run([*pip, *install], check=True)
    # A path in a .pth file brings packages, but not the .pth files beside them: an editable
    # install of this clone stays out.
    (packages,) = home.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(wheel, home)


def test_the_wheel_holds_all_of_the_package_and_the_weights_and_no_more(
    installed: Installed,
) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "deidcli", "weights"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name if name.startswith("deidcli") else f"deidcli/_{name}" for name in tracked}
    with zipfile.ZipFile(installed.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert names == expected and "deidcli/py.typed" in names


def test_the_commands_find_their_weights(installed: Installed) -> None:
    place = installed.run("-c", "import deidcli; print(deidcli.__file__)", program="python")
    assert Path(place).is_relative_to(installed.folder)
    assert installed.run("--version").startswith("deid ")
    assert "blur" in installed.run("methods")
    assert "--set target=strangers" in installed.run("methods", "dae")
    states = {
        row["name"]: row["state"]
        for row in json.loads(installed.run("weights", "verify", "--json"))
    }
    ours = {path.stem for path in (ROOT / "weights").glob("*.safetensors")}
    assert {name for name in ours if states[name] != "ok"} == set()


@pytest.mark.parametrize("method", ["blur", "dae"])
def test_a_picture_is_de_identified_outside_of_the_clone(
    method: str, installed: Installed, tmp_path: Path
) -> None:
    picture = PEOPLE / "portraits" / "person_01.jpg"
    said = installed.run(
        "anonymize", picture, "--method", method, "--out", tmp_path / "o", "--json"
    )
    assert json.loads(said)["counts"]["ok"] == 1
    assert json.loads(installed.run("verify", tmp_path / "o", "--json"))["ok"] is True


def test_python_finds_the_front_door(installed: Installed) -> None:
    code = (
        "import sys; from PIL import Image; from deidcli import Deidentifier, anonymize\n"
        "_, done = Deidentifier('dae')(Image.open(sys.argv[1]))\n"
        "print(done.status, [face.method for face in done.faces])\n"
    )
    picture = PEOPLE / "portraits" / "person_01.jpg"
    assert installed.run("-c", code, picture, program="python") == "ok ['dae']\n"
