"""Synaptograms: the sections of a box of some channels as pictures in one JSON document."""

import base64
import json
import math
from typing import Any

from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.drawing import RGBA_BYTES, Layer, Voxels
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import MAX_VOLUMES, Cutout, resolve
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.png import encode_png
from ndcass.server.freshness import note_boxes
from ndcass.server.match import Match
from ndcass.server.pictures import layers_of
from ndcass.server.volume_params import parse_volume
from ndcass.volume import read_box


async def read_synaptogram(request: web.Request, match: Match) -> web.StreamResponse:
    """GET every section of a box as PNG; the plane in the path has no meaning."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    layers = layers_of(cutout, "xy")
    size = _check_size(request, cutout)
    shown_layers = [layer for layer in layers if layer is not None]
    await note_boxes(request, [(layer.place, (layer.t,), layer.box) for layer in shown_layers])
    shown: dict[str, Any] = {}  # whatever JSON can hold
    async with request.app[MEMORY].hold(3 * size):
        for name, layer in zip(cutout.names, layers, strict=True):
            if layer is None:
                raise InvalidRequest("a synaptogram has no zero channel")
            usage = exchange_of(request).usage
            store = request.app[STORES].cuboids
            voxels = await read_box(store, layer.place, layer.t, layer.box, usage=usage)
            shown[name] = await run_cpu(_sections, layer, voxels)
            shown[f"{name}.dtype"] = _dtype(layer)
        shown["shape"] = list(cutout.box.shape_zyx)
        return web.Response(
            body=await run_cpu(lambda: json.dumps(shown).encode()), content_type="application/json"
        )


def _check_size(request: web.Request, cutout: Cutout) -> int:
    """Bytes of all pixels; TooLarge if they, or the pictures, are too many."""
    sections = len(cutout.places) * cutout.box.shape_zyx[0]
    if sections > MAX_VOLUMES:
        raise TooLarge("synaptogram", asked=sections, limit=MAX_VOLUMES, unit="sections")
    itemsizes = [place.channel.dtype.itemsize for place in cutout.places if place is not None]
    size = len(cutout.places) * math.prod(cutout.box.shape_zyx) * max(RGBA_BYTES, *itemsizes)
    limit = request.app[SETTINGS].server.max_slice_bytes
    if size > limit:
        raise TooLarge("synaptogram", asked=size, limit=limit)
    return size


def _sections(layer: Layer, voxels: Voxels) -> list[str]:
    """Each section as a PNG in base64."""
    return [base64.b64encode(encode_png(layer.pixels(plane))).decode() for plane in voxels]


def _dtype(layer: Layer) -> str:
    """numpy's name of what the pixels were made of: bytes where a window was applied."""
    channel = layer.place.channel
    as_they_are = channel.is_annotation or channel.channel_datatype in ("uint8", "int8", "uint32")
    return channel.channel_datatype if as_they_are and layer.window is None else "uint8"
