"""Format ``hdf5``: a file with one group a channel (data plane 3.5).

Chunks are compressed and decompressed here, not inside the HDF5 library: ISA-L is several times
faster than zlib, chunks that do not compress are stored as they are (the file says so), and a
chunk that inflates to more than its size stops there, whereas the library would let it grow.
"""

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
from isal import isal_zlib

from ndcass.errors import BadBody
from ndcass.server.formats.base import Dtype, Layout, Voxels, as_voxels, text_shape
from ndcass.server.formats.deflate import FAST_LEVEL, Inflater, is_worth_compressing

CONTENT_TYPE = "product/hdf5"

CUTOUT = "CUTOUT"
CHANNEL_TYPE = "CHANNELTYPE"
DATATYPE = "DATATYPE"

Array = np.ndarray[Any, Dtype]

# Below the 1 MiB that readers cache of a dataset, for all but the widest types.
CHUNK_TZYX = (1, 16, 128, 128)
# Bit 0 of a chunk's mask: its first filter, here gzip, was left out.
NO_FILTER = 1
# The file grows in memory by this much at a time.
GROWTH_BYTES = 1 << 22

_file_numbers = itertools.count()

FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
CHECKSUM_BYTES = 4
# Chunks may reach beyond a small dataset; h5py guesses up to 1 MiB where it may grow.
MAX_CHUNK_BYTES = 1 << 24
# lzf is only in the library, which lets a hostile chunk grow to 88 times its stored size.
MAX_LZF_CHUNK_BYTES = 1 << 22
# Each costs a few microseconds here and an index entry there; the usual are thousands.
MAX_CHUNKS = 1 << 18

# Few enough for the weighted sum of a checksum to stay below 2**64.
WORDS_AT_ONCE = 1 << 20

# What h5py raises for files that are damaged or lack what is looked for.
H5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, OverflowError)


def encode_hdf5(layout: Layout, arrays: Sequence[Array]) -> bytes:
    """A file with the voxels of each channel.

    Parameters
    ----------
    layout : Layout
        Names and types; a channel that is named twice stands in the file once.
    arrays : sequence of ndarray, shape (z, y, x) or (t, z, y, x)
        One a channel, C-ordered; their own types count, as a window makes bytes of any type.

    Returns
    -------
    bytes
        The file, in the oldest format, which every HDF5 reads.
    """
    with new_file() as file:
        for name, kind, datatype, array in zip(
            layout.channels, layout.channel_types, layout.datatypes, arrays, strict=True
        ):
            if name in file:
                continue
            group = file.create_group(name)
            write_voxels(group, CUTOUT, array)
            text = h5py.string_dtype("ascii")
            group.create_dataset(CHANNEL_TYPE, shape=(1,), dtype=text, data=[kind])
            group.create_dataset(DATATYPE, shape=(1,), dtype=text, data=[datatype])
        file.flush()
        image: bytes = file.id.get_file_image()
        return image


def new_file() -> h5py.File:
    """An empty file in memory, in the oldest format, which every HDF5 reads."""
    return h5py.File(
        _unused_name(), "w", driver="core", backing_store=False, block_size=GROWTH_BYTES,
        libver=("earliest", "v110"),
    )  # fmt: skip


def open_copy(body: bytes | bytearray | memoryview) -> h5py.File:
    """A file, copied to be read: HDF5 then asks no Python for each piece of it."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_file_image(bytes(body))
    name = _unused_name().encode()
    return h5py.File(h5py.h5f.open(name, h5py.h5f.ACC_RDONLY, fapl=access))


def _unused_name() -> str:
    """Of a file in memory; it is never opened by it.

    Two of one name that are open at once are one and the same file to HDF5, whatever is in them.
    """
    return f"in memory {next(_file_numbers)}"


def decode_hdf5(body: Voxels, layout: Layout, *, names: Sequence[str]) -> list[Array]:
    """The voxels of each channel of a body, C-ordered.

    Parameters
    ----------
    body : bytes-like
        The file.
    layout : Layout
        The box that each channel must fill, and in `datatypes` its type.
    names : sequence of str
        The real names of the channels: ``default`` is no group here (data plane 0, trap 10).

    Raises
    ------
    BadBody
        If the file is damaged, lacks a channel, holds another type or shape, or would be read
        from elsewhere than the body.
    """
    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            datasets = [
                _checked_dataset(file, name, dtype=_dtype(datatype), shape=layout.shape[1:])
                for name, datatype in zip(names, layout.datatypes, strict=True)
            ]
            return [
                read_voxels(dataset, dtype=_dtype(datatype), body_bytes=len(body))
                for dataset, datatype in zip(datasets, layout.datatypes, strict=True)
            ]
    except H5_ERRORS as error:
        raise BadBody("the HDF5 file in the body is damaged") from error


def _dtype(datatype: str) -> Dtype:
    return np.dtype(datatype).newbyteorder("<")


def write_voxels(
    group: h5py.Group, name: str, array: Array, *, dtype: Dtype | None = None, label: int = 1
) -> None:
    """A dataset of voxels, compressed chunk by chunk.

    Parameters
    ----------
    group : h5py.Group
    name : str
    array : ndarray of order z, y, x, or t, z, y, x
        Voxels, or a mask of those that have a label.
    dtype : dtype, optional
        What the file holds, if not the type of the array.
    label : int
        What the voxels are multiplied by on their way.
    """
    dtype = dtype or array.dtype
    chunk = tuple(map(min, CHUNK_TZYX[-array.ndim :], array.shape))
    dataset = group.create_dataset(
        name,
        shape=array.shape,
        dtype=dtype,
        chunks=chunk,
        compression="gzip",
        compression_opts=FAST_LEVEL,
    )
    for start in _chunk_starts(array.shape, chunk):
        block = array[_box(start, chunk, array.shape)].astype(dtype, copy=False)
        if label != 1:
            block = block * dtype.type(label)
        if block.shape != chunk:
            # Chunks are stored whole, also where they reach beyond the end.
            block = np.pad(block, [(0, n - m) for n, m in zip(chunk, block.shape, strict=True)])
        voxels = as_voxels(np.ascontiguousarray(block))
        if is_worth_compressing(voxels):
            packed = isal_zlib.compress(voxels, FAST_LEVEL)
            dataset.id.write_direct_chunk(start, packed)
        else:
            dataset.id.write_direct_chunk(start, voxels, filter_mask=NO_FILTER)


def _chunk_starts(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(0, n, m) for n, m in zip(shape, chunk, strict=True)))


def _box(start: Sequence[int], chunk: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The part of the array that a chunk covers."""
    sides = zip(start, chunk, shape, strict=True)
    return tuple(slice(first, min(first + side, end)) for first, side, end in sides)


def _checked_dataset(
    file: h5py.File, name: str, *, dtype: Dtype, shape: tuple[int, ...]
) -> "StoredArray":
    """The dataset of one channel, once nothing of it can surprise its reader."""
    group = open_member(file.id, name, what=f"the channel {name}")
    if not isinstance(group, h5py.h5g.GroupID):
        raise BadBody(f"{name} in the HDF5 file is no group")
    what = f"{CUTOUT} of {name}"
    stored = open_dataset(group, CUTOUT, what=what)
    dataset = stored.dataset
    # By HDF5's own comparison: enumerations and odd bit fields look like integers to numpy.
    if not dataset.get_type().equal(h5py.h5t.py_create(dtype)):
        raise BadBody(f"{what} holds {dataset.dtype.str} voxels, the channel is {dtype.str}")
    if stored.shape != shape:
        sent = text_shape(stored.shape or ())
        raise BadBody(f"{what} has the shape {sent}, expected is {shape}")
    check_packing(stored, dtype=dtype, what=what)
    return stored


class StoredArray(NamedTuple):
    """A dataset, and what is asked of it again and again: h5py makes a new object each time."""

    dataset: h5py.h5d.DatasetID
    properties: h5py.h5p.PropDCID
    shape: tuple[int, ...] | None  # None: it is of no shape and holds nothing


def open_dataset(
    group: h5py.h5g.GroupID, name: str, *, what: str, links: Mapping[bytes, int] | None = None
) -> StoredArray:
    """A dataset that lies in the file itself; BadBody if it is none such.

    `check_packing` comes before it is read; `links` as in `open_member`.
    """
    dataset = open_member(group, name, what=what, links=links)
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise BadBody(f"{what} in the HDF5 file is no dataset")
    # Before anything else, even the shape: a virtual dataset opens other files to find it.
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or (
        properties.get_layout() == h5py.h5d.CONTIGUOUS and properties.get_external_count()
    ):
        raise BadBody(f"{what} lies outside of the body; only what is inside is read")
    return StoredArray(dataset, properties, dataset.shape)


def check_packing(stored: StoredArray, *, dtype: Dtype, what: str) -> None:
    """BadBody if filters or chunks of a dataset are not such that `read_voxels` can be asked."""
    properties = stored.properties
    _check_filters(properties, what=what)
    if properties.get_layout() == h5py.h5d.CHUNKED:
        expected = math.prod(stored.shape or ()) * dtype.itemsize
        _check_chunks(properties, expected=expected, dtype=dtype, what=what)


def links_of(group: h5py.h5g.GroupID) -> Mapping[bytes, int]:
    """The links of a group by name, and of which type each is; quicker than asking one by one."""
    links: dict[bytes, int] = {}

    def note(name: bytes, info: Any) -> None:  # h5py has no types
        links[name] = info.type

    group.links.iterate(note, info=True)
    return links


def open_member(
    group: h5py.h5g.GroupID, name: str, *, what: str, links: Mapping[bytes, int] | None = None
) -> object:
    """What a hard link leads to; BadBody if there is none of that name.

    `links` is what `links_of` the group found, if somebody asked before.
    """
    key = name.encode()
    if not (group.links.exists(key) if links is None else key in links):
        raise BadBody(f"{what} is not in the HDF5 file")
    kind = group.links.get_info(key).type if links is None else links[key]
    if kind != h5py.h5l.TYPE_HARD:
        raise BadBody(f"{what} is a link in the HDF5 file; only what stands there itself is read")
    return h5py.h5o.open(group, key)


def _filters(properties: h5py.h5p.PropDCID) -> list[tuple[int, tuple[int, ...]]]:
    """Number and parameters of each filter, in the order they were applied."""
    stages = (properties.get_filter(i) for i in range(properties.get_nfilters()))
    return [(stage[0], stage[2]) for stage in stages]


def _check_filters(properties: h5py.h5p.PropDCID, *, what: str) -> None:
    numbers = [number for number, _ in _filters(properties)]
    if unknown := [number for number in numbers if number not in FILTERS]:
        raise BadBody(
            f"{what} is packed by the HDF5 filter {unknown[0]}; {', '.join(FILTERS.values())} "
            f"are read"
        )
    if len(set(numbers)) != len(numbers):
        raise BadBody(f"{what} is packed by the same HDF5 filter twice")


def _check_chunks(properties: h5py.h5p.PropDCID, *, expected: int, dtype: Dtype, what: str) -> None:
    size = math.prod(properties.get_chunk()) * dtype.itemsize
    if size > max(expected, MAX_CHUNK_BYTES):
        raise BadBody(f"{what} has chunks of {size} bytes, the box has {expected}")
    for number, parameters in _filters(properties):
        announced = parameters[2] if len(parameters) > 2 else size
        if number == h5py.h5z.FILTER_LZF and (size > MAX_LZF_CHUNK_BYTES or announced != size):
            raise BadBody(
                f"{what} has lzf chunks of {size} bytes; up to {MAX_LZF_CHUNK_BYTES} are read"
            )


def read_voxels(stored: StoredArray, *, dtype: Dtype, body_bytes: int) -> Array:
    """All of a dataset that `check_packing` found in order; BadBody if it is damaged."""
    dataset, properties, _ = stored
    filters = [number for number, _ in _filters(properties)]
    shape = stored.shape or ()
    if properties.get_layout() != h5py.h5d.CHUNKED or h5py.h5z.FILTER_LZF in filters:
        # Nothing can grow here, or not by much.
        out = np.empty(shape, dtype=dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        return out
    fill = np.zeros((), dtype=dtype)
    properties.get_fill_value(fill)
    out = np.full(shape, fill, dtype=dtype)
    chunk: tuple[int, ...] = properties.get_chunk()
    for start, size in _stored_chunks(dataset, most=_count(shape, chunk)):
        if size > body_bytes:
            raise BadBody("a chunk of the HDF5 file is larger than the body")
        skipped, packed = dataset.read_direct_chunk(start)
        content = _unfiltered(packed, filters, skipped, size=math.prod(chunk) * dtype.itemsize,
                              itemsize=dtype.itemsize)  # fmt: skip
        box = _box(start, chunk, shape)
        block = np.frombuffer(content, dtype=dtype).reshape(chunk)
        out[box] = block[tuple(slice(0, side.stop - side.start) for side in box)]
    return out


def _count(shape: Sequence[int], chunk: Sequence[int]) -> int:
    return math.prod(-(-n // m) for n, m in zip(shape, chunk, strict=True))


def _stored_chunks(dataset: h5py.h5d.DatasetID, *, most: int) -> list[tuple[tuple[int, ...], int]]:
    """Start and stored size of each chunk that exists; what does not is the fill value."""
    count = dataset.get_num_chunks()
    if count > most or count > MAX_CHUNKS:
        raise BadBody(
            f"a dataset of the HDF5 file is cut into {count} chunks; {MAX_CHUNKS} are read"
        )
    found: list[tuple[tuple[int, ...], int]] = []
    dataset.chunk_iter(lambda chunk: found.append((chunk.chunk_offset, chunk.size)))
    return found


def _unfiltered(
    packed: bytes, filters: Sequence[int], skipped: int, *, size: int, itemsize: int
) -> Voxels:
    """The voxels of a chunk of `size` bytes: its filters undone, the last one first."""
    content: Voxels = packed
    for position in reversed(range(len(filters))):
        if skipped >> position & 1:
            continue
        if filters[position] == h5py.h5z.FILTER_DEFLATE:
            content = _inflated(content, most=size + CHECKSUM_BYTES)
        elif filters[position] == h5py.h5z.FILTER_SHUFFLE:
            content = _unshuffled(content, itemsize=itemsize)
        else:
            content = _without_checksum(content)
    if len(content) != size:
        raise BadBody(f"a chunk of the HDF5 file holds {len(content)} bytes, expected are {size}")
    return content


def _inflated(packed: Voxels, *, most: int) -> bytes:
    stream = Inflater()
    parts = []
    for part in stream.feed(packed):
        parts.append(part)
        most -= len(part)
        if most < 0:
            raise BadBody("a chunk of the HDF5 file inflates to more than its size")
    stream.finish()
    return b"".join(parts)


def _unshuffled(content: Voxels, *, itemsize: int) -> Voxels:
    """First bytes of all items, then the second ones, ..., back to item after item."""
    whole = len(content) // itemsize * itemsize
    planes = np.frombuffer(content, dtype=np.uint8, count=whole).reshape(itemsize, -1)
    return planes.T.tobytes() + bytes(content[whole:])


def _without_checksum(content: Voxels) -> Voxels:
    """The content before its Fletcher checksum, which must fit."""
    kept, sent = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if int.from_bytes(sent, "little") != fletcher32(kept):
        raise BadBody("a chunk of the HDF5 file does not fit its checksum")
    return kept


def fletcher32(content: Voxels) -> int:
    """HDF5's Fletcher checksum: over big-endian 16-bit words, an odd last byte being the high one.

    Notes
    -----
    Both sums are taken modulo 65535, but HDF5 never reduces a sum above 0 to 0.
    Source: J. G. Fletcher (1982), IEEE Transactions on Communications 30.
    """
    words = np.frombuffer(bytes(content) + b"\0" * (len(content) % 2), dtype=">u2")
    plain = weighted = 0
    for start in range(0, len(words), WORDS_AT_ONCE):
        part = words[start : start + WORDS_AT_ONCE].astype(np.uint64)
        # The first word of a part stands in all its later sums, the last in one.
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        weighted += plain * len(part) + int((part * weights).sum(dtype=np.uint64))
        plain += int(part.sum(dtype=np.uint64))
    return _folded(weighted) << 16 | _folded(plain)


def _folded(total: int) -> int:
    return (total - 1) % 65535 + 1 if total else 0
