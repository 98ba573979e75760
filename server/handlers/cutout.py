"""Cutouts: boxes of one or more channels, out and in, in every body format.

Answers of the streaming formats leave slab by slab; bodies of those formats are written while they
arrive. blosc and HDF5 have no order in which that could be done: they are made and read as a whole,
and have a lower limit.
"""

import contextlib
import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass import picture
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, InvalidRequest, NotFound, TooLarge
from ndcass.geometry import Box, Level
from ndcass.merge import WriteOp
from ndcass.model import Channel, TokenView
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.base import Layout, StreamDecoder, StreamEncoder, as_voxels
from ndcass.server.formats.blosc import decode_blosc, encode_blosc
from ndcass.server.formats.encodings import decoding, encoding
from ndcass.server.formats.hdf5 import decode_hdf5, encode_hdf5
from ndcass.server.formats.npz import NpzDecoder, NpzEncoder
from ndcass.server.formats.raw import RawDecoder, RawEncoder
from ndcass.server.formats.zip import ZipEncoder
from ndcass.server.match import Match
from ndcass.server.streaming import (
    OVERHEAD_SHARE,
    Body,
    Pieces,
    VoxelResponse,
    receive,
    send_pieces,
)
from ndcass.server.volume_params import VolumeParams, parse_volume, window_bounds, write_op
from ndcass.volume import (
    INLINE_BYTES,
    SLAB_BYTES,
    BodyWriter,
    CutoutWriter,
    Place,
    check_writable,
    cutout_writer,
    plan_answer,
    read_small,
    stream_slabs,
)

STREAMED = frozenset({"npz", "raw", "zip"})
_DTYPE_NAME = re.compile(r"[<>|=]?[a-z]{1,8}[0-9]{1,3}")
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_.-]")
POSTABLE = frozenset({"npz", "raw", "blosc", "hdf5"})
# Channels times timesteps of one request; sizes are limited besides. A series of single voxels
# takes about as long as these many cuboids.
MAX_VOLUMES = 1 << 16
# A pickle of Python 2 is text: up to two bytes a voxel where it does not compress.
BLOSC_SHARE = 1.0
# What a format that is made as a whole takes, in times of the voxels (blosc; HDF5 takes less).
WHOLE_MEMORY = 4
# The name that stands for an all-zero channel in second and later places (data plane 2.2).
ZERO_CHANNEL = "0"
_HDF5 = "hdf5"

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Cutout(NamedTuple):
    """A request for a box, resolved: what is read or written of which channels."""

    names: tuple[str, ...]  # as in the URL
    places: tuple[Place | None, ...]  # None: the all-zero channel
    params: VolumeParams
    level: Level
    box: Box  # stored
    times: Sequence[int | None]

    @property
    def first(self) -> Channel:
        place = self.places[0]
        assert place is not None  # resolve() refuses a zero channel in first place
        return place.channel

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, z, y, x), or (c, t, z, y, x) where the URL has a time range."""
        time = (len(self.times),) if self.params.times is not None else ()
        return (len(self.places), *time, *self.box.shape_zyx)

    def layout(self, dtype: np.dtype[Any] | None = None) -> Layout:
        """What the formats need to know; `dtype` if it is not the first channel's."""
        channels = [place.channel if place else self.first for place in self.places]
        return Layout(
            channels=self.names,
            channel_types=tuple(channel.channel_type for channel in channels),
            datatypes=tuple(channel.channel_datatype for channel in channels),
            shape=self.shape,
            dtype=dtype or self.first.dtype,
            has_time=self.params.times is not None,
        )


def resolve(view: TokenView, names: Sequence[str] | None, params: VolumeParams) -> Cutout:
    """Channels, level and box of a request, checked against the project.

    Raises
    ------
    NotFound
        If a channel does not exist, or there is no default channel.
    OutOfBounds
        If the box reaches beyond the level.
    InvalidRequest
        If the time range is empty.
    """
    names = tuple(names) if names else ("default",)
    level = view.level(params.level)
    neariso = params.neariso
    places = [
        None if index and name == ZERO_CHANNEL else Place(_channel(view, name), level, neariso)
        for index, name in enumerate(names)
    ]
    box = level.stored_box(params.box, neariso=neariso)
    start, stop = params.times or (0, 1)
    if start >= stop:
        raise InvalidRequest(f"time range {start},{stop} is empty or inverted")
    volumes = (stop - start) * len(names)
    if volumes > MAX_VOLUMES:
        raise TooLarge("channels times timesteps", asked=volumes, limit=MAX_VOLUMES, unit="volumes")
    times = range(start, stop) if params.times is not None else (None,)
    return Cutout(names, tuple(places), params, level, box, times)


def _channel(view: TokenView, name: str) -> Channel:
    channel = view.channel(name)
    if channel is None:
        what = "no default channel" if name == "default" else f"no channel {name[:80]}"
        raise NotFound(f"token {view.token.token_name} has {what}")
    return channel


# -- GET


async def read_cutout(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a box in the format of the URL."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    _check_same_type(cutout, match.service)
    if _is_small(request, match, cutout):
        return await _send_small(request, match, cutout)
    transform = _Transform.of(cutout)
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


def _check_same_type(cutout: Cutout, service: str) -> None:
    """Bodies with a channel axis have one type; HDF5 may mix them and has no zero channel."""
    if len(cutout.places) == 1:
        return
    for name, place in zip(cutout.names, cutout.places, strict=True):
        if service == _HDF5:
            if place is None:
                raise NotFound(f"no channel {name}")
        elif place is not None and place.channel.dtype != cutout.first.dtype:
            raise InvalidRequest(
                f"channel {name} is {place.channel.channel_datatype}, the first channel is "
                f"{cutout.first.channel_datatype}: only hdf5 mixes types"
            )


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


def _decoder(service: str, layout: Layout) -> StreamDecoder:
    return NpzDecoder(layout) if service == "npz" else RawDecoder(layout)


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
    if match.service == _HDF5:
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


# -- POST


async def write_cutout(request: web.Request, match: Match) -> web.StreamResponse:
    """POST a box in the format of the URL; 200 means that it is on disk."""
    view = await open_token(request, match.token, write=True)
    params = parse_volume(match.tail)
    if params.times == (0, 0):  # how an old client says that it has no time axis (data plane 2.3)
        params = params._replace(times=None)
    cutout = resolve(view, match.channels, params)
    places = [place for place in cutout.places if place is not None]
    if len(places) != len(cutout.places):
        raise NotFound(f"no channel {ZERO_CHANNEL}")
    if match.service == "raw":
        _check_raw_type(request, cutout.first)
    for place in places:
        check_writable(place.channel)
    _check_same_type(cutout, match.service)
    ops = {_op(request, place.channel, params) for place in places}
    if len(ops) > 1:
        raise InvalidRequest("a conflict word goes with channels of one type only")
    (op,) = ops
    layout = cutout.layout()
    size = math.prod(layout.shape) * _itemsize(places)
    limit = request.app[SETTINGS].server.max_body_bytes
    share = BLOSC_SHARE if match.service == "blosc" else OVERHEAD_SHARE
    body = Body.of(request, size, limit=limit, share=share)
    usage = exchange_of(request).usage
    async with cutout_writer(request.app[STORES], op=op, usage=usage) as writer:
        if match.service in STREAMED:
            decoder = decoding(body.encoding, _decoder(match.service, layout))
            compressed = match.service != "raw" or body.encoding is not None
            async with (
                request.app[MEMORY].hold(
                    BodyWriter.buffer_bytes(places[0], cutout.box, len(places) * len(cutout.times))
                ),
                BodyWriter(writer, places, cutout.times, cutout.box) as voxels,
            ):
                await receive(request, body, decoder, voxels.feed, in_thread=compressed)
                await voxels.finish()
        else:
            async with request.app[MEMORY].hold(WHOLE_MEMORY * size):
                arrays = await _receive_whole(request, match.service, body, layout, cutout)
                await _write_arrays(writer, places, cutout, arrays)
        await writer.commit()
    return web.Response(body=b"Success", headers={"Content-Type": "text/html"})


def _itemsize(places: Sequence[Place]) -> int:
    return max(place.channel.dtype.itemsize for place in places)


def _check_raw_type(request: web.Request, channel: Channel) -> None:
    sent = request.headers.get("X-Volume-Dtype")
    if sent is None:
        raise InvalidOption("POST raw needs the header X-Volume-Dtype, numpy's name of the type")
    if not _names(sent, channel.dtype):
        raise InvalidOption(
            f"X-Volume-Dtype is {sent[:40]}, channel {channel.channel_name} is {channel.dtype.str}"
        )


def _names(text: str, dtype: np.dtype[Any]) -> bool:
    """Whether `text` is numpy's name of a type: also a plain one as uint16, none big-endian."""
    if not _DTYPE_NAME.fullmatch(text):
        return False
    try:
        return np.dtype(text) == dtype
    except TypeError:
        return False


def _op(request: web.Request, channel: Channel, params: VolumeParams) -> WriteOp:
    op = write_op(request.query.get("write"), params.words, annotation=channel.is_annotation)
    if op is WriteOp.EXCEPTION and not (channel.is_annotation and channel.exceptions):
        raise InvalidRequest(f"channel {channel.channel_name} keeps no exceptions")
    return op


async def _receive_whole(
    request: web.Request, service: str, body: Body, layout: Layout, cutout: Cutout
) -> list[Voxels]:
    """One array a channel, of shape (t, z, y, x)."""
    raw = await body.read(request)
    shape = (len(cutout.times), *cutout.box.shape_zyx)
    if service == _HDF5:
        # The group carries the channel's own name, also where the URL leaves it out.
        names = [place.channel.channel_name for place in cutout.places if place is not None]
        arrays = await run_cpu(decode_hdf5, raw, layout, names=names)
        return [array.reshape(shape) for array in arrays]
    array = await run_cpu(decode_blosc, raw, layout)
    return [channel.reshape(shape) for channel in array]


async def _write_arrays(
    writer: CutoutWriter, places: Sequence[Place], cutout: Cutout, arrays: Sequence[Voxels]
) -> None:
    for place, array in zip(places, arrays, strict=True):
        for t, volume in zip(cutout.times, array, strict=True):
            start = place.channel.starttime if t is None else t
            await writer.write(place, start, cutout.box, volume)
