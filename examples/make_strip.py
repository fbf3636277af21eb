"""The before/after strip of the README, from examples/people.

    python examples/make_strip.py docs/strip.jpg

Top row: originals. Below: surrogate, blur and k-same, each by `deid anonymize`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PEOPLE = Path(__file__).parent / "people"
SHOWN = ("02", "04", "05", "08", "11", "16")
SIDE, GAP = 160, 4
METHODS = ("surrogate", "blur", "k-same")


def row(folder: Path) -> list[Image.Image]:
    """The shown portraits of a folder, SIDE px each."""
    paths = [folder / f"person_{number}.jpg" for number in SHOWN]
    return [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in paths]


def main(target: Path) -> None:
    rows = [row(PEOPLE / "portraits")]
    with tempfile.TemporaryDirectory() as name:
        for method in METHODS:
            out = Path(name) / method
            command = [sys.executable, "-m", "deidcli", "anonymize", str(PEOPLE / "portraits")]
            command += ["--method", method, "--names", "keep", "--out", str(out)]
            subprocess.run(command, check=True)
            rows.append(row(out / "images"))
    width = len(SHOWN) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + GAP) - GAP), "white")
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            sheet.paste(picture, (x * (SIDE + GAP), y * (SIDE + GAP)))
    sheet.save(target, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
