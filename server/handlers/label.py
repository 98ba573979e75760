"""Labels of an annotation channel: the one at a voxel, all of a box, some as a picture."""

import contextlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.drawing import Drawing
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.model import Channel
from ndcass.objects import as_object, related
from ndcass.place import reading_place
from ndcass.ramon import ObjectType
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import buffer_bytes, channel_of, resolve
from ndcass.server.exchange import exchange_of
from ndcass.server.freshness import note_boxes, note_cutout
from ndcass.server.match import Match
from ndcass.server.pictures import send_picture, slice_drawing
from ndcass.server.transform import Transform, Voxels
from ndcass.server.volume_params import filter_ids, parse_plane, parse_volume, parse_voxel
from ndcass.volume import plan_answer, read_box, source_bytes, stream_slabs

# Of one answer; as text it may take 20 bytes a label.
MAX_LABELS = 1 << 21


async def read_id(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the label at one voxel, 0 if there is none."""
    view = await open_token(request, match.token, write=False)
    params = parse_voxel(match.tail)
    channel = _one_annotation(channel_of(view, name) for name in match.channels or ("default",))
    # A pyramid that is not complete yet knows nothing of a voxel that the base has.
    place = reading_place(view, channel, params.level, unfinished=False)
    box = place.level.stored_box(params.box)
    await note_boxes(request, [(place, [channel.starttime], box)])
    voxels = await read_box(
        request.app[STORES].cuboids,
        place,
        channel.starttime,
        box,
        usage=exchange_of(request).usage,
    )
    return _text(str(voxels.item()))


async def read_ids(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the labels in a box, ascending, with a comma and a space between them."""
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    channel = _one_annotation(place.channel if place else None for place in cutout.places)
    transform = Transform.of(channel, cutout.params._replace(window=None))
    usage = exchange_of(request).usage
    usage.check_source(source_bytes(cutout.places, cutout.box, len(cutout.times)))
    size = cutout.box.voxels * len(cutout.times) * channel.dtype.itemsize
    limit = request.app[SETTINGS].server.max_cutout_bytes
    if size > limit:
        raise TooLarge("box", asked=size, limit=limit)
    await note_cutout(request, cutout)
    slabs = plan_answer(
        cutout.places,
        cutout.times,
        cutout.box,
        cuboid_zyx=cutout.level.cuboid_zyx,
        dtype=channel.dtype,
    )
    found = np.empty(0, dtype=channel.dtype)
    store = request.app[STORES].cuboids
    voxels = stream_slabs(store, slabs, dtype=channel.dtype, usage=usage)
    # Sorting takes a copy of each slab, and the labels so far come on top.
    async with request.app[MEMORY].hold(2 * buffer_bytes(cutout)), contextlib.aclosing(voxels):
        async for slab in voxels:
            found = await run_cpu(_joined, found, slab, transform)
            if len(found) > MAX_LABELS:
                raise TooLarge("labels", asked=len(found), limit=MAX_LABELS, unit="labels")
    return _text(", ".join(map(str, found.tolist())))


async def read_slice(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a plane on which only some labels are drawn."""
    view = await open_token(request, match.token, write=False)
    plane = match.service.removesuffix("anno")
    # Unlike other planes, these may go without a final slash (annotation plane 0.1).
    params = parse_plane(plane, f"{match.tail}/")._replace(
        filter_ids=filter_ids(match.names["ids"])
    )
    cutout = resolve(view, match.channels, params)
    drawing = slice_drawing(cutout, plane)
    return await send_picture(request, await _of_segments(request, drawing), "slice")


async def _of_segments(request: web.Request, drawing: Drawing) -> Drawing:
    """The picture of a neuron shows its segments, in the neuron's colour; others stay."""
    (layer,) = drawing.layers
    channel, ids = layer.place.channel, layer.keep_ids or ()
    if len(ids) != 1 or not channel.is_annotation:
        return drawing
    stores = request.app[STORES]
    found = await stores.objects.get(channel.id, ids)
    neurons = [item for item in map(as_object, found) if item.type is ObjectType.NEURON]
    if not neurons:
        return drawing
    segments = await related(stores, channel, neurons[0], "segments")
    shown = replace(layer, keep_ids=tuple(segments), shown_as=neurons[0].id)
    return replace(drawing, layers=(shown,))


def _joined(found: Voxels, slab: Voxels, transform: Transform) -> Voxels:
    """The labels found so far with those of a slab, ascending, without the background."""
    labels: Voxels = np.union1d(found, transform.apply(slab))
    return labels[np.flatnonzero(labels)]


def _one_annotation(channels: Iterable[Channel | None]) -> Channel:
    """The only channel of a request; InvalidRequest if it is not one annotation channel."""
    channel, *more = channels
    if channel is None or more:
        raise InvalidRequest("labels are read from exactly one channel")
    if not channel.is_annotation:
        raise InvalidRequest(f"channel {channel.channel_name} is no annotation channel")
    return channel


def _text(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8")
