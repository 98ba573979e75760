"""Annotation objects as HDF5 and JSON: POST, GET, DELETE."""

import json
from collections.abc import Sequence

from aiohttp import web

from ndcass import object_writes, ramon
from ndcass.concurrency import bounded_map, run_cpu
from ndcass.errors import BadBody, InvalidRequest, Malformed, TooLarge
from ndcass.merge import WriteOp
from ndcass.model import Channel, TokenView
from ndcass.object_writes import PostedObject
from ndcass.objects import check_annotation, read_objects, relations
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import channel_of
from ndcass.server.exchange import exchange_of
from ndcass.server.formats import posted_objects, ramon_hdf5
from ndcass.server.formats.ramon_hdf5 import ObjectFile
from ndcass.server.match import Match
from ndcass.server.object_data import parse_data, read_data
from ndcass.server.params import json_body
from ndcass.server.streaming import Pieces, send_pieces, whole_body
from ndcass.writer import check_writable

# Words of a POST, which may come in any order; those that say nothing of their own are let through.
_JSON, _UPDATE, _DATA_ONLY, _REDUCE = "json", "update", "dataonly", "reduce"
_CONFLICT = {"preserve": WriteOp.PRESERVE, "exception": WriteOp.EXCEPTION}
# A body without a length is taken for this long at most.
UNANNOUNCED_BYTES = 64 << 20
# Objects whose relations are looked up at once.
RELATIONS_AT_ONCE = 8


async def write_objects(request: web.Request, match: Match) -> web.StreamResponse:
    """POST objects: make, replace or add to them, as the words of the path say."""
    view = await open_token(request, match.token, write=True)
    channel = channel_of(view, match.names["channel"])
    check_annotation(channel)
    check_writable(channel)
    words = frozenset((match.names.get("words") or "").split("/"))
    if {_UPDATE, _DATA_ONLY} <= words:
        raise InvalidRequest("update and dataonly exclude each other")
    if _JSON in words:
        return await _write_json(request, view, channel, words)
    limits = request.app[SETTINGS].server
    length = request.content_length
    most = min(limits.max_body_bytes, UNANNOUNCED_BYTES) if length is None else length
    async with request.app[MEMORY].hold(min(most, limits.max_body_bytes)):
        limit = limits.max_body_bytes if length is not None else most
        body = await whole_body(request, "file of objects", limit_bytes=limit)
        size = await run_cpu(posted_objects.voxel_bytes, body)
    if size > limits.max_cutout_bytes:
        raise TooLarge("voxels of the objects", asked=size, limit=limits.max_cutout_bytes)
    # Once more and together: whoever waited for the second with the first in hand, and others the
    # same, could wait for ever.
    async with request.app[MEMORY].hold(len(body) + size):
        posted = await run_cpu(
            posted_objects.decode_objects,
            body,
            base_level=channel.resolution,
            offset_of=lambda level: view.level(level).offset_zyx,
        )
        ids = await _carry_out(request, view, channel, posted, words)
    return html_text(",".join(map(str, ids)))


async def _write_json(
    request: web.Request, view: TokenView, channel: Channel, words: frozenset[str]
) -> web.StreamResponse:
    """One object; what it is called in the body does not matter."""
    try:
        sent = await json_body(request)
    except BadBody as error:  # as bodies of HDF5 that are none
        raise Malformed(str(error)) from error
    if len(sent) != 1:
        raise InvalidRequest(f"the body has {len(sent)} objects; one is posted at a time")
    [(name, flat)] = sent.items()
    if not isinstance(flat, dict):
        raise Malformed("an object is a JSON object of its fields")
    posted = PostedObject(name, ramon.from_json(flat))
    ids = await _carry_out(request, view, channel, [posted], words & {_UPDATE})
    return html_text(",".join(map(str, ids)))


async def _carry_out(
    request: web.Request,
    view: TokenView,
    channel: Channel,
    posted: Sequence[PostedObject],
    words: frozenset[str],
) -> Sequence[int]:
    """Do what the words say; the ids that the answer names."""
    stores, usage = request.app[STORES], exchange_of(request).usage
    op = next((_CONFLICT[word] for word in _CONFLICT if word in words), WriteOp.MERGE)
    if _REDUCE in words:
        op = WriteOp.REDUCE
    if _REDUCE in words or _DATA_ONLY in words:
        await object_writes.write_voxels(stores, view, channel, posted, op, usage=usage)
        return []
    if _UPDATE in words:
        return await object_writes.update_objects(stores, view, channel, posted, op, usage=usage)
    return await object_writes.create_objects(stores, view, channel, posted, op, usage=usage)


async def get_objects(request: web.Request, match: Match) -> web.StreamResponse:
    """GET some objects, as HDF5 with the voxels that the path asks for, or as JSON."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    stores = request.app[STORES]
    items = await read_objects(stores, channel, listed_ids(match.names["ids"]))
    if match.tail.partition("/")[0] == _JSON:
        return json_response({str(item.id): ramon.stored_fields(item) for item in items})
    data = parse_data(view, match.tail)
    links = await bounded_map(
        lambda item: relations(stores, channel, item), items, limit=RELATIONS_AT_ONCE
    )
    shown = [ObjectFile(item, link) for item, link in zip(items, links, strict=True)]
    async with read_data(request, view, channel, shown, data) as filled:
        body = await run_cpu(ramon_hdf5.encode_objects, filled, dtype=channel.dtype)

        async def pieces() -> Pieces:
            yield body

        return await send_pieces(
            request,
            pieces(),
            content_type=ramon_hdf5.CONTENT_TYPE,
            headers={},
            length=len(body),
        )


async def delete_objects(request: web.Request, match: Match) -> web.StreamResponse:
    """DELETE some objects and every voxel that has their label."""
    view = await open_token(request, match.token, write=True)
    channel = channel_of(view, match.names["channel"])
    ids = listed_ids(match.names["ids"])
    await object_writes.delete_objects(request.app[STORES], view, channel, ids)
    return html_text("Success")


def listed_ids(text: str) -> list[int]:
    """The ids of a list, without empty items; InvalidRequest if one is none, or none is left."""
    items = [item for item in text.split(",") if item]
    if not items or any(len(item) > posted_objects.MAX_ID_DIGITS for item in items):
        raise InvalidRequest(f"{text[:80]!r} is no list of ids")
    return [int(item) for item in items]


def html_text(text: str) -> web.Response:
    """A text as the clients of the original get all of them."""
    return web.Response(text=text, content_type="text/html", charset="utf-8")


def json_response(document: object) -> web.Response:
    """Whatever JSON can hold."""
    return web.Response(text=json.dumps(document), content_type="application/json")
