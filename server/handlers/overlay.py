"""Overlays: a slice of one channel over a slice of another, each on this or another server."""

from typing import NamedTuple

from aiohttp import web

from ndcass import composite
from ndcass.concurrency import run_cpu
from ndcass.drawing import Drawing
from ndcass.picture import Picture
from ndcass.server import foreign
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS
from ndcass.server.cutout import resolve
from ndcass.server.formats.png import CONTENT_TYPE, encode_png
from ndcass.server.match import Match
from ndcass.server.pictures import check_size, note_drawings, read_planes, slice_drawing
from ndcass.server.volume_params import VolumeParams, parse_plane


class _Own(NamedTuple):
    """A layer of this server."""

    drawing: Drawing


class _Foreign(NamedTuple):
    """A layer of another server."""

    url: str
    token: str
    channel: str


async def read_overlay(request: web.Request, match: Match) -> web.StreamResponse:
    """GET one layer over another."""
    params = parse_plane(match.service, match.tail)
    first = await _layer(request, match, params, "first")
    second = await _layer(request, match, params, "second")
    limit = request.app[SETTINGS].server.max_slice_bytes
    own = [layer.drawing for layer in (first, second) if isinstance(layer, _Own)]
    await note_drawings(request, own)
    # Two pictures, what they make and the PNG of that; a foreign one may be as large as any.
    sizes = [drawing.plane_bytes for drawing in own] or [limit]
    async with request.app[MEMORY].hold(sum(d.memory_bytes for d in own) + 6 * max(sizes)):
        over = await _picture(request, match, params, first, limit)
        under = await _picture(request, match, params, second, limit)
        alpha = float(match.names["alpha"])
        body = await run_cpu(lambda: encode_png(composite.blended(over, under, alpha)))
    return web.Response(body=body, content_type=CONTENT_TYPE)


async def _layer(
    request: web.Request, match: Match, params: VolumeParams, which: str
) -> _Own | _Foreign:
    """One of the two layers; whoever asks must be allowed to see it."""
    server, token, channel = (
        match.names[f"{which}_{what}"] for what in ("server", "token", "channel")
    )
    settings = request.app[SETTINGS].pictures
    names = {request.host.lower(), *(name.lower() for name in settings.own_names)}
    if server.lower() not in names:
        return _Foreign(foreign.base_url(server, settings.overlay_servers), token, channel)
    view = await open_token(request, token, write=False)
    drawing = slice_drawing(resolve(view, (channel,), params), match.service)
    check_size(request, drawing, "slice")
    return _Own(drawing)


async def _picture(
    request: web.Request, match: Match, params: VolumeParams, layer: _Own | _Foreign, limit: int
) -> Picture:
    if isinstance(layer, _Own):
        planes = await read_planes(request, layer.drawing)
        return await run_cpu(layer.drawing.pixels, planes)
    return await foreign.fetch_slice(
        layer.url, layer.token, layer.channel, match.service, params, limit_bytes=limit
    )
