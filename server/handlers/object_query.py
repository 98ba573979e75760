"""Questions about annotation objects, and changes of single fields."""

import csv
import io
from collections.abc import Sequence

import numpy as np
from aiohttp import web

from ndcass import annotation, object_writes, objects
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, NotFound, TooLarge
from ndcass.model import Channel, TokenView
from ndcass.objects import Query
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import channel_of
from ndcass.server.formats import posted_objects, ramon_hdf5
from ndcass.server.formats.ramon_hdf5 import ObjectFile
from ndcass.server.handlers.annotation import html_text, listed_ids
from ndcass.server.match import Match
from ndcass.server.object_data import BOUNDING_BOX, Data, parse_level, read_data
from ndcass.server.streaming import whole_body
from ndcass.server.volume_params import parse_volume
from ndcass.shared_voxels import MAX_SHARED, shared_in_box

# A file that names a region.
MAX_REGION_BYTES = 1 << 20
# What a voxel of several objects takes: coordinates and a few ids, twice.
SHARED_BYTES = 96


async def query(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the ids of the objects that meet some predicates."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    asked = objects.parse_query([word for word in match.tail.split("/") if word])
    ids = await objects.find_objects(request.app[STORES], channel, asked)
    return await _ids_file(ids)


async def query_region(request: web.Request, match: Match) -> web.StreamResponse:
    """POST a region: the ids of the objects that meet some predicates and have a voxel in it."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    asked = objects.parse_query([word for word in match.tail.split("/") if word])
    objects.check_annotation(channel)
    body = await whole_body(request, "region", limit_bytes=MAX_REGION_BYTES)
    level, box = await run_cpu(posted_objects.decode_region, body)
    stored = view.level(level).stored_box(box)
    size, limit = stored.voxels * channel.dtype.itemsize, request.app[SETTINGS].server
    if size > limit.max_cutout_bytes:
        raise TooLarge("region", asked=size, limit=limit.max_cutout_bytes)
    stores = request.app[STORES]
    found = await objects.find_objects(stores, channel, Query(asked.predicates))
    there = await annotation.labels_in_box(stores, view, channel, level, stored)
    ids = np.intersect1d(np.array(found, dtype=np.uint64), there.astype(np.uint64)).tolist()
    return await _ids_file(ids if asked.limit is None else ids[: asked.limit])


async def _ids_file(ids: Sequence[int]) -> web.Response:
    body = await run_cpu(ramon_hdf5.encode_ids, ids)
    return web.Response(body=body, content_type=ramon_hdf5.CONTENT_TYPE)


async def read_field(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a field of an object as text."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    name = match.names["field"]
    object_id = int(match.names["object"])
    return html_text(await objects.read_field(request.app[STORES], channel, object_id, name))


async def set_field(request: web.Request, match: Match) -> web.StreamResponse:
    """Set a field of an object; old clients GET what changes it."""
    view = await open_token(request, match.token, write=True)
    channel = channel_of(view, match.names["channel"])
    name, value = match.names["field"], match.names["value"]
    object_id = int(match.names["object"])
    await objects.set_field(request.app[STORES], channel, object_id, name, value)
    return _uncached("")


async def merge(request: web.Request, match: Match) -> web.StreamResponse:
    """Give the voxels of objects to the first of them; old clients GET what changes them."""
    view = await open_token(request, match.token, write=True)
    channel = channel_of(view, match.names["channel"])
    ids = listed_ids(match.names["ids"])
    if match.names.get("level") is not None:
        parse_level(view, match.names["level"])
    await object_writes.merge_objects(request.app[STORES], view, channel, ids)
    return _uncached(f"Merged Id's [{' '.join(map(str, ids))}] into {ids[0]}")


def _uncached(text: str) -> web.Response:
    response = html_text(text)
    response.headers["Cache-Control"] = "no-store"
    return response


async def read_csv(request: web.Request, match: Match) -> web.StreamResponse:
    """GET an object as lines of name and value, with the box around it."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names.get("channel") or "default")
    level = parse_level(view, match.names["level"])
    stores = request.app[STORES]
    item = await objects.read_object(stores, channel, int(match.names["object"]))
    shown = [ObjectFile(item, await objects.relations(stores, channel, item))]
    async with read_data(request, view, channel, shown, Data(BOUNDING_BOX, level)) as filled:
        body = await run_cpu(ramon_hdf5.encode_objects, filled, dtype=channel.dtype)
    rows = await run_cpu(ramon_hdf5.flat_rows, body)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return html_text(text.getvalue())


async def read_exceptions(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the voxels of a box that belong to several objects, each with all their ids.

    Without a channel in the path it is answered as the original did: counted from zero, and of all
    cuboids that the box touches.
    """
    view = await open_token(request, match.token, write=False)
    named = match.names.get("channel")
    channel = channel_of(view, named or "default")
    rows = await _exception_rows(request, view, channel, match.tail, clipped=named is not None)
    body = await run_cpu(ramon_hdf5.encode_exceptions, rows)
    return web.Response(body=body, content_type=ramon_hdf5.CONTENT_TYPE)


async def _exception_rows(
    request: web.Request, view: TokenView, channel: Channel, tail: str, *, clipped: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    if not channel.is_annotation or not channel.exceptions:
        raise InvalidRequest(f"channel {channel.channel_name} keeps no exceptions")
    params = parse_volume(tail)
    level = view.level(params.level)
    box = level.stored_box(params.box)
    size = box.voxels * channel.dtype.itemsize
    limit = request.app[SETTINGS].server.max_cutout_bytes
    if size > limit:
        raise TooLarge("box", asked=size, limit=limit)
    if params.level < channel.resolution:
        raise NotFound(f"channel {channel.channel_name} has nothing stored at that level")
    async with request.app[MEMORY].hold(MAX_SHARED * SHARED_BYTES):
        rows = await shared_in_box(request.app[STORES], channel, level, box, clipped=clipped)
        if clipped:
            z, y, x = level.offset_zyx
            rows[:, :3] += np.array((x, y, z), dtype=np.uint64)
        return rows
