"""Parameters that commands share, and those that follow from a dataclass of options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from deidcli.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", help="Readable by its owner alone; else DEID_PASSWORD, or asked."
    ),
]


def pair(text: str) -> tuple[str, str]:
    """`key=value` in two.

    Raises:
        UsageError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {text} is not key=value", "for example --set k=20")
    return key.strip(), value.strip()


def with_options(cls: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the fields of a dataclass of options parameters of a command.

    The command's own parameter `options` is what stands for them: it gets an instance.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        fields = _parameters(cls)

        @functools.wraps(command)
        def typed(**given: Any) -> None:
            told = {name: given.pop(name) for name in fields}
            command(**given, options=cls(**{k: _value(v, fields[k]) for k, v in told.items()}))

        parameters: list[inspect.Parameter] = []
        for parameter in own.parameters.values():
            parameters += fields.values() if parameter.name == "options" else [parameter]
        typed.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        typed.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return typed

    return decorate


def _value(value: Any, parameter: inspect.Parameter) -> Any:
    if parameter.name == "settings":
        return dict(pair(text) for text in value or [])
    return value


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(cls)
    return {f.name: _parameter(f, hints[f.name]) for f in dataclasses.fields(cls)}


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    default = None if field.default is dataclasses.MISSING else field.default
    flags = list(field.metadata["flags"])
    if not any(flag.startswith("--") for flag in flags):
        flags.insert(0, "--" + field.name.replace("_", "-"))
    if get_origin(kind) is not None and issubclass(get_origin(kind), Mapping):
        kind = list[str] | None
    told = typer.Option(
        *flags,
        help=field.metadata["help"],
        metavar=field.metadata["metavar"],
        min=field.metadata["least"],
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, told],
    )
