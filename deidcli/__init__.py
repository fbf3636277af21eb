"""deid: a batch de-identifier for face datasets.

For programs: `from deidcli import anonymize, score, Deidentifier`. They are loaded when they are
first asked for, so `import deidcli` takes milliseconds.
"""

from typing import TYPE_CHECKING

from deidcli.version import __version__ as __version__

if TYPE_CHECKING:
    from deidcli.api import anonymize, score
    from deidcli.deidentifier import Deidentifier, Done, ReplacedFace
    from deidcli.errors import DeidError


__all__ = [
    "DeidError",
    "Deidentifier",
    "Done",
    "ReplacedFace",
    "anonymize",
    "score",
]

_PLACES = {
    "anonymize": "deidcli.api",
    "score": "deidcli.api",
    "Deidentifier": "deidcli.deidentifier",
    "Done": "deidcli.deidentifier",
    "ReplacedFace": "deidcli.deidentifier",
    "DeidError": "deidcli.errors",
}
"""Public name -> the module that it is loaded from."""

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name):
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)

    def __dir__():
        return sorted({*globals(), *_PLACES})
