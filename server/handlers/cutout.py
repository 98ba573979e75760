"""GET a cutout: boxes of one or more channels in every body format.

Answers of the streaming formats leave slab by slab, small ones in one piece; the others are made as
a whole.
"""

import contextlib
import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass import picture
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, InvalidRequest, TooLarge
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import HDF5, STREAMED, WHOLE_MEMORY, Cutout, check_same_type, resolve
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.base import Layout, StreamEncoder, as_voxels
from ndcass.server.formats.blosc import encode_blosc
from ndcass.server.formats.encodings import encoding
from ndcass.server.formats.hdf5 import encode_hdf5
from ndcass.server.formats.npz import NpzEncoder
from ndcass.server.formats.raw import RawEncoder
from ndcass.server.formats.zip import ZipEncoder
from ndcass.server.match import Match
from ndcass.server.streaming import Pieces, VoxelResponse, send_pieces
from ndcass.server.volume_params import parse_volume, window_bounds
from ndcass.volume import (
    INLINE_BYTES,
    SLAB_BYTES,
    plan_answer,
    read_small,
    source_bytes,
    stream_slabs,
)

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_.-]")

Voxels = npt.NDArray[Any]  # which type is only known at run time


async def read_cutout(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a box in the format of the URL."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    check_same_type(cutout, match.service)
    if _is_small(request, match, cutout):
        return await _send_small(request, match, cutout)
    transform = _Transform.of(cutout)
    sources = source_bytes(cutout.places, cutout.box, len(cutout.times))
    exchange_of(request).usage.check_source(sources)
    size = math.prod(cutout.shape) * (1 if transform.window else cutout.first.dtype.itemsize)
    limits = request.app[SETTINGS].server
    if match.service in STREAMED:
        _check_size(size, limits.max_cutout_bytes)
        return await _send_stream(request, match, cutout, transform)
    _check_size(size, limits.max_whole_bytes)
    async with request.app[MEMORY].hold(WHOLE_MEMORY * size):
        return await _send_whole(request, match, cutout, transform)


def _is_small(request: web.Request, match: Match, cutout: Cutout) -> bool:
    """Whether it is a few plain voxels of one channel, as most requests of viewers are."""
    params = cutout.params
    return (
        match.service == "raw"
        and len(cutout.places) == len(cutout.times) == 1
        and params.window is None
        and params.filter_ids is None
        and cutout.box.voxels * cutout.first.dtype.itemsize <= INLINE_BYTES
        and request.method == "GET"
        and "?" not in request.raw_path
    )


async def _send_small(request: web.Request, match: Match, cutout: Cutout) -> VoxelResponse:
    """A small answer in one piece, which spares it the machinery of a stream."""
    (place,), (t,) = cutout.places, cutout.times
    assert place is not None  # resolve() refuses a zero channel in first place
    channel = place.channel
    voxels = await read_small(
        request.app[STORES].cuboids,
        place,
        channel.starttime if t is None else t,
        cutout.box,
        usage=exchange_of(request).usage,
    )
    headers = _headers(match, cutout, "raw") | _raw_headers(cutout.shape, channel.dtype)
    headers["Content-Type"] = RawEncoder.content_type
    return VoxelResponse(voxels, headers)


def _raw_headers(shape: Sequence[int], dtype: np.dtype[Any]) -> dict[str, str]:
    return {"X-Volume-Shape": ",".join(map(str, shape)), "X-Volume-Dtype": dtype.str}


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge("cutout", asked=size, limit=limit)


@dataclass(frozen=True, slots=True)
class _Transform:
    """What happens to voxels between the store and the answer."""

    window: tuple[float, float] | None
    keep_ids: Voxels | None

    @classmethod
    def of(cls, cutout: Cutout) -> "_Transform":
        """From the arguments of the URL; InvalidRequest if they do not fit the channels."""
        params = cutout.params
        window = None
        if params.window is not None:
            window = window_bounds(params.window, cutout.first.channel_datatype)
            picture.window(np.zeros(1, dtype=cutout.first.dtype), *window)  # refuses a bad one
        keep = None
        if params.filter_ids is not None:
            channels = [place.channel for place in cutout.places if place is not None]
            if not all(channel.is_annotation for channel in channels):
                raise InvalidRequest("filter works on annotation channels only")
            most = np.iinfo(cutout.first.dtype).max
            keep = np.array([i for i in params.filter_ids if i <= most], dtype=cutout.first.dtype)
        return cls(window, keep)

    @property
    def is_identity(self) -> bool:
        return self.window is None and self.keep_ids is None

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """The type of what is sent."""
        return np.dtype(np.uint8) if self.window is not None else stored

    def apply(self, voxels: Voxels) -> Voxels:
        """A new array, or the same where nothing is asked for."""
        if self.keep_ids is not None:
            voxels = np.where(np.isin(voxels, self.keep_ids), voxels, voxels.dtype.type(0))
        if self.window is not None:
            voxels = picture.window(voxels, *self.window)
        return voxels


async def _send_stream(
    request: web.Request, match: Match, cutout: Cutout, transform: _Transform
) -> web.StreamResponse:
    dtype = cutout.first.dtype
    layout = cutout.layout(transform.dtype(dtype))
    encoder = encoding(_encoding(request, match.service), _encoder(match.service, layout))
    headers = _headers(match, cutout, encoder.suffix)
    if encoder.content_encoding is not None:
        headers["Content-Encoding"] = encoder.content_encoding
    if match.service == "raw":
        headers |= _raw_headers(layout.shape, layout.dtype)
    slabs = plan_answer(
        cutout.places, cutout.times, cutout.box, cuboid_zyx=cutout.level.cuboid_zyx, dtype=dtype
    )
    usage = exchange_of(request).usage
    store = request.app[STORES].cuboids
    voxels = stream_slabs(store, slabs, dtype=dtype, usage=usage)
    pieces = _encoded(encoder, voxels, transform)
    async with request.app[MEMORY].hold(_buffer_bytes(cutout)):
        return await send_pieces(
            request,
            pieces,
            content_type=encoder.content_type,
            headers=headers,
            length=encoder.length,
        )


def _buffer_bytes(cutout: Cutout) -> int:
    """What the two buffers of a stream take; a slab may be somewhat larger than its limit."""
    size = math.prod(cutout.shape) * cutout.first.dtype.itemsize
    _, height, width = cutout.level.cuboid_zyx
    row = height * max(width, cutout.box.shape_zyx[2]) * cutout.first.dtype.itemsize
    return min(size, 2 * max(SLAB_BYTES, row))


def _encoding(request: web.Request, service: str) -> str | None:
    encoding = request.query.get("encoding")
    if encoding is None or service != "raw":
        return None
    if encoding not in ("gzip", "lz4"):
        raise InvalidOption(f"encoding={encoding[:80]} is unknown; known are gzip, lz4")
    return encoding


async def _encoded(
    encoder: StreamEncoder, slabs: AsyncGenerator[Voxels, None], transform: _Transform
) -> Pieces:
    """The answer in pieces, the first of them not empty."""
    head = encoder.head()
    if head:
        yield head
    async with contextlib.aclosing(slabs) as voxels:
        async for slab in voxels:
            if not transform.is_identity:
                slab = await run_cpu(transform.apply, slab)
            view = as_voxels(np.ascontiguousarray(slab))
            piece = await run_cpu(encoder.piece, view) if encoder.cpu else encoder.piece(view)
            if piece:
                yield piece
    tail = await run_cpu(encoder.tail) if encoder.cpu else encoder.tail()
    if tail:
        yield tail


def _encoder(service: str, layout: Layout) -> StreamEncoder:
    if service == "npz":
        return NpzEncoder(layout)
    return ZipEncoder() if service == "zip" else RawEncoder(layout)


async def _send_whole(
    request: web.Request, match: Match, cutout: Cutout, transform: _Transform
) -> web.StreamResponse:
    usage = exchange_of(request).usage
    store = request.app[STORES].cuboids
    arrays = []
    for place in cutout.places:
        dtype = (place.channel if place else cutout.first).dtype
        out = np.empty((len(cutout.times), *cutout.box.shape_zyx), dtype=dtype)
        slabs = plan_answer(
            [place], cutout.times, cutout.box, cuboid_zyx=cutout.level.cuboid_zyx, dtype=dtype
        )
        flat = out.reshape(-1)
        at = 0
        async with contextlib.aclosing(
            stream_slabs(store, slabs, dtype=dtype, usage=usage)
        ) as voxels:
            async for slab in voxels:
                flat[at : at + slab.size] = slab
                at += slab.size
        shaped = out if cutout.params.times is not None else out[0]
        arrays.append(await run_cpu(transform.apply, shaped))
    layout = cutout.layout(arrays[0].dtype)
    if match.service == HDF5:
        body, content_type, suffix = (
            await run_cpu(encode_hdf5, layout, arrays),
            "product/hdf5",
            "h5",
        )
    else:
        body, content_type, suffix = (
            await run_cpu(lambda: encode_blosc(np.stack(arrays))),
            "product/blosc",
            "blosc",
        )

    async def pieces() -> Pieces:
        yield body

    return await send_pieces(
        request,
        pieces(),
        content_type=content_type,
        headers=_headers(match, cutout, suffix),
        length=len(body),
    )


def _headers(match: Match, cutout: Cutout, suffix: str | None) -> dict[str, str]:
    """Content-Disposition as old clients know it: the path from the token on, made a file name."""
    if suffix is None:
        return {}
    path = f"{match.token}/{','.join(cutout.names)}/{match.service}/{match.tail}"
    name = _NO_FILE_NAME.sub("", path.replace(",", "_").replace("/", "-"))[:200]
    return {"Content-Disposition": f"attachment; filename={name}ndcutout.{suffix}"}
