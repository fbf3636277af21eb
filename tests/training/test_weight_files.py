"""Weight files and their cards, as every recipe writes them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deidcli.training.weight_files import training_command, write_own_weights
from deidcli.weights.files import file_sha256
from deidcli.weights.own import own_cards, own_weights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TENSORS = {
    "layer.weight": torch.tensor([[0.1, 1.0]]),
    "layer.count": torch.tensor([3]),
    "half": torch.ones(2, dtype=torch.float16),
}


def card(**more: Any) -> dict[str, Any]:
    return {
        "kind": "dae",
        "trained_on": 'the set "A\\B" of D\'Arcy, día 1',
        "command": "deid train dae DATA",
        "license": "Apache-2.0",
        "input": {"side": 64},
        **more,
    }


def test_floats_are_kept_as_fp16_and_the_card_has_the_sha256(tmp_path: Path) -> None:
    path = write_own_weights(tmp_path / "new", "dae-x", TENSORS, card(), {"settings": "{}"})
    assert path == tmp_path / "new" / "dae-x.safetensors"
    found = load_file(path)
    assert found["layer.weight"].dtype == found["half"].dtype == torch.float16
    assert torch.equal(found["layer.weight"], TENSORS["layer.weight"].half())
    assert found["layer.count"].dtype == torch.int64 and int(found["layer.count"]) == 3
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"settings": "{}"}
    tables = tomllib.loads((tmp_path / "new" / "weights.toml").read_text(encoding="utf8"))
    expected = {**card(), "file": path.name, "sha256": file_sha256(path), "scores": {}}
    assert tables == {"dae-x": expected}
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, "weights.toml"]


def test_the_cards_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    write_own_weights(tmp_path, "dae-x", TENSORS, card())
    write_own_weights(tmp_path, "eae-y", TENSORS, card(kind="eae", notes="second"))
    before = own_cards_of(tmp_path)
    other = {**TENSORS, "half": torch.zeros(2)}
    write_own_weights(tmp_path, "dae-x", other, card(notes="again"))
    after = own_cards_of(tmp_path)
    assert after.keys() == {"dae-x", "eae-y"} and after["eae-y"] == before["eae-y"]
    assert after["dae-x"]["notes"] == "again"
    assert after["dae-x"]["sha256"] != before["dae-x"]["sha256"]


def own_cards_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "weights.toml").read_text(encoding="utf8"))


@pytest.mark.parametrize("name", ["dae-x", "eae-1.5", 'the "new" one', "a'b", "día"])
def test_whatever_its_name_a_file_is_used_where_deid_weights_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own_weights(tmp_path, name, TENSORS, card(scores={"SSIM": 0.5, "by.set": {"a b": 1}}))
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    tensors, found = own_weights(name)
    assert tensors.keys() == TENSORS.keys()
    assert found.trained_on == card()["trained_on"] and found.input == {"side": 64}
    assert found.scores == {"SSIM": 0.5, "by.set": {"a b": 1}}
    kinds = {c.kind for c in own_cards().values()}
    assert [c.name for c in own_cards().values() if c.kind == "dae"] == [name]
    assert {"attributes", "eae"} <= kinds  # those that we ship


def test_a_kill_on_the_way_leaves_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.training import weight_files

    write_own_weights(tmp_path, "dae-x", TENSORS, card())

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(weight_files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_own_weights(tmp_path, "dae-x", {"half": torch.zeros(2)}, card())
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    assert own_weights("dae-x")[0].keys() == TENSORS.keys()


@dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    pool: str = ""
    part: str = "all"
    threads: int = 2
    device: str = "cpu"
    checkpoint_steps: int = 100


def test_the_command_has_every_setting_that_bears_on_the_weights() -> None:
    assert training_command("dae", Recipe()) == "deid train dae DATA"
    chosen = Recipe(5, "/home/somebody/portraits", "first", 1, "cuda", 7)
    said = training_command("dae", chosen, ("part",), ("pool",))
    assert said == "deid train dae DATA --set epochs=5 --set pool=portraits"
