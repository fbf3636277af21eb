"""Face positions: stored in OUT.private and, for methods with a password, encrypted in OUT.

A face's exact box or transform identifies a photograph to anyone with a copy of it. It is therefore
stored in OUT.private/faces.parquet. In OUT it is stored only for a method whose faces can be
restored with a password, in OUT/sealed/geometry.parquet, encrypted under a key from that password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.crypto.keys import Keys
from deidcli.crypto.sealing import Unsealable, seal_geometry, unseal_geometry
from deidcli.data.journal import FACE_TYPE, NONCE_FACE_TYPE, private_folder
from deidcli.errors import DeidError
from deidcli.faces.align import Affine

PRIVATE = "faces.parquet"
"""Relative to OUT.private."""
SEALED = "sealed/geometry.parquet"
"""Relative to OUT."""
GRID = 8
"""Published boxes are rounded outwards to multiples of this many pixels."""

SEALED_SCHEMA = pa.schema(
    [
        pa.field("file_name", pa.string()),
        pa.field("nonce", pa.binary()),
        pa.field("data", pa.binary()),
    ]
)


def face_type(has_nonces: bool, has_boxes: bool) -> pa.DataType:
    """Return the type of a face in metadata.parquet; its position is included only on request."""
    parts = [pa.field("method", pa.string())]
    if has_nonces:
        parts.append(pa.field("nonce", pa.string()))
    if has_boxes:
        parts.append(pa.field("box", pa.list_(pa.int32(), 4)))
    return pa.struct(parts)


def private_schema(has_nonces: bool) -> pa.Schema:
    """Return the schema of OUT.private/faces.parquet."""
    kind = NONCE_FACE_TYPE if has_nonces else FACE_TYPE
    return pa.schema([pa.field("file_name", pa.string()), pa.field("faces", pa.list_(kind))])


def rounded(box: Sequence[float]) -> list[int]:
    """Round a box outwards to the grid, as --publish-geometry publishes it."""
    low = [int(np.floor(value / GRID)) * GRID for value in box[:2]]
    return low + [int(np.ceil(value / GRID)) * GRID for value in box[2:]]


def sealed_row(
    keys: Keys, fingerprint: str, name: str, faces: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the row of OUT/sealed/geometry.parquet for a published picture."""
    affines = np.array([face["affine"] for face in faces], np.float64).reshape(-1, 6)
    nonce, data = seal_geometry(keys, fingerprint, name, affines)
    return {"file_name": name, "nonce": nonce, "data": data}


def read_private(out: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Map published names to their faces with all private fields; None without OUT.private.

    Raises:
        DeidError: the file is damaged.
    """
    path = private_folder(out) / PRIVATE
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path).to_pylist()
        return {str(row["file_name"]): list(row["faces"] or []) for row in rows}
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = type(error).__name__
        raise DeidError(f"{path} cannot be read ({reason})", "restore that file") from None


class Places:
    """The face positions of an output's pictures."""

    def __init__(self, out: Path, fingerprint: str, keys: Keys) -> None:
        """Find the face positions of an output.

        Raises:
            DeidError: neither OUT.private nor a sealed file has the positions, or the password
                opens none of the sealed file's rows.
        """
        self._private = read_private(out)
        self._keys, self._fingerprint = keys, fingerprint
        self._rows: dict[str, tuple[bytes, bytes]] = {}
        if self._private is None:
            self._rows = _read_sealed(out)
            if self._rows and not any(self._opens(name) for name in self._rows):
                raise DeidError(
                    f"the password is not the one that {out} was made with, "
                    f"or {SEALED} was changed",
                    "check the password",
                )

    def _opens(self, name: str) -> bool:
        try:
            self._unsealed(name)
        except Unsealable:
            return False
        return True

    def _unsealed(self, name: str) -> list[Affine]:
        if name not in self._rows:
            raise Unsealable
        nonce, data = self._rows[name]
        values = unseal_geometry(self._keys, self._fingerprint, name, nonce, data)
        return [row.reshape(2, 3) for row in values]

    def affines(self, name: str, faces: int) -> list[Affine]:
        """Return the transform of each face of a published picture, frame to chip.

        Raises:
            ValueError: the transforms are unknown, or their number differs.
        """
        if self._private is not None:
            known = self._private.get(name, [])
            found = [np.array(face["affine"], np.float64).reshape(2, 3) for face in known]
        else:
            try:
                found = self._unsealed(name)
            except Unsealable:
                raise ValueError("where its faces were is not what was sealed") from None
        if len(found) != faces:
            raise ValueError("it has another number of faces than was written")
        for affine in found:
            if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:, :2])) < 1e-9:
                raise ValueError("its affine is none")
        return found


def _read_sealed(out: Path) -> dict[str, tuple[bytes, bytes]]:
    path = out / SEALED
    if not path.is_file():
        raise DeidError(
            f"where the faces of {out} were is not known: {SEALED} is missing",
            f"take OUT as it was published, or bring {private_folder(out).name}",
        )
    try:
        rows = pq.read_table(path).to_pylist()
        return {str(row["file_name"]): (row["nonce"], row["data"]) for row in rows}
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = type(error).__name__
        raise DeidError(f"{path} cannot be read ({reason})", "restore that file") from None
