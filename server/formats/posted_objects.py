"""HDF5 files of annotation objects as clients send them: a group an object (annotation plane 2).

Such a file is read with the same care as one with voxels (``hdf5.py``): nothing outside of it, no
chunk that grows, and never more than was counted before. What is wrong with an object comes with
the name of its group.
"""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ndcass.errors import BadBody, InvalidRequest, Malformed, TooLarge
from ndcass.geometry import Box, Zyx
from ndcass.object_writes import PostedObject, PostedVoxels
from ndcass.objects import MAX_OBJECTS
from ndcass.ramon import (
    AXES,
    Field,
    Kind,
    ObjectType,
    directed_segments,
    fields_of,
    make_object,
    object_type,
)
from ndcass.ramon_text import parse_pairs
from ndcass.server.formats import hdf5_heap
from ndcass.server.formats.hdf5 import (
    H5_ERRORS,
    StoredArray,
    check_packing,
    links_of,
    open_copy,
    open_dataset,
    open_member,
    read_voxels,
)

# Numbers of one field, or of anything else that is no voxels.
MAX_NUMBERS = 1 << 17
MAX_TEXT_BYTES = 1 << 20
# All texts of a file; one text may stand in many places of it.
MAX_TEXTS_BYTES = 64 << 20
MAX_ID_DIGITS = 20
# Smaller files are copied to be read: a quarter quicker for forty small objects.
COPIED_BYTES = 1 << 20
# A mask beside the voxels that it is made of; and points as 64-bit numbers, in both orders.
MASK_BYTES, POINT_BYTES = 1, 48

# The original wrote one name wrong.
ALIASES = {"POSTSEGMENTS": "SPOSTEGMENTS"}

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.int64]
# Where the dataset begins at a level.
OffsetOf = Callable[[int], Zyx]


def voxel_bytes(body: bytes | bytearray | memoryview) -> int:
    """What the voxels of a file take in memory once they are read.

    Raises
    ------
    Malformed
        If it is no HDF5 file of objects.
    TooLarge
        If it has more objects than one request may bring.
    """
    with _Opened(body) as opened:
        return sum(_group_bytes(group, name) for name, group in opened.groups)


def decode_objects(
    body: bytes | bytearray | memoryview, *, base_level: int, offset_of: OffsetOf
) -> list[PostedObject]:
    """The objects of a file, in the order of the names of their groups.

    Parameters
    ----------
    body : bytes-like
        A file whose `voxel_bytes` the caller has found room for.
    base_level : int
        Where voxels are if their group does not say.
    offset_of : callable
        Where the dataset begins at a level, for cuboids, which are counted from zero.

    Raises
    ------
    Malformed, InvalidRequest, TooLarge
        If one of the objects cannot be; the text names it.
    """
    with _Opened(body) as opened:
        return [
            _named(name, partial(_decoded, _Group(group, opened), name, base_level, offset_of))
            for name, group in opened.groups
        ]


def decode_region(body: bytes | bytearray | memoryview) -> tuple[int, Box]:
    """Level and box (dataset coordinates) that a query is restricted to.

    Raises
    ------
    Malformed
        If the body is no such file.
    """
    with _Opened(body) as opened:
        group = opened.root
        level, corner = group.integer("RESOLUTION"), group.triple("XYZOFFSET")
        size = group.triple("CUTOUTSIZE")
        if level is None or corner is None or size is None:
            raise Malformed("a region is RESOLUTION, XYZOFFSET and CUTOUTSIZE")
        z, y, x = (a + b for a, b in zip(corner, size, strict=True))
        return level, Box(corner, (z, y, x))


class _Opened:
    """An open file, its groups in the order of their names, and what was read of it so far."""

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = body
        self.body_bytes = len(body)
        self.text_bytes = 0
        try:
            self._file = _file_of(body)
        except H5_ERRORS as error:
            raise Malformed("the body is no HDF5 file, or damaged") from error

    def text_of(self, dataset: h5py.h5d.DatasetID, name: str) -> bytes:
        """The one text of variable length that a dataset holds."""
        properties = self._file.id.get_create_plist()
        hdf5_heap.check_addresses(properties.get_sizes(), properties.get_userblock())
        layout = dataset.get_create_plist().get_layout()
        if layout == h5py.h5d.CHUNKED:
            if not dataset.get_num_chunks():
                return b""
            _, reference = dataset.read_direct_chunk((0,) * len(dataset.shape))
        elif layout == h5py.h5d.CONTIGUOUS:
            at = dataset.get_offset()
            if at is None:  # nothing was ever written
                return b""
            reference = bytes(self._body[at : at + hdf5_heap.REFERENCE_BYTES])
        else:
            raise Malformed(f"{name} is stored compact; texts of variable length are not read so")
        if len(reference) < hdf5_heap.REFERENCE_BYTES:
            raise Malformed(f"{name} is beyond the end of the HDF5 file")
        return hdf5_heap.text_at(self._body, reference[: hdf5_heap.REFERENCE_BYTES])

    @property
    def root(self) -> "_Group":
        return _Group(self._file["/"].id, self)

    @property
    def groups(self) -> list[tuple[str, h5py.h5g.GroupID]]:
        root = _Group(self._file["/"].id, self)
        names = root.names
        if len(names) > MAX_OBJECTS:
            raise TooLarge("objects", asked=len(names), limit=MAX_OBJECTS, unit="objects")
        found = []
        for name in names:
            member = root.member(name, what=f"the object {name[:80]!r}")
            if isinstance(member, h5py.h5g.GroupID):
                found.append((name, member))
        if not found:
            raise InvalidRequest("there is no object in the HDF5 file: a group for each")
        return found

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        self._file.close()
        if isinstance(error, H5_ERRORS):
            raise Malformed("the HDF5 file in the body is damaged") from error
        if isinstance(error, BadBody):
            raise Malformed(str(error)) from error


def _file_of(body: bytes | bytearray | memoryview) -> h5py.File:
    """A file, read where it lies or, if it is small, from a copy."""
    if len(body) > COPIED_BYTES:
        return h5py.File(io.BytesIO(body), "r")
    return open_copy(body)


def _named(name: str, decode: Callable[[], PostedObject]) -> PostedObject:
    """What `decode` makes; if it fails, with the name of the object."""
    try:
        return decode()
    except InvalidRequest as error:
        raise type(error)(f"object {name[:80]!r}: {error}") from error
    except H5_ERRORS as error:
        raise Malformed(f"object {name[:80]!r}: the HDF5 file is damaged there") from error


class _Group:
    """A group of a file, whose members are read one by one."""

    def __init__(self, group: h5py.h5g.GroupID, opened: _Opened) -> None:
        self.id = group
        self._opened = opened
        self._links = links_of(group)

    @property
    def names(self) -> list[str]:
        """Of all members, ascending."""
        return sorted(h5py.Group(self.id).keys())

    def member(self, name: str, *, what: str) -> object:
        """What a name stands for, by HDF5's own classes."""
        return open_member(self.id, name, what=what, links=self._links)

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._links

    def _dataset(self, name: str) -> StoredArray:
        return open_dataset(self.id, name, what=name, links=self._links)

    def group(self, name: str) -> "_Group | None":
        """A group in this one, None if there is none."""
        if name not in self:
            return None
        member = self.member(name, what=name)
        if not isinstance(member, h5py.h5g.GroupID):
            raise Malformed(f"{name} is no group")
        return _Group(member, self._opened)

    def groups(self) -> list["_Group"]:
        """All groups in this one, in the order of their names."""
        names = self.names
        if len(names) > MAX_OBJECTS:
            raise TooLarge("members", asked=len(names), limit=MAX_OBJECTS, unit="members")
        found = (self.group(name) for name in names)
        return [group for group in found if group is not None]

    def numbers(self, name: str) -> npt.NDArray[Any] | None:
        """A dataset of numbers of whichever type, None if there is none."""
        if name not in self:
            return None
        stored = self._dataset(name)
        dtype = _number_type(stored.dataset, name)
        count = math.prod(stored.shape or (1,))
        if count > MAX_NUMBERS:
            raise TooLarge(name, asked=count, limit=MAX_NUMBERS, unit="numbers")
        return self._read(stored, dtype, name)

    def integer(self, name: str) -> int | None:
        """A dataset of one whole number, None if there is none."""
        found = self.numbers(name)
        if found is None:
            return None
        if found.size != 1:
            raise Malformed(f"{name} has {found.size} numbers; it has one")
        return _whole(found.reshape(-1)[0].item(), name)

    def triple(self, name: str) -> Zyx | None:
        """A dataset of three whole numbers x, y, z, as z, y, x; None if there is none."""
        found = self.numbers(name)
        if found is None:
            return None
        if found.size != AXES:
            raise Malformed(f"{name} has {found.size} numbers; it has {AXES}")
        x, y, z = (_whole(number, name) for number in found.reshape(-1).tolist())
        return (z, y, x)

    def text(self, name: str) -> str | None:
        """A dataset of one text, None if there is none."""
        if name not in self:
            return None
        stored = self._dataset(name)
        dataset = stored.dataset
        kind = dataset.get_type()
        if not isinstance(kind, h5py.h5t.TypeStringID):
            raise Malformed(f"{name} is no text")
        size = 0 if kind.is_variable_str() else kind.get_size()
        count = math.prod(stored.shape or (1,))
        if count == 0:
            return ""
        if count != 1:
            raise Malformed(f"{name} has {count} texts; it has one")
        if size > MAX_TEXT_BYTES:
            raise TooLarge(name, asked=size, limit=MAX_TEXT_BYTES)
        if stored.properties.get_nfilters():
            raise Malformed(f"{name} is compressed; texts are read as they are")
        if kind.is_variable_str():
            raw = self._opened.text_of(dataset, name)
        else:
            found = h5py.Dataset(dataset)[()]
            raw = bytes(found.reshape(-1)[0] if isinstance(found, np.ndarray) else found)
        self._opened.text_bytes += len(raw)
        if self._opened.text_bytes > MAX_TEXTS_BYTES:
            asked = self._opened.text_bytes
            raise TooLarge("texts of the objects", asked=asked, limit=MAX_TEXTS_BYTES)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # as MATLAB writes it

    def voxels(self, name: str, dimensions: Sequence[int]) -> npt.NDArray[Any] | None:
        """A dataset of whole numbers with so many axes, None if there is none."""
        if name not in self:
            return None
        stored = self._dataset(name)
        dtype = _number_type(stored.dataset, name)
        if dtype.kind not in "iu":
            raise Malformed(f"{name} holds {dtype.str}; whole numbers are read")
        if len(stored.shape or ()) not in dimensions:
            raise InvalidRequest(f"{name} has the shape {stored.shape}")
        return self._read(stored, dtype, name)

    def _read(self, stored: StoredArray, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
        if stored.shape is None:
            raise Malformed(f"{name} holds nothing")
        check_packing(stored, dtype=dtype, what=name)
        return read_voxels(stored, dtype=dtype, body_bytes=self._opened.body_bytes)


def _number_type(dataset: h5py.h5d.DatasetID, name: str) -> np.dtype[Any]:
    """numpy's type of a dataset of numbers, by HDF5's own comparison (see ``hdf5.py``)."""
    kind = dataset.get_type()
    dtype: np.dtype[Any] = kind.dtype
    if dtype.kind not in "iuf" or not kind.equal(_plain_type(dtype)):
        raise Malformed(f"{name} holds no plain numbers")
    return dtype


@functools.cache
def _plain_type(dtype: np.dtype[Any]) -> h5py.h5t.TypeID:
    return h5py.h5t.py_create(dtype)


def _whole(number: int | float, name: str) -> int:
    if not math.isfinite(number) or number != int(number):
        raise Malformed(f"{name} is {number}; it is a whole number")
    return int(number)


def _group_bytes(group: h5py.h5g.GroupID, name: str) -> int:
    """What the voxels of one object take, by the shapes that the file announces."""
    size = _dataset_bytes(group, "VOXELS", POINT_BYTES)
    size += _dataset_bytes(group, "CUTOUT", MASK_BYTES)
    if group.links.exists(b"CUBOIDS"):
        cuboids = open_member(group, "CUBOIDS", what=f"CUBOIDS of {name[:80]!r}")
        if isinstance(cuboids, h5py.h5g.GroupID):
            names = sorted(h5py.Group(cuboids).keys())
            if len(names) > MAX_OBJECTS:
                raise TooLarge("cuboids", asked=len(names), limit=MAX_OBJECTS, unit="cuboids")
            for member_name in names:
                member = open_member(cuboids, member_name, what=member_name[:80])
                if isinstance(member, h5py.h5g.GroupID):
                    size += _dataset_bytes(member, "CUBOID", MASK_BYTES)
                    size += _dataset_bytes(member, "CUTOUT", MASK_BYTES)
    return size


def _dataset_bytes(group: h5py.h5g.GroupID, name: str, beside: int) -> int:
    """What a dataset takes, and what is made of each of its numbers beside it."""
    if not group.links.exists(name.encode()):
        return 0
    stored = open_dataset(group, name, what=name)
    return math.prod(stored.shape or ()) * (int(stored.dataset.get_type().get_size()) + beside)


# -- an object of a group


def _decoded(group: _Group, name: str, base_level: int, offset_of: OffsetOf) -> PostedObject:
    code = group.integer("ANNOTATION_TYPE")
    kind = ObjectType.GENERIC if code is None else object_type(code)
    metadata = group.group("METADATA")
    values: dict[str, object] = {}
    pairs: Mapping[str, Sequence[str]] = {}
    if metadata is not None:
        values = _values(metadata, kind)
        pairs = parse_pairs(metadata.text("KVPAIRS") or "")
    item = make_object(_id_of(name), kind, values, pairs)
    return PostedObject(name, item, _posted_voxels(group, base_level, offset_of))


def _id_of(name: str) -> int:
    """The id that a name of a group means: all digits are one, everything else asks for one."""
    if not (name.isascii() and name.isdigit()):
        return 0
    digits = name.lstrip("0") or "0"
    if len(digits) > MAX_ID_DIGITS:
        raise Malformed("an id has at most 20 digits")
    return int(digits)


def _values(metadata: _Group, kind: ObjectType) -> dict[str, object]:
    """The fields of a type that are there, by their stored keys."""
    values: dict[str, object] = {}
    directions: dict[str, list[int]] = {}
    for known in fields_of(kind):
        name = _stored_name(metadata, known)
        if name is None:
            continue
        if known.kind is Kind.TEXT:
            values[known.key] = metadata.text(name)
            continue
        found = metadata.numbers(name)
        assert found is not None  # _stored_name() found it
        if known.kind in (Kind.INT, Kind.ID, Kind.FLOAT):
            if found.size != 1:
                raise Malformed(f"{name} has {found.size} numbers; it has one")
            values[known.key] = found.reshape(-1)[0].item()
        elif known.key == "syn_segments" and found.ndim == 2 and found.shape[1] == 2:
            directions = directed_segments(found.astype(np.int64).tolist())
        else:
            if known.kind is Kind.IDS and found.ndim > 1 and found.shape[1:] != (1,):
                raise InvalidRequest(f"{name} has the shape {found.shape}; it is a list")
            values[known.key] = found.reshape(-1).tolist()
    for key, ids in directions.items():
        sent = values.get(key, [])
        assert isinstance(sent, list)
        values[key] = [*sent, *(i for i in ids if i not in sent)]
    return values


def _stored_name(metadata: _Group, known: Field) -> str | None:
    """What a field is called in a file, None if it is not there."""
    if known.hdf5 is None:
        return None
    names = (known.hdf5, ALIASES.get(known.hdf5, known.hdf5))
    return next((name for name in names if name in metadata), None)


def _posted_voxels(group: _Group, base_level: int, offset_of: OffsetOf) -> PostedVoxels | None:
    """What an object brings, None if that is nothing."""
    level = group.integer("RESOLUTION")
    level = base_level if level is None else level
    points = group.voxels("VOXELS", (2,))
    if points is not None:
        points = _points(points)
    blocks = []
    corner, cutout = group.triple("XYZOFFSET"), group.voxels("CUTOUT", (AXES,))
    if (corner is None) is not (cutout is None):
        raise Malformed("CUTOUT and XYZOFFSET go together")
    if corner is not None and cutout is not None:
        blocks.append((corner, cutout != 0))
    cuboids = group.group("CUBOIDS")
    if cuboids is not None:
        blocks += [_cuboid(member, offset_of(level)) for member in cuboids.groups()]
    if points is None and not blocks:
        return None
    return PostedVoxels(level, points, [(c, mask) for c, mask in blocks if mask.size])


def _points(sent: npt.NDArray[Any]) -> Points:
    """Rows x, y, z as rows z, y, x."""
    if sent.shape[1] != AXES:
        raise InvalidRequest(f"VOXELS has the shape {sent.shape}; a voxel is x, y, z")
    if sent.size and int(sent.max()) > np.iinfo(np.int64).max:
        raise Malformed("VOXELS has coordinates beyond what can be stored")
    return np.ascontiguousarray(sent[:, ::-1], dtype=np.int64)


def _cuboid(member: _Group, offset_zyx: Zyx) -> tuple[Zyx, Mask]:
    corner = member.triple("XYZOFFSET")
    name = "CUBOID" if "CUBOID" in member else "CUTOUT"
    block = member.voxels(name, (AXES, AXES + 1))
    if corner is None or block is None:
        raise Malformed("a member of CUBOIDS has XYZOFFSET and CUBOID")
    if block.ndim > AXES:
        if block.shape[0] != 1:
            raise InvalidRequest(f"{name} has the shape {block.shape}")
        block = block[0]
    z, y, x = (a + b for a, b in zip(corner, offset_zyx, strict=True))
    return (z, y, x), block != 0
