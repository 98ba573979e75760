"""Format ``nii``: a whole channel as one NIfTI-1 file (data plane 3.9, control plane 8).

The voxels of a file have x as their fastest axis and t as the slowest, which is the C order of
(t, z, y, x): nothing has to be transposed, and both directions stream. nibabel reads and checks
headers; of voxels it sees nothing.
"""

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt

from ndcass.errors import BadBody, InvalidRequest, TooLarge
from ndcass.geometry import Zyx, ZyxFloat
from ndcass.server.formats.base import Dtype
from ndcass.server.formats.base import Voxels as Bytes
from ndcass.server.formats.deflate import Inflater

CONTENT_TYPE = "product/nii"
SUFFIX = "nii.gz"

HEADER_BYTES = 348
# Behind the header of a single file: four bytes that say whether extensions follow.
NO_EXTENSIONS = bytes(4)
DATA_AT = HEADER_BYTES + len(NO_EXTENSIONS)
# Extensions hold text about a scan; beyond this it is no offset but damage.
MAX_DATA_AT = 64 << 20
# Behind the voxels some writers pad a file.
MAX_TRAILING_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# Axes have 16 bits, with a sign.
MAX_AXIS = (1 << 15) - 1
RGB_COMPONENTS = 3
OPAQUE = 0xFF << 24

# nibabel's header, whose methods have no types.
Block = Any
_new_block: Any = nibabel.Nifti1Header

Voxels = npt.NDArray[Any]  # which type is only known at run time
AXES = (3, 4)


class Colour(enum.Enum):
    """How a file holds colours, which a channel holds as one uint32 a voxel, red lowest."""

    NONE = "numbers"
    PIXELS = "red, green and blue of each voxel together"
    VOLUMES = "a volume of each colour"


class Header(NamedTuple):
    """What a file says of itself.

    Attributes
    ----------
    block : nibabel.Nifti1Header
        Little-endian, without scaling: voxels are never sent scaled.
    shape : tuple of int
        (x, y, z) or (x, y, z, t).
    dtype : dtype
        Of the file's voxels, in its own byte order.
    data_at : int
        Where they begin.
    scale : tuple of float or None
        Slope and intercept that make values of them.
    """

    block: Block
    shape: tuple[int, ...]
    dtype: Dtype
    data_at: int
    scale: tuple[float, float] | None

    @property
    def timesteps(self) -> int | None:
        """How many; None where there is no time axis."""
        return self.shape[3] if len(self.shape) > len("xyz") else None

    @property
    def is_rgb(self) -> bool:
        """Whether a voxel is three bytes."""
        return self.dtype.fields is not None and self.dtype.itemsize == RGB_COMPONENTS

    def colour_for(self, *, in_colour: bool) -> Colour:
        """How its voxels are colours, if a channel has such (uint32 that are no labels).

        Raises
        ------
        InvalidRequest
            If they can be nothing else, and the channel has none.
        """
        if self.is_rgb and not in_colour:
            raise InvalidRequest("the NIfTI holds colours; they go into an image of uint32")
        if self.is_rgb:
            return Colour.PIXELS
        # A series of three volumes is legitimate, but hardly one of bytes in such a channel.
        volumes = self.timesteps == RGB_COMPONENTS and self.dtype == np.uint8
        return Colour.VOLUMES if volumes and in_colour else Colour.NONE

    @property
    def natural_dtype(self) -> Dtype:
        """Of a channel that is made for the file."""
        if self.is_rgb:
            return np.dtype("<u4")
        if self.scale is not None:
            return np.dtype("<f4")
        return self.dtype.newbyteorder("<")


def parse_header(block: bytes) -> Header:
    """A header as it stands at the start of a file.

    Raises
    ------
    BadBody
        If it is none of a single NIfTI-1 file with numbers or colours on three or four axes.
    """
    try:
        header = _new_block(block, check=False)
        dtype = header.get_data_dtype()
        shape = tuple(int(length) for length in header.get_data_shape())
        data_at = int(header.get_data_offset()) or DATA_AT
        slope, intercept = header.get_slope_inter()
        magic = bytes(header["magic"]).rstrip(b"\0")
    except Exception as error:  # whatever nibabel makes of what is no header
        raise BadBody("the body does not begin with a NIfTI-1 header") from error
    if magic != b"n+1" or int(header["sizeof_hdr"]) != HEADER_BYTES:
        raise BadBody("the body is no single NIfTI-1 file (.nii or .nii.gz)")
    if len(shape) not in AXES or min(shape) < 1:
        raise BadBody(f"the NIfTI has the shape {shape}; a volume has x, y, z and perhaps t")
    if not DATA_AT <= data_at <= MAX_DATA_AT:
        raise BadBody(f"the voxels of the NIfTI cannot begin at byte {data_at}")
    rgb = dtype.fields is not None and dtype.itemsize == RGB_COMPONENTS
    if not rgb and (dtype.fields is not None or dtype.kind not in "iuf" or dtype.itemsize > 8):
        raise BadBody(f"the NIfTI holds {header.get_value_label('datatype')}, which no channel can")
    scale = None if slope is None or (slope, intercept) == (1, 0) else (slope, intercept or 0.0)
    kept = header.as_byteswapped("<")
    kept.set_slope_inter(1, 0)
    return Header(kept, shape, dtype, data_at, scale)


def made_header(size_zyx: Zyx, voxelres_zyx: ZyxFloat, dtype: Dtype, timesteps: int) -> Header:
    """A header for a channel that none was ever sent for: voxels of their size, along the axes."""
    block = _new_block(endianness="<")
    z, y, x = voxelres_zyx
    shape = _shape_xyz(size_zyx) + ((timesteps,) if timesteps > 1 else ())
    block.set_data_dtype(dtype)
    block.set_data_shape(shape)
    block.set_zooms((x, y, z, 1.0)[: len(shape)])
    block.set_sform(np.diag([x, y, z, 1.0]), code="scanner")
    block.set_qform(np.diag([x, y, z, 1.0]), code="scanner")
    block.set_slope_inter(1, 0)
    return Header(block, shape, dtype, DATA_AT, None)


def check_fits(header: Header, size_zyx: Zyx, timesteps: int | None) -> None:
    """Refuse a file that is not exactly as large as a channel; `timesteps` None allows any number.

    Raises
    ------
    InvalidRequest
        If an axis differs.
    """
    x, y, z = header.shape[:3]
    if (z, y, x) != size_zyx:
        raise InvalidRequest(
            f"the NIfTI is {x} x {y} x {z} voxels, the dataset "
            f"{' x '.join(map(str, _shape_xyz(size_zyx)))}"
        )
    if header.timesteps is not None and timesteps not in (None, header.timesteps):
        raise InvalidRequest(
            f"the NIfTI has {header.timesteps} timesteps, the channel has {timesteps}"
        )


def _shape_xyz(size_zyx: Zyx) -> tuple[int, int, int]:
    z, y, x = size_zyx
    return x, y, z


# -- received


class NiftiDecoder:
    """A file, plain or gzip, to the voxels of a channel; see `StreamDecoder`.

    `target` is asked once, when the header is known: it refuses the file, or says of what type the
    channel is and how to take colours; `dtype` and `colour` are its answer. Colours that come as
    three volumes are only handed out when the last one has come: they take four bytes a voxel.
    """

    def __init__(self, target: Callable[[Header], tuple[Dtype, Colour]]) -> None:
        self.dtype, self.colour = np.dtype(np.uint8), Colour.NONE
        self._header: Header | None = None
        self._target = target
        self._inflater: Inflater | None = None
        self._begin = bytearray()  # what came before it was clear how to go on
        self._skip = 0
        self._left = 0
        self._rest = b""  # of a voxel that is not complete
        self._trailing = 0
        self._packed = np.empty(0, dtype="<u4")
        self._filled = 0

    @property
    def found(self) -> Header:
        """The header; there is one as soon as there are voxels."""
        assert self._header is not None  # `_open` comes before the first voxel
        return self._header

    def feed(self, chunk: Bytes) -> Iterator[Bytes]:
        if self._inflater is None and self._header is None:
            self._begin += chunk
            if len(self._begin) < HEADER_BYTES and not self._begin.startswith(GZIP_MAGIC):
                return
            chunk = bytes(self._begin)
            self._begin.clear()
            if chunk.startswith(GZIP_MAGIC):
                self._inflater = Inflater(gzip=True)
        if self._inflater is None:
            yield from self._content(chunk)
            return
        for content in self._inflater.feed(chunk):
            yield from self._content(content)

    def finish(self) -> Iterator[Bytes]:
        if self._inflater is not None:
            self._inflater.finish()
        if self._header is None:
            raise BadBody("the body ends within the header of a NIfTI")
        if self._left or self._skip:
            raise BadBody(f"the NIfTI ends {self._left} bytes before its last voxel")
        if self.colour is Colour.VOLUMES:
            yield self._packed.data.cast("B")

    def _content(self, content: Bytes) -> Iterator[Bytes]:
        """The next bytes of the file itself."""
        if self._header is None:
            self._begin += content
            if len(self._begin) < HEADER_BYTES:
                return
            content = bytes(self._begin)
            self._open(parse_header(content[:HEADER_BYTES]))
        skipped = min(self._skip, len(content))
        self._skip -= skipped
        voxels = memoryview(content)[skipped:]
        self._trailing += max(0, len(voxels) - self._left)
        if self._trailing > MAX_TRAILING_BYTES:
            raise BadBody("the NIfTI goes on behind its last voxel")
        voxels = voxels[: self._left]
        self._left -= len(voxels)
        if voxels:
            yield from self._voxels(voxels)

    def _open(self, header: Header) -> None:
        self.dtype, self.colour = self._target(header)
        self._header = header
        self._skip = header.data_at
        self._left = math.prod(header.shape) * header.dtype.itemsize
        if self.colour is Colour.VOLUMES:
            self._packed = np.full(math.prod(header.shape[:3]), OPAQUE, dtype="<u4")

    def _voxels(self, sent: memoryview) -> Iterator[Bytes]:
        """Voxels as the channel has them; part of one waits for the rest of it."""
        header = self.found
        dtype = header.dtype
        content = self._rest + bytes(sent) if self._rest else sent
        whole = len(content) - len(content) % dtype.itemsize
        self._rest = bytes(content[whole:])
        if not whole:
            return
        voxels = np.frombuffer(content, dtype=dtype, count=whole // dtype.itemsize)
        if self.colour is Colour.VOLUMES:
            self._add_component(voxels)
            return
        if self.colour is Colour.PIXELS:
            cast = _packed_pixels(voxels)
        else:
            cast = _cast(voxels, header.scale, self.dtype)
        yield cast.data.cast("B")

    def _add_component(self, voxels: Voxels) -> None:
        """Bytes of red, green and blue volumes, one after the other."""
        while len(voxels):
            component, at = divmod(self._filled, len(self._packed))
            share = voxels[: len(self._packed) - at]
            self._packed[at : at + len(share)] |= share.astype("<u4") << (8 * component)
            self._filled += len(share)
            voxels = voxels[len(share) :]


def _packed_pixels(voxels: Voxels) -> Voxels:
    components = voxels.view(np.uint8).reshape(-1, RGB_COMPONENTS)
    pixels = np.full((len(components), 4), 0xFF, dtype=np.uint8)
    pixels[:, :RGB_COMPONENTS] = components
    packed: Voxels = pixels.view("<u4").reshape(-1)
    return packed


def _cast(voxels: Voxels, scale: tuple[float, float] | None, dtype: Dtype) -> Voxels:
    """Values as a channel of some type holds them, fractions cut off where it has none.

    Raises
    ------
    BadBody
        If a value is beyond what the type can hold.
    """
    if scale is not None:
        voxels = voxels.astype(np.float64) * scale[0] + scale[1]
    if dtype.kind != "f" and not np.can_cast(voxels.dtype, dtype):
        low, high = voxels.min(), voxels.max()
        limits = np.iinfo(dtype)
        # Also refuses NaN. Python compares numbers of any two types exactly.
        if not (limits.min <= low.item() and high.item() < limits.max + 1):
            raise BadBody(
                f"the NIfTI has values from {low} to {high}, {dtype.name} holds {limits.min} to "
                f"{limits.max}"
            )
    with np.errstate(over="ignore"):  # what is too large for single precision is infinite in it
        return voxels.astype(dtype, copy=False)


# -- sent


class Form(NamedTuple):
    """How a channel is sent: the header as it goes out, the type of a number, and colours."""

    header: bytes
    dtype: Dtype
    colour: Colour


def form_of(
    kept: Header,
    size_zyx: Zyx,
    channel_dtype: Dtype,
    timesteps: int,
    *,
    fits: bool,
    in_colour: bool,
) -> Form:
    """How a channel goes out with a header that was kept.

    It has the type of the header where every voxel fits that, and colours if it came so.

    Parameters
    ----------
    kept : Header
    size_zyx : tuple of int
        Of the channel, which may have changed since the header came.
    channel_dtype : dtype
    timesteps : int
    fits : bool
        Whether all voxels are numbers of the header's type.
    in_colour : bool
        Whether the channel holds colours.

    Raises
    ------
    TooLarge
        If an axis is longer than NIfTI-1 can say.
    """
    for length in (*size_zyx, timesteps):
        if length > MAX_AXIS:
            raise TooLarge("axis of a NIfTI", asked=length, limit=MAX_AXIS, unit="voxels")
    block = kept.block.copy()
    shape: tuple[int, ...] = _shape_xyz(size_zyx)
    colour = Colour.NONE if kept.is_rgb and not in_colour else kept.colour_for(in_colour=in_colour)
    if colour is Colour.VOLUMES and timesteps == 1:
        block.set_data_shape((*shape, RGB_COMPONENTS))
        return Form(_bytes_of(block), np.dtype(np.uint8), colour)
    if timesteps > 1 or kept.timesteps is not None:
        shape = (*shape, timesteps)
    block.set_data_shape(shape)
    if colour is Colour.PIXELS:
        return Form(_bytes_of(block), channel_dtype, colour)
    dtype = kept.natural_dtype if fits and not kept.is_rgb else channel_dtype
    block.set_data_dtype(dtype)
    return Form(_bytes_of(block), dtype.newbyteorder("<"), Colour.NONE)


def are_within(voxels: Voxels, dtype: Dtype) -> bool:
    """Whether whole numbers are within what another type of them holds."""
    limits = np.iinfo(dtype)
    return bool(limits.min <= voxels.min().item() and voxels.max().item() <= limits.max)


def _bytes_of(block: Block) -> bytes:
    block["vox_offset"] = DATA_AT
    return bytes(block.binaryblock) + NO_EXTENSIONS


class NiftiEncoder:
    """Voxels of a channel, ([component,] t, z, y, x), to a file that is not compressed yet."""

    content_type = CONTENT_TYPE
    suffix = SUFFIX
    content_encoding = None
    cpu = True
    length = None

    def __init__(self, form: Form, voxels: int, dtype: Dtype) -> None:
        self._form = form
        self._voxels = voxels  # of one component
        self._dtype = dtype
        self._sent = 0

    def head(self) -> bytes:
        return self._form.header

    def piece(self, voxels: memoryview) -> bytes | memoryview:
        """The next voxels; colours that go out as volumes come once for each of the three."""
        stored = np.frombuffer(voxels, dtype=self._dtype)
        if self._form.colour is Colour.NONE:
            return stored.astype(self._form.dtype, copy=False).data.cast("B")
        components = stored.view(np.uint8).reshape(-1, 4)
        if self._form.colour is Colour.PIXELS:
            return np.ascontiguousarray(components[:, :RGB_COMPONENTS]).data.cast("B")
        return b"".join(self._components(components))

    def tail(self) -> bytes:
        return b""

    def _components(self, voxels: Voxels) -> Iterator[bytes]:
        """Of each voxel the byte whose turn it is: slabs may reach from one volume to the next."""
        while len(voxels):
            component, at = divmod(self._sent, self._voxels)
            share = voxels[: self._voxels - at]
            yield share[:, component].tobytes()
            self._sent += len(share)
            voxels = voxels[len(share) :]


def passes(form: Form) -> Sequence[None]:
    """One for each time that the voxels are read for a file."""
    return [None] * (RGB_COMPONENTS if form.colour is Colour.VOLUMES else 1)
