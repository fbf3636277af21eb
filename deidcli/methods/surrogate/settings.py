"""The settings of `surrogate`, and what is known of it before a network is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import parse_attributes
from deidcli.errors import UsageError
from deidcli.methods.base import Facts
from deidcli.methods.surrogate.description import ANSWERED, PARTS, fields_of
from deidcli.weights.own import own_cards

WEIGHTS = "surrogate"
Region = Literal["head", "face", "picture"]


@dataclass(frozen=True)
class SurrogateSettings:
    """The settings of the method `surrogate`."""

    keep: str = "pose,expression,gaze,sex,age,glasses,beard,hair,skin"
    """What the new face shares with the old one, of these; the key decides the rest."""
    attrs: str = ""
    """Further attributes of CelebA's that are kept; --attrs sets it."""
    region: Region = "head"
    """head: face, hair and neck, and what they uncover is filled in. face: the old hair stays,
    which many are recognized by. picture: the drawn picture with its ground."""
    person: Literal["fresh", "identity"] = "fresh"
    """fresh: somebody else in each picture. identity: one new person for each person of the
    source, where it says who is who."""
    detail: Literal["auto", "256", "512", "1024"] = "auto"
    """Side of what is drawn, px; auto: what the face's size in its picture asks for."""

    def __post_init__(self) -> None:
        try:
            self.parts()
            parse_attributes(self.attrs)
        except UsageError as error:
            raise ValueError(error.message) from None

    def parts(self) -> tuple[str, ...]:
        """The parts that `keep` names, in the order of PARTS.

        Raises:
            UsageError: one is unknown.
        """
        names = [name.strip() for name in self.keep.split(",") if name.strip()]
        if unknown := [name for name in names if name not in PARTS]:
            raise UsageError(
                f"keep={self.keep}: {', '.join(unknown)} is none of {', '.join(PARTS)}"
            )
        return tuple(part for part in PARTS if part in names)


class SurrogateFacts(Facts):
    """Somebody who does not exist, drawn with this pose, expression, sex, age and skin tone."""

    settings: SurrogateSettings
    source_type = "compositeWithTrainedAlgorithmicMedia"

    @classmethod
    def kept(cls, settings: SurrogateSettings) -> tuple[str, ...]:
        """The attributes that are passed on, hence whose labels may stand beside the picture."""
        fields = fields_of(settings.parts(), parse_attributes(settings.attrs))
        answered = {field.name for field in ANSWERED} | set(parse_attributes(settings.attrs))
        return tuple(field.name for field in fields if field.name in answered)

    @classmethod
    def per_person(cls, settings: SurrogateSettings) -> bool:
        """Whether all pictures of a person get the same number."""
        return settings.person == "identity"

    @classmethod
    def weights(cls, settings: SurrogateSettings) -> tuple[str, ...]:
        """The weight files that are loaded.

        Raises:
            UsageError: ours are not there.
        """
        if WEIGHTS not in own_cards():
            raise UsageError(f"there are no weights {WEIGHTS}", "`deid train surrogate` makes them")
        return (WEIGHTS, "generator-head-256")

    @classmethod
    def warning(cls, settings: SurrogateSettings) -> str | None:
        """What must be known before publishing."""
        if settings.region == "face":
            return (
                "surrogate with region=face keeps hair, ears and the outline of the jaw, by which "
                "people can be recognized more often than with region=head; how often was never "
                "measured, the figures in docs/methods/surrogate.md are of head"
            )
        if settings.region == "picture":
            return (
                "surrogate with region=picture draws the ground around the head as well; it was "
                "never measured, the figures in docs/methods/surrogate.md are of region=head"
            )
        return None
