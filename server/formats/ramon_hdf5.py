"""HDF5 files of annotation objects as clients get them: a group an object (annotation plane 2)."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ndcass.geometry import Box, Zyx
from ndcass.ramon import (
    AXES,
    Field,
    Kind,
    ObjectType,
    RamonObject,
    Value,
    fields_of,
)
from ndcass.ramon_text import pairs_text
from ndcass.server.formats.hdf5 import (
    new_file,
    write_voxels,
)

CONTENT_TYPE = "product/hdf5"

_UINT32_MAX = (1 << 32) - 1

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFile:
    """What a file says of one object.

    Attributes
    ----------
    item : RamonObject
    relations : mapping of str to sequence of int
        Its derived lists.
    level : int or None
        Of the voxels; None without any question for them.
    points_zyx : ndarray, shape (n, 3), or None
        Dataset coordinates; so is `box`.
    box : Box or None
        Where `mask` is, or, without it, the box around the object.
    mask : ndarray of bool or None
    cuboids : sequence of (corner, mask) or None
        Corners are counted from zero.
    """

    item: RamonObject
    relations: Mapping[str, Sequence[int]] = field(default_factory=dict)
    level: int | None = None
    points_zyx: Points | None = None
    box: Box | None = None
    mask: Mask | None = None
    cuboids: Sequence[tuple[Zyx, Mask]] | None = None


# Derived lists that a file shows, by type and name; and the types for which clients miss an empty
# one.
_RELATIONS = {
    (ObjectType.NEURON, "segments"): "SEGMENTS",
    (ObjectType.SEGMENT, "synapses"): "SYNAPSES",
    (ObjectType.SEGMENT, "organelles"): "ORGANELLES",
    (ObjectType.NODE, "children"): "CHILDREN",
    (ObjectType.ROI, "children"): "CHILDREN",
}
_NEVER_ABSENT = {(ObjectType.NEURON, "SEGMENTS"), (ObjectType.SYNAPSE, "SEGMENTS")}


def encode_objects(objects: Iterable[ObjectFile], *, dtype: np.dtype[Any]) -> bytes:
    """A file with some objects; `dtype` is that of the channel's voxels."""
    with new_file() as file:
        for shown in objects:
            _write_object(file.create_group(str(shown.item.id)), shown, dtype)
        return _image(file)


def encode_ids(ids: Sequence[int]) -> bytes:
    """The answer to a query: ``ANNOIDS``, or no dataset at all where there is no id."""
    with new_file() as file:
        if ids:
            file.create_dataset("ANNOIDS", data=_id_array(ids))
        return _image(file)


def encode_exceptions(rows: npt.NDArray[Any]) -> bytes:
    """Voxels that belong to several objects: rows x, y, z and the ids, padded with zeros."""
    with new_file() as file:
        if len(rows):
            narrow = rows if int(rows.max()) > _UINT32_MAX else rows.astype("<u4")
            file.create_dataset("exceptions", data=narrow, compression="gzip")
        else:
            file.create_dataset("exceptions", data=np.zeros(AXES, dtype=np.uint8))
        return _image(file)


def flat_rows(body: bytes) -> list[tuple[str, str]]:
    """Name and value of every dataset of a file with one object, in the order of their names."""
    rows: list[tuple[str, str]] = []

    def note(path: str, member: object) -> None:
        if isinstance(member, h5py.Dataset):
            rows.append((path.rsplit("/", 1)[-1], _flat_text(member)))

    with h5py.File(io.BytesIO(body), "r") as file:
        file.visititems(note)
    return sorted(rows)


def _flat_text(dataset: h5py.Dataset) -> str:
    values = np.asarray(dataset[()])
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.reshape(-1).tolist()]
    return texts[0] if len(texts) == 1 else f"[{' '.join(texts)}]"


def _image(file: h5py.File) -> bytes:
    file.flush()
    image: bytes = file.id.get_file_image()
    return image


def _write_object(group: h5py.Group, shown: ObjectFile, dtype: np.dtype[Any]) -> None:
    item = shown.item
    _write_numbers(group, "ANNOTATION_TYPE", [int(item.type)])
    if shown.level is not None:
        _write_numbers(group, "RESOLUTION", [shown.level])
    if shown.box is not None:
        _write_numbers(group, "XYZOFFSET", shown.box.start_zyx[::-1])
        if shown.mask is None:
            _write_numbers(group, "XYZDIMENSION", shown.box.shape_zyx[::-1])
    if shown.mask is not None:
        write_voxels(group, "CUTOUT", shown.mask, dtype=dtype, label=item.id)
    if shown.points_zyx is not None and len(shown.points_zyx):
        group.create_dataset("VOXELS", data=shown.points_zyx[:, ::-1].astype("<u4"))
    if shown.cuboids is not None:
        _write_cuboids(group.create_group("CUBOIDS"), shown.cuboids, item.id, dtype)
    _write_metadata(group.create_group("METADATA"), shown)


def _write_cuboids(
    group: h5py.Group, cuboids: Sequence[tuple[Zyx, Mask]], label: int, dtype: np.dtype[Any]
) -> None:
    for (z, y, x), mask in cuboids:
        member = group.create_group(str((x, y, z)))
        _write_numbers(member, "XYZOFFSET", (x, y, z))
        write_voxels(member, "CUBOID", mask, dtype=dtype, label=label)


def _write_metadata(metadata: h5py.Group, shown: ObjectFile) -> None:
    item = shown.item
    for known in fields_of(item.type):
        if known.hdf5 is not None:
            _write_field(metadata, item.type, known, item.fields[known.key])
    _write_text(metadata, "KVPAIRS", pairs_text(item.pairs))
    for name, ids in shown.relations.items():
        stored = _RELATIONS.get((item.type, name))
        if stored is not None and (ids or (item.type, stored) in _NEVER_ABSENT):
            metadata.create_dataset(stored, data=_id_array(ids))


def _write_field(metadata: h5py.Group, kind: ObjectType, known: Field, value: Value) -> None:
    name = known.hdf5 or known.name
    if isinstance(value, str):
        _write_text(metadata, name, value)
    elif isinstance(value, float) and known.kind is Kind.FLOAT:
        metadata.create_dataset(name, data=np.array([value], dtype="<f8"))
    elif isinstance(value, int | float):
        dtype = "<i4" if known.key == "node_parent" and value <= np.iinfo("<i4").max else None
        _write_numbers(metadata, name, [int(value)], dtype)
    elif known.kind is Kind.POINT and value:
        metadata.create_dataset(name, data=np.array(value, dtype="<f8"))
    elif value or (kind, name) in _NEVER_ABSENT:
        metadata.create_dataset(name, data=_id_array([int(number) for number in value]))


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    group.create_dataset(name, shape=(1,), dtype=h5py.string_dtype("utf-8"), data=[text])


def _write_numbers(
    group: h5py.Group, name: str, numbers: Sequence[int], dtype: str | None = None
) -> None:
    """Whole numbers as uint32 where they fit."""
    if dtype is None and numbers and min(numbers) < 0:
        dtype = "<i4"
    array = _id_array(numbers) if dtype is None else np.array(numbers, dtype=dtype)
    group.create_dataset(name, data=array)


def _id_array(ids: Sequence[int]) -> npt.NDArray[Any]:
    """Ids as uint32, or as uint64 if one of them needs it."""
    wide = bool(ids) and max(ids) > _UINT32_MAX
    return np.array(ids, dtype="<u8" if wide else "<u4")
