"""Information about what a token leads to, and the reservation of object ids."""

import json
import re

import numpy as np
from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, Malformed, NotFound
from ndcass.server.access import open_token
from ndcass.server.app_keys import STORES
from ndcass.server.descriptions import channels_document, info_document, projinfo, viking_xml
from ndcass.server.match import Match
from ndcass.writer import check_writable

# Ids are labels of voxels, and those have 32 bits in most channels.
MAX_RESERVED = (1 << 32) - 1
_COUNT = re.compile(r"-?[0-9]{1,20}")
_SCHEMES = frozenset({"http", "https"})


async def read_info(request: web.Request, match: Match) -> web.Response:
    """GET everything about a project as JSON."""
    view = await open_token(request, match.token, write=False)
    return _json(info_document(view))


async def read_channel_info(request: web.Request, match: Match) -> web.Response:
    """GET the channels of a project as JSON."""
    view = await open_token(request, match.token, write=False)
    return _json(channels_document(view))


async def read_projinfo(request: web.Request, match: Match) -> web.Response:
    """GET everything about a project as HDF5."""
    view = await open_token(request, match.token, write=False)
    return web.Response(body=await run_cpu(projinfo, view), content_type="product/hdf5")


async def read_viking_xml(request: web.Request, match: Match) -> web.Response:
    """GET what the viewer Viking needs to know."""
    view = await open_token(request, match.token, write=False)
    tile_host = f"{_base_url(request)}/nd/tilecache/viking/"
    body = await run_cpu(viking_xml, view, tile_host=tile_host)
    return web.Response(body=body, content_type="application/xml")


async def reserve_ids(request: web.Request, match: Match) -> web.Response:
    """Reserve object ids that nobody has; old clients GET what changes something."""
    view = await open_token(request, match.token, write=True)
    name, count = match.names["channel"], _count(match.names["count"])
    channel = view.channel(name)
    if channel is None:
        raise NotFound(f"token {match.token} has no channel {name[:80]}")
    if not channel.is_annotation:
        raise InvalidRequest(f"channel {name} is no annotation channel: it has no ids")
    check_writable(channel)
    if not 1 <= count <= MAX_RESERVED:
        raise Malformed(f"{count} ids: from 1 to {MAX_RESERVED} may be reserved at once")
    most = int(np.iinfo(channel.dtype).max)
    first = await request.app[STORES].catalog.reserve_ids(channel.id, count, most=most)
    return web.Response(text=json.dumps([first, count]), content_type="application/json")


def _count(text: str) -> int:
    """How many ids; InvalidRequest if that is no whole number."""
    if not _COUNT.fullmatch(text):
        raise InvalidRequest(f"{text[:80]!r} is no number of ids")
    return int(text)


def _json(document: object) -> web.Response:
    text = json.dumps(document, sort_keys=True, indent=4)
    return web.Response(text=text, content_type="application/json")


def _base_url(request: web.Request) -> str:
    """How the client reached us, as far as it or the proxy between says so."""
    scheme = request.headers.get("X-Forwarded-Proto", "")
    return f"{scheme if scheme in _SCHEMES else request.scheme}://{request.host}"
