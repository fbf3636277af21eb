"""Parameters that commands share, and those that follow from a dataclass of options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from deidcli.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for an error too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", help="Readable by its owner alone; else DEID_PASSWORD, or asked."
    ),
]


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a dictionary.

    Raises:
        UsageError: one is not of that form, or a key is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"--set {text} is not key=value", "for example --set k=20")
        if key in found:
            raise UsageError(f"--set {key} is given twice", "leave one of them out")
        found[key] = value.strip()
    return found


def completing(choices: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What Typer asks when a shell completes a value."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices() if choice.startswith(incomplete)]

    return complete


def typed_values(context: typer.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given values that stand on the command line and not by default."""
    sources = {name: context.get_parameter_source(name) for name in given}
    return {
        name: given[name]
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


def with_options(cls: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the fields of a dataclass of options parameters of a command.

    In their place the command has a parameter `typed`: a dictionary of those that were typed. A
    field that is true or false can be typed as `--no-NAME` too (`--NAME` where it is called so),
    which help does not list: it takes back what a file said.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        fields = _parameters(cls)

        @functools.wraps(command)
        def called(context: typer.Context, **given: Any) -> None:
            told = {name: given.pop(name) for name in fields}
            typed = typed_values(context, told)
            if "settings" in typed:
                typed["settings"] = pairs(typed["settings"])
            for name in [name for name in typed if name.startswith(_NOT)]:
                typed[name.removeprefix(_NOT)] = not typed.pop(name)
            command(context=context, **given, typed=typed)

        parameters: list[inspect.Parameter] = []
        for parameter in own.parameters.values():
            parameters += fields.values() if parameter.name == "typed" else [parameter]
        called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return called

    return decorate


_NOT = "not__"
"""Before the name of the hidden opposite of a field."""


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    found = {}
    for field in dataclasses.fields(cls):
        found[field.name] = _parameter(field, hints[field.name])
        positive = field.name.removeprefix("no_")
        opposite = positive if positive != field.name else f"no_{field.name}"
        if hints[field.name] is bool and opposite not in names:
            flag = typer.Option("--" + opposite.replace("_", "-"), hidden=True)
            found[_NOT + field.name] = _keyword(_NOT + field.name, Annotated[bool, flag], False)
    return found


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    told = field.metadata
    flags = list(told["flags"])
    if not any(flag.startswith("--") for flag in flags):
        flags.insert(0, "--" + field.name.replace("_", "-"))
    if get_origin(kind) is not None and get_origin(kind) is Mapping:
        kind = list[str] | None
    option = typer.Option(
        *flags,
        help=told["help"],
        metavar=told["metavar"],
        min=told["least"],
        autocompletion=completing(told["choices"]) if told["choices"] else None,
    )
    default = None if field.default is dataclasses.MISSING else field.default
    return _keyword(field.name, Annotated[kind, option], default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
