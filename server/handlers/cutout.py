"""GET a cutout: boxes of one or more channels in every body format.

Answers of the streaming formats leave slab by slab, small ones in one piece; the others are made as
a whole.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, TooLarge
from ndcass.place import Place
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import (
    HDF5,
    STREAMED,
    WHOLE_MEMORY,
    Cutout,
    buffer_bytes,
    check_channels,
    resolve,
)
from ndcass.server.exchange import exchange_of
from ndcass.server.formats import blosc, jpeg
from ndcass.server.formats.base import Layout, StreamEncoder
from ndcass.server.formats.blosc import encode_blosc
from ndcass.server.formats.diff import DTYPE as DIFF_DTYPE
from ndcass.server.formats.diff import differences
from ndcass.server.formats.encodings import encoding
from ndcass.server.formats.hdf5 import encode_hdf5
from ndcass.server.formats.jpeg import check_jpeg, encode_jpeg
from ndcass.server.formats.npz import NpzEncoder
from ndcass.server.formats.raw import RawEncoder
from ndcass.server.formats.tiff import TiffEncoder
from ndcass.server.formats.zip import ZipEncoder
from ndcass.server.freshness import note_cutout
from ndcass.server.match import Match
from ndcass.server.streaming import Pieces, VoxelResponse, encoded, send_pieces
from ndcass.server.transform import Transform
from ndcass.server.volume_params import parse_volume
from ndcass.volume import INLINE_BYTES, plan_answer, read_small, source_bytes, stream_slabs

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_.-]")

Voxels = npt.NDArray[Any]  # which type is only known at run time


async def read_cutout(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a box in the format of the URL."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    check_channels(cutout, match.service)
    if _is_small(request, match, cutout):
        return await _send_small(request, match, cutout)
    if match.service == "jpeg":  # shows the first channel only
        cutout = cutout._replace(places=cutout.places[:1])
    exchange_of(request).usage.check_source(
        source_bytes(cutout.places, cutout.box, len(cutout.times))
    )
    transforms = [
        Transform.of(place.channel if place is not None else cutout.first, cutout.params)
        for place in cutout.places
    ]
    if match.service in STREAMED:
        return await _send_stream(request, match, cutout, transforms[0])
    return await _send_whole(request, match, cutout, transforms)


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
    await note_cutout(request, cutout)
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


async def _send_stream(
    request: web.Request, match: Match, cutout: Cutout, transform: Transform
) -> web.StreamResponse:
    dtype = cutout.first.dtype
    layout = cutout.layout(transform.dtype(dtype))
    _check_size(layout.nbytes, request.app[SETTINGS].server.max_cutout_bytes)
    await note_cutout(request, cutout)
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
    pieces = encoded(encoder, voxels, None if transform.is_identity else transform.apply)
    async with request.app[MEMORY].hold(buffer_bytes(cutout)):
        return await send_pieces(
            request,
            pieces,
            content_type=encoder.content_type,
            headers=headers,
            length=encoder.length,
        )


def _encoding(request: web.Request, service: str) -> str | None:
    encoding = request.query.get("encoding")
    if encoding is None or service != "raw":
        return None
    if encoding not in ("gzip", "lz4"):
        raise InvalidOption(f"encoding={encoding[:80]} is unknown; known are gzip, lz4")
    return encoding


def _encoder(service: str, layout: Layout) -> StreamEncoder:
    if service == "npz":
        return NpzEncoder(layout)
    if service == "tiff":
        return TiffEncoder(layout)
    return ZipEncoder() if service == "zip" else RawEncoder(layout)


async def _send_whole(
    request: web.Request, match: Match, cutout: Cutout, transforms: Sequence[Transform]
) -> web.StreamResponse:
    stored = [(place.channel if place else cutout.first).dtype for place in cutout.places]
    sent = [transform.dtype(dtype) for transform, dtype in zip(transforms, stored, strict=True)]
    if match.service == "jpeg":
        *counts, columns = cutout.shape
        check_jpeg(math.prod(counts), columns, sent[0])
    elif match.service == "diff":
        sent = [DIFF_DTYPE] * len(sent)
    size = math.prod(cutout.shape) * max(dtype.itemsize for dtype in sent)
    _check_size(size, request.app[SETTINGS].server.max_whole_bytes)
    await note_cutout(request, cutout)
    async with request.app[MEMORY].hold(WHOLE_MEMORY * size):
        arrays = [
            await run_cpu(transform.apply, await _read_whole(request, cutout, place))
            for place, transform in zip(cutout.places, transforms, strict=True)
        ]
        body, content_type, suffix = await run_cpu(_whole, match.service, cutout, arrays)

        async def pieces() -> Pieces:
            yield body

        return await send_pieces(
            request,
            pieces(),
            content_type=content_type,
            headers=_headers(match, cutout, suffix),
            length=len(body),
        )


def _whole(service: str, cutout: Cutout, arrays: Sequence[Voxels]) -> tuple[bytes, str, str]:
    """A body, its Content-Type and the suffix of its file."""
    if service == HDF5:
        return encode_hdf5(cutout.layout(arrays[0].dtype), arrays), "product/hdf5", "h5"
    if service == "jpeg":
        return encode_jpeg(arrays[0]), jpeg.CONTENT_TYPE, "jpeg"
    if service == "diff":
        arrays = [differences(array) for array in arrays]
    return encode_blosc(np.stack(arrays)), blosc.CONTENT_TYPE, "blosc"


async def _read_whole(request: web.Request, cutout: Cutout, place: Place | None) -> Voxels:
    """All voxels of one channel, of shape ([t,] z, y, x)."""
    dtype = (place.channel if place else cutout.first).dtype
    out = np.empty((len(cutout.times), *cutout.box.shape_zyx), dtype=dtype)
    slabs = plan_answer(
        [place], cutout.times, cutout.box, cuboid_zyx=cutout.level.cuboid_zyx, dtype=dtype
    )
    flat = out.reshape(-1)
    at = 0
    store, usage = request.app[STORES].cuboids, exchange_of(request).usage
    async with contextlib.aclosing(stream_slabs(store, slabs, dtype=dtype, usage=usage)) as voxels:
        async for slab in voxels:
            flat[at : at + slab.size] = slab
            at += slab.size
    return out if cutout.params.times is not None else out[0]


def _headers(match: Match, cutout: Cutout, suffix: str | None) -> dict[str, str]:
    """Content-Disposition as old clients know it: the path from the token on, made a file name."""
    if suffix is None:
        return {}
    path = f"{match.token}/{','.join(cutout.names)}/{match.service}/{match.tail}"
    name = _NO_FILE_NAME.sub("", path.replace(",", "_").replace("/", "-"))[:200]
    return {"Content-Disposition": f"attachment; filename={name}ndcutout.{suffix}"}
