"""The table of recipes: what `deid train` trains."""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "a3gan": "deidcli.methods.a3gan.train",
    "attributes": "deidcli.training.attributes",
    "dae": "deidcli.methods.dae.train",
    "eae": "deidcli.methods.eae.train",
    "sdn": "deidcli.methods.sdn.train",
}
"""Name on the command line -> the module with its `Settings` and `train()`."""
