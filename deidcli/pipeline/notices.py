"""What is published beside the pictures, and warnings before the run."""

from __future__ import annotations

from collections.abc import Sequence

from deidcli.data.columns import Wish
from deidcli.data.source import Source
from deidcli.methods import method_warning
from deidcli.settings import RunSettings


def predicted_attributes(asked: Sequence[str] | None, source: Source) -> tuple[str, ...]:
    """Return requested attributes without labels in any input, for the classifier to predict."""
    return tuple(name for name in asked or () if name not in source.label_names)


def wish_of(settings: RunSettings) -> Wish:
    """Return what to publish beside the pictures.

    Labels of attributes that were not requested, or that the method's picture does not keep, are in
    no file: they would reveal what the picture hides, or be wrong.
    """
    return Wish(settings.columns, settings.keep_identity, settings.attributes)


def warnings_of(source: Source, settings: RunSettings) -> list[str]:
    """Return warnings for the user before the run, one line each."""
    said = [*source.private_warnings, *source.warnings]
    predicted = predicted_attributes(settings.attributes, source)
    if predicted:
        said.append(f"the input has no labels for {', '.join(predicted)}: they are predicted")
    if settings.on_no_face == "copy":
        said.append(
            "WARNING: pictures in which no face is found will be copied as they are; a face that "
            "the detector misses is published"
            + (", also where a second look finds one (--yes)" if settings.yes else "")
        )
    said += source.columns.notes()
    unprotected = method_warning(settings.method, settings.method_settings)
    if unprotected:
        said.append(unprotected)
    if source.names_people and settings.names == "keep":
        said.append("folders or files seem to be named after people: --names random renames them")
    return said
