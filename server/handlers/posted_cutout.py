"""POST a cutout: boxes of one or more channels, written as they arrive where the format allows."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, InvalidRequest, NotFound
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.propagation import check_unlocked
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import (
    HDF5,
    STREAMED,
    WHOLE_MEMORY,
    ZERO_CHANNEL,
    Cutout,
    check_channels,
    resolve,
    write_op_for,
)
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.base import Layout, StreamDecoder
from ndcass.server.formats.blosc import decode_blosc
from ndcass.server.formats.encodings import decoding
from ndcass.server.formats.hdf5 import decode_hdf5
from ndcass.server.formats.npz import NpzDecoder
from ndcass.server.formats.pickled import escaping_bytes
from ndcass.server.formats.raw import RawDecoder
from ndcass.server.intake import goes_past_aiohttp
from ndcass.server.match import Match
from ndcass.server.streaming import OVERHEAD_SHARE, Body, receive, receive_plain
from ndcass.server.volume_params import parse_volume
from ndcass.writer import BodyWriter, CutoutWriter, check_writable, cutout_writer

_DTYPE_NAME = re.compile(r"[<>|=]?[a-z]{1,8}[0-9]{1,3}")
# A pickle of Python 2 is text: up to two bytes a voxel where it does not compress.
BLOSC_SHARE = 1.0

Voxels = npt.NDArray[Any]  # which type is only known at run time


async def write_cutout(request: web.Request, match: Match) -> web.StreamResponse:
    """POST a box in the format of the URL; 200 means that it is on disk."""
    service = "blosc" if match.service == "blaze" else match.service
    view = await open_token(request, match.token, write=True)
    params = parse_volume(match.tail)
    if params.times == (0, 0):  # how an old client says that it has no time axis (data plane 2.3)
        params = params._replace(times=None)
    cutout = resolve(view, match.channels, params, write=True)
    places = [place for place in cutout.places if place is not None]
    if len(places) != len(cutout.places):
        raise NotFound(f"no channel {ZERO_CHANNEL}")
    if service == "raw":
        _check_raw_type(request, cutout.first)
    for place in places:
        check_writable(place.channel)
        await check_unlocked(request.app[STORES], place.channel)
    check_channels(cutout, service)
    option = request.query.get("write")
    ops = {write_op_for(place.channel, option, params.words) for place in places}
    if len(ops) > 1:
        raise InvalidRequest("a conflict word goes with channels of one type only")
    (op,) = ops
    layout = cutout.layout()
    size = math.prod(layout.shape) * _itemsize(places)
    limit = request.app[SETTINGS].server.max_body_bytes
    share = BLOSC_SHARE if service == "blosc" else OVERHEAD_SHARE
    body = Body.of(request, size, limit=limit, share=share)
    usage = exchange_of(request).usage
    async with cutout_writer(request.app[STORES], op=op, usage=usage) as writer:
        if service in STREAMED:
            decoder = decoding(body.encoding, _decoder(service, layout))
            compressed = service != "raw" or body.encoding is not None
            async with (
                request.app[MEMORY].hold(
                    BodyWriter.buffer_bytes(places[0], cutout.box, len(places) * len(cutout.times))
                ),
                BodyWriter(writer, places, cutout.times, cutout.box) as voxels,
            ):
                if not compressed and goes_past_aiohttp(request, size):
                    await receive_plain(request, size, voxels)
                else:
                    await receive(request, body, decoder, voxels.feed, in_thread=compressed)
                await voxels.finish()
        else:
            escaping = escaping_bytes(size) if service == "blosc" else 0
            async with request.app[MEMORY].hold(WHOLE_MEMORY * size + escaping):
                arrays = await _receive_whole(request, service, body, layout, cutout)
                await _write_arrays(writer, places, cutout, arrays)
        await writer.commit()
    return web.Response(body=b"Success", headers={"Content-Type": "text/html"})


def _decoder(service: str, layout: Layout) -> StreamDecoder:
    return NpzDecoder(layout) if service == "npz" else RawDecoder(layout)


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


async def _receive_whole(
    request: web.Request, service: str, body: Body, layout: Layout, cutout: Cutout
) -> list[Voxels]:
    """One array a channel, of shape (t, z, y, x)."""
    raw = await body.read(request)
    shape = (len(cutout.times), *cutout.box.shape_zyx)
    if service == HDF5:
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
