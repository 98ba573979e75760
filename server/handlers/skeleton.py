"""Skeletons as SWC, and graphs of what synapses join."""

import re

from aiohttp import web

from ndcass import connectome, skeletons
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, Malformed, TooLarge
from ndcass.geometry import Box
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import channel_of
from ndcass.server.formats import graph
from ndcass.server.handlers.annotation import html_text, listed_ids
from ndcass.server.match import Match
from ndcass.server.streaming import whole_body
from ndcass.swc import parse_swc

SWC_TYPE = "product/swc"
MAX_SWC_BYTES = 64 << 20
# What a byte of a file takes as nodes and objects.
SWC_SHARE = 20

_NUMBER = r"([0-9]{1,19})"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}/?\Z")
_WORD = re.compile(r"\w{1,40}", re.ASCII)


async def read_swc(request: web.Request, match: Match) -> web.StreamResponse:
    """GET some skeletons, or all of a channel, as one file."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    ids = match.names.get("ids")
    text = await skeletons.skeletons_text(
        request.app[STORES], view, channel, None if ids is None else listed_ids(ids)
    )
    name = f"{match.token}-{channel.channel_name}.swc"
    headers = {"Content-Disposition": f"attachment; filename={name}"}
    return web.Response(body=text.encode(), content_type=SWC_TYPE, headers=headers)


async def write_swc(request: web.Request, match: Match) -> web.StreamResponse:
    """POST a file: a skeleton a root, an object a node; the answer has the ids of the skeletons."""
    view = await open_token(request, match.token, write=True)
    channel = channel_of(view, match.names["channel"])
    length = request.content_length
    most = MAX_SWC_BYTES if length is None else min(length, MAX_SWC_BYTES)
    async with request.app[MEMORY].hold(SWC_SHARE * most):
        body = await whole_body(request, "SWC file", limit_bytes=MAX_SWC_BYTES)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = body.decode("latin-1")  # comments of any program
        swc = await run_cpu(parse_swc, text)
        ids = await skeletons.create_skeletons(request.app[STORES], channel, swc)
    return html_text(",".join(map(str, ids)))


async def read_graph(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the graph of the segments that synapses join, of a box or the whole channel."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    kind, _, tail = match.tail.partition("/")
    kind = kind.lower() or graph.DEFAULT
    if not _WORD.fullmatch(kind):
        raise Malformed(f"{kind[:40]!r} is no type of a graph")
    if kind in graph.REFUSED:
        raise Malformed(f"{kind} is not offered")
    level = view.level(min(channel.resolution, view.dataset.scalinglevels))
    asked = _box(tail)
    stored = None if asked is None else level.stored_box(asked)
    size = 0 if stored is None else stored.voxels * channel.dtype.itemsize
    limit = request.app[SETTINGS].server.max_cutout_bytes
    if size > limit:
        raise TooLarge("box", asked=size, limit=limit)
    edges = await connectome.synapse_edges(request.app[STORES], view, channel, stored)
    body = await run_cpu(graph.encode_graph, edges, kind)
    headers = {"Content-Disposition": f'attachment; filename="output.{kind}"'}
    return web.Response(body=body, content_type="text/plain", headers=headers)


def _box(tail: str) -> Box | None:
    """A box as the URL has it, None for the whole image: nothing, or six zeros."""
    if not tail:
        return None
    match = _BOX.match(tail)
    if match is None:
        raise InvalidRequest(f"{tail[:80]!r} is no box: x0,x1/y0,y1/z0,z1")
    x0, x1, y0, y1, z0, z1 = map(int, match.groups())
    if not any((x0, x1, y0, y1, z0, z1)):
        return None
    return Box((z0, y0, x0), (z1, y1, x1))
