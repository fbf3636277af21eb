"""De-identify a folder and measure what is left: python examples/python_anonymize.py IN OUT."""

import sys

from deidcli.api import anonymize, score

source, out = sys.argv[1:]
record = anonymize(source, method="pixelate", out=out, blocks=3)
counts = record["counts"]
print(f"{counts['published']} of {counts['inputs']} inputs published, {counts['faces']} faces")

for row in score(out, recognizers=["dlib"])["rows"]:
    if row["metric"] in ("rank-1", "SSIM") and not row["group"]:
        print(f"{row['metric']}: {row['value']:.2f}")
