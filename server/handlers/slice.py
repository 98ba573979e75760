"""Slices: xy, xz and yz planes of one channel as PNG."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass import picture
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.model import Channel
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import Cutout, resolve
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.png import encode_png
from ndcass.server.match import Match
from ndcass.server.volume_params import parse_plane, window_bounds
from ndcass.volume import read_box

RGBA_BYTES = 4


async def read_slice(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a plane as a picture."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_plane(match.service, match.tail))
    if len(cutout.places) != 1:
        raise InvalidRequest("a slice shows exactly one channel")
    channel = cutout.first
    size = max(
        math.prod(cutout.box.shape_zyx) * channel.dtype.itemsize,
        math.prod(_picture_shape(match.service, cutout)) * RGBA_BYTES,
    )
    limit = request.app[SETTINGS].server.max_slice_bytes
    if size > limit:
        raise TooLarge("slice", asked=size, limit=limit)
    window = None
    if cutout.params.window is not None:
        window = window_bounds(cutout.params.window, channel.channel_datatype)
    (place,) = cutout.places
    assert place is not None  # resolve() refuses a zero channel in first place
    (t,) = cutout.times
    async with request.app[MEMORY].hold(3 * size):
        voxels = await read_box(
            request.app[STORES].cuboids,
            place,
            channel.starttime if t is None else t,
            cutout.box,
            usage=exchange_of(request).usage,
        )
        body = await run_cpu(_png, match.service, channel, cutout, voxels, window)
    return web.Response(body=body, content_type="image/png")


def _png(
    plane: str,
    channel: Channel,
    cutout: Cutout,
    voxels: npt.NDArray[Any],  # which type is only known at run time
    window: tuple[float, float] | None,
) -> bytes:
    """The picture of a box that is one voxel thick on the third axis of `plane`."""
    flat = _flat(plane, voxels)
    keep = cutout.params.filter_ids
    if keep is not None:
        if not channel.is_annotation:
            raise InvalidRequest("filter works on annotation channels only")
        ids = np.array([i for i in keep if i <= np.iinfo(flat.dtype).max], dtype=flat.dtype)
        flat = np.where(np.isin(flat, ids), flat, flat.dtype.type(0))
    pixels = picture.slice_picture(
        flat,
        channel.channel_type,
        channel_window=(channel.startwindow, channel.endwindow),
        explicit_window=window,
    )
    height, _ = _picture_shape(plane, cutout)
    if height != pixels.shape[0]:
        pixels = picture.stretch(pixels, height)
    return encode_png(pixels)


def _picture_shape(plane: str, cutout: Cutout) -> tuple[int, int]:
    """Height and width in pixels; z runs downward and is stretched to the shape of a voxel."""
    depth, height, width = cutout.box.shape_zyx
    if plane == "xy":
        return height, width
    if plane == "xz":
        return picture.stretched_height(depth, cutout.level.xz_aspect), width
    return picture.stretched_height(depth, cutout.level.yz_aspect), height


def _flat(plane: str, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows and columns as the picture has them: z runs downward in xz and yz."""
    axis = {"xy": 0, "xz": 1, "yz": 2}[plane]
    flat: npt.NDArray[Any] = voxels.take(0, axis=axis)
    return flat
