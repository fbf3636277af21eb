"""Pictures in memory: one, a Hugging Face dataset, a DataLoader of PyTorch.

python examples/python_deidentifier.py FOLDER
"""

import sys
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from deidcli.deidentifier import Deidentifier

paths = sorted(Path(sys.argv[1]).glob("*.jpg"))

# One picture, and a face that the caller knows of.
deidentify = Deidentifier("dae", seed=0)
picture, done = deidentify(Image.open(paths[0]), boxes=[(80, 60, 300, 370)])
print("one picture:", done.status, [face.method for face in done.faces])


# A Hugging Face dataset: settings travel to the workers, each loads the networks once. A picture
# without a face becomes None, unless on_no_face says otherwise.
def replace(row):
    picture, done = deidentify(row["image"])
    return {"image": picture, "status": done.status}


listed = datasets.Dataset.from_dict({"image": [str(path) for path in paths]})
listed = listed.cast_column("image", datasets.Image())
replaced = listed.map(replace, num_proc=2)
print("datasets.map:", list(replaced["status"]))


# A DataLoader: every item must be a picture, so one without a face is published black.
class Faces(Dataset):
    def __init__(self, paths):
        self.paths = paths
        self.deidentify = Deidentifier("blur", seed=0, on_no_face="blackout")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        pixels = np.asarray(Image.open(self.paths[index]).convert("RGB"))
        pixels, _ = self.deidentify(pixels)
        return pixels


for batch in DataLoader(Faces(paths), batch_size=2, num_workers=2):
    print("DataLoader:", tuple(batch.shape))
