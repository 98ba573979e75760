"""The application ``ramon/``: objects as JSON, their boxes, ids by field, frequent fields."""

from typing import Any

from aiohttp import web

from ndcass import annotation, objects, ramon
from ndcass.errors import InvalidRequest
from ndcass.model import Channel, TokenView
from ndcass.objects import Query
from ndcass.ramon_text import parse_number
from ndcass.server.access import open_token
from ndcass.server.app_keys import STORES
from ndcass.server.cutout import channel_of
from ndcass.server.handlers.annotation import json_response
from ndcass.server.match import Match
from ndcass.server.object_data import parse_level

DEFAULT_KEYS = 10
MAX_KEYS = 10_000


async def read_object(request: web.Request, match: Match) -> web.StreamResponse:
    """GET an object as flat JSON."""
    _, _, flat, _ = await _object(request, match)
    return json_response(flat)


async def read_box(request: web.Request, match: Match) -> web.StreamResponse:
    """GET an object as flat JSON, with the box around its voxels (dataset coordinates)."""
    view, channel, flat, item = await _object(request, match)
    stores = request.app[STORES]
    level = min(channel.resolution, view.dataset.scalinglevels)
    if match.names.get("level") is not None:
        level = parse_level(view, match.names["level"])
    labels = await objects.labels_of(stores, channel, item)
    box = await annotation.object_box(stores, view, channel, labels, level)
    flat["bbcorner"] = flat["bbdim"] = None
    if box is not None:
        shifted = box.shifted(view.level(level).offset_zyx)
        flat["bbcorner"] = list(shifted.start_zyx[::-1])
        flat["bbdim"] = list(box.shape_zyx[::-1])
    return json_response(flat)


async def query(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the ids of the objects that have a value under a stored key."""
    _, channel = await _channel(request, match)
    predicate = objects.equality(match.names["field"], match.names["value"])
    ids = await objects.find_objects(request.app[STORES], channel, Query([predicate]))
    return json_response(list(ids))


async def read_top_keys(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the stored keys that most values have, of all objects or those of a type."""
    _, channel = await _channel(request, match)
    kind = match.names.get("kind")
    count = match.names.get("count")
    most = DEFAULT_KEYS if count is None else parse_number(count, "how many keys")
    if not isinstance(most, int) or not 0 <= most <= MAX_KEYS:
        raise InvalidRequest(f"{most} keys: at most {MAX_KEYS} are listed")
    keys = await objects.frequent_keys(
        request.app[STORES], channel, most=most, kind=None if kind is None else int(kind)
    )
    return json_response([[key] for key in keys])


async def _channel(request: web.Request, match: Match) -> tuple[TokenView, Channel]:
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    objects.check_annotation(channel)
    return view, channel


async def _object(
    request: web.Request, match: Match
) -> tuple[TokenView, Channel, dict[str, Any], ramon.RamonObject]:
    """What the path names, and its flat form, which holds whatever JSON does."""
    view, channel = await _channel(request, match)
    item = await objects.read_object(request.app[STORES], channel, int(match.names["object"]))
    return view, channel, ramon.stored_fields(item), item
