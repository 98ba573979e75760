"""Layouts of arrays, and bodies through streaming encoders and decoders, for the format tests."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ndcass.server.formats.base import Layout, StreamDecoder, StreamEncoder, as_voxels

Array = np.ndarray[Any, np.dtype[Any]]

TYPES = ("|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8")


def layout_of(array: Array) -> Layout:
    """The layout whose body `array`, with a channel axis, is."""
    count = array.shape[0]
    return Layout(
        channels=tuple(f"channel{i}" for i in range(count)),
        channel_types=("image",) * count,
        datatypes=(array.dtype.name,) * count,
        shape=array.shape,
        dtype=array.dtype.newbyteorder("<"),
        has_time=array.ndim == 5,
    )


def arrays(*, min_dims: int = 4, max_dims: int = 5, max_side: int = 6) -> st.SearchStrategy[Array]:
    """Arrays of every type, with NaN and infinity among the floats."""
    shapes = npst.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side)
    return st.sampled_from(TYPES).flatmap(lambda name: npst.arrays(np.dtype(name), shapes))


def numbers(shape: tuple[int, ...], dtype: str = "|u1", *, seed: int = 0) -> Array:
    """Random bits, which do not compress."""
    itemsize = np.dtype(dtype).itemsize
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, itemsize), dtype=np.uint8)
    voxels: Array = bits.view(dtype)[..., 0]
    return np.ascontiguousarray(voxels)


def encoded(encoder: StreamEncoder, array: Array, *, step: int = 1 << 20) -> bytes:
    """The body that an encoder makes of pieces of `step` bytes."""
    voxels = as_voxels(np.ascontiguousarray(array))
    parts = [encoder.head()]
    parts += [bytes(encoder.piece(voxels[i : i + step])) for i in range(0, len(voxels), step)]
    parts.append(encoder.tail())
    return b"".join(parts)


def decoded(decoder: StreamDecoder, body: bytes, *, step: int = 1 << 16) -> bytes:
    """The voxels that a decoder makes of a body that arrives in chunks of `step` bytes."""
    out = bytearray()
    for i in range(0, len(body), step):
        for voxels in decoder.feed(memoryview(body)[i : i + step]):
            out += voxels
    for voxels in decoder.finish():
        out += voxels
    return bytes(out)
