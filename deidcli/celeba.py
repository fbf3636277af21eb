"""CelebA's forty attributes, and single letters for some of them."""

from __future__ import annotations

from deidcli.errors import UsageError

CELEBA_ATTRIBUTES: tuple[str, ...] = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair"),
    *("Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair"),
    *("Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings"),
    *("Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)
"""CelebA's 40 attributes, in the order of `list_attr_celeba.txt`."""

LETTERS: dict[str, str] = {
    "G": "Male",
    "S": "Smiling",
    "B": "Big_Nose",
    "E": "Eyeglasses",
    "Y": "Young",
}
"""Letters of `--attrs`, as in Liu et al., sec. IV (gender, smile, big nose, eyeglasses, young)."""


def parse_attributes(text: str) -> tuple[str, ...]:
    """Parse `GSBE` or `Male,Smiling` to CelebA's names, in that order, without duplicates.

    Raises:
        UsageError: a letter or name is unknown.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) == 1 and names[0] not in CELEBA_ATTRIBUTES:
        names = list(names[0])
    result = [LETTERS.get(name.upper(), name) if len(name) == 1 else name for name in names]
    for name in result:
        if name not in CELEBA_ATTRIBUTES:
            letters = ", ".join(f"{k} {v}" for k, v in LETTERS.items())
            raise UsageError(
                f"--attrs knows no attribute {name!r}",
                f"use letters ({letters}) or CelebA's names separated by commas",
            )
    return tuple(dict.fromkeys(result))
