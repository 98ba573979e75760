"""Files of annotation objects for tests, made without any of our own code."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np


def object_file(*objects: tuple[str, Mapping[str, Any]]) -> bytes:
    """A file with a group an object; names with a slash go into METADATA and the like."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, members in objects:
            group = file.create_group(name)
            for path, value in members.items():
                group.create_dataset(path, data=value)
    return out.getvalue()


def voxels(*points_xyz: Sequence[int], level: int = 0) -> dict[str, Any]:
    """A list of voxels."""
    return {"VOXELS": np.array(points_xyz, dtype="<u4"), "RESOLUTION": [level]}


def block(corner_xyz: Sequence[int], shape_zyx: Sequence[int], level: int = 0) -> dict[str, Any]:
    """A dense block that is all of the object."""
    return {
        "CUTOUT": np.ones(shape_zyx, dtype="<u4"),
        "XYZOFFSET": np.array(corner_xyz, dtype="<u4"),
        "RESOLUTION": [level],
    }


def contents(body: bytes) -> dict[str, Any]:
    """Every dataset of a file by its path; texts as str."""
    found: dict[str, Any] = {}

    def note(path: str, member: object) -> None:
        if isinstance(member, h5py.Dataset):
            value = member[()]
            if member.dtype.kind == "O":
                value = [text.decode() for text in value]
            found[path] = value.tolist() if isinstance(value, np.ndarray) else value

    with h5py.File(io.BytesIO(body), "r") as file:
        file.visititems(note)
    return found


def plain_file(members: Mapping[str, Sequence[int]]) -> bytes:
    """A file with lists of numbers at its top."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, value in members.items():
            file.create_dataset(name, data=np.array(value, dtype="<u4"))
    return out.getvalue()
