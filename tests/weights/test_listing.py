"""`deid weights list` names every file that anything in the package opens."""

from __future__ import annotations

import ast
from pathlib import Path

from deidcli.weights import pip_files
from deidcli.weights.inventory import list_weights, verify_weights


def test_every_entry_of_the_table_is_listed_and_verified() -> None:
    tree = ast.parse(Path(pip_files.__file__).read_text(encoding="utf8"))
    names = {
        str(node.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "PipFile"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(names) >= 12
    assert names <= {row["name"] for row in list_weights()}
    assert names <= {row["name"] for row in verify_weights()}
