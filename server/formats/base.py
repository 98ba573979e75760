"""What every body format shares: the layout of a cutout body, the shapes of encoders and decoders.

What lives here: `Layout`, the protocols of streaming formats, and the checks of type and shape
that all bodies go through. What does not: any one format, and how a request names one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ndcass.errors import BadBody

# numpy's type of a voxel; which one is only known at run time, hence `Any`.
Dtype = np.dtype[Any]
# Voxels as they travel: bytes in C order.
Voxels = bytes | bytearray | memoryview

# The greatest piece a decoder hands out, and so the memory a decompression bomb can take.
STEP_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Layout:
    """What the body of a cutout holds.

    `channels` are named as in the URL (``default`` if the URL names none). `shape` is (c, z, y, x),
    or (c, t, z, y, x) with `has_time`. `dtype` is the little-endian type of the whole body; only
    HDF5 may mix types, and goes by `datatypes` instead.
    """

    channels: tuple[str, ...]
    channel_types: tuple[str, ...]
    datatypes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Dtype
    has_time: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels of the body."""
        return math.prod(self.shape) * self.dtype.itemsize


class StreamEncoder(Protocol):
    """Turns slabs of voxels into a body as they come; one instance a body, never shared.

    `cpu` says that `piece` and `tail` compress, and so belong in a thread.
    """

    @property
    def content_type(self) -> str: ...

    @property
    def suffix(self) -> str | None:
        """What follows the dot of the file name in Content-Disposition; None if there is none."""

    @property
    def length(self) -> int | None:
        """Bytes of the whole body, if they are known beforehand."""

    @property
    def content_encoding(self) -> str | None:
        """Value of the header Content-Encoding; None if the body is not encoded."""

    @property
    def cpu(self) -> bool: ...

    def head(self) -> bytes: ...

    def piece(self, voxels: memoryview) -> bytes | memoryview:
        """The bytes that the next voxels add to the body; they may refer to `voxels`."""

    def tail(self) -> bytes: ...


class StreamDecoder(Protocol):
    """Turns a body into voxels in C order as its bytes come; one instance a body.

    Both methods are lazy: nothing happens before the result is iterated. A piece may refer to
    `chunk` and is at most `STEP_BYTES` long or part of `chunk`, except after a Fortran-ordered
    body, which `finish` hands out whole.
    """

    def feed(self, chunk: Voxels) -> Iterable[Voxels]:
        """Voxels that `chunk` completes.

        Raises
        ------
        BadBody
            As soon as the body cannot be what the layout says.
        """

    def finish(self) -> Iterable[Voxels]:
        """Voxels that were kept back, at the end of the body.

        Raises
        ------
        BadBody
            If the body ended too early.
        """


def check_dtype(sent: Dtype, expected: Dtype, *, what: str = "the body") -> None:
    """Refuse a type that is not the expected one in kind, size and byte order.

    Raises
    ------
    BadBody
        If they differ; ``>u2``, bool and int8 are no uint8 and no ``<u2``.
    """
    # `str` spells kind, size and byte order, with ``|`` where an order has no meaning.
    if sent.hasobject or sent.str != expected.str or sent.fields or sent.subdtype:
        raise BadBody(f"{what} holds {sent.str} voxels, the channel is {expected.str}")


def check_shape(sent: Sequence[int], layout: Layout) -> None:
    """Refuse a shape that is not that of the layout.

    Raises
    ------
    BadBody
        If number of channels, rank or extents differ, in this order.
    """
    if not sent or sent[0] != len(layout.channels):
        first = sent[0] if sent else "no"
        raise BadBody(
            f"the body holds {first} channels (its first axis), the URL names "
            f"{len(layout.channels)}"
        )
    if len(sent) != len(layout.shape):
        axes = "channel, t, z, y, x" if layout.has_time else "channel, z, y, x"
        raise BadBody(f"the body has {len(sent)} axes, expected are {len(layout.shape)}: {axes}")
    if tuple(sent) != layout.shape:
        raise BadBody(f"the body has the shape {text_shape(sent)}, expected is {layout.shape}")


def text_shape(shape: Sequence[int]) -> str:
    """`shape` as Python writes a tuple, cut short where a client made it absurd."""
    text = str(tuple(shape))
    return text if len(text) <= 120 else text[:120] + "..."


def as_voxels(array: np.ndarray[Any, Dtype]) -> memoryview:
    """The bytes of a C-ordered array, without a copy; its type is only known at run time."""
    # A view as bytes first: memoryview cannot cast an array without elements.
    return array.reshape(-1).view(np.uint8).data
