"""Projections: the least or greatest voxel along one axis of a box, as PNG."""

from aiohttp import web

from ndcass.drawing import Drawing, Extreme
from ndcass.server.access import open_token
from ndcass.server.cutout import resolve
from ndcass.server.match import Match
from ndcass.server.pictures import layers_of, one_layer, send_picture
from ndcass.server.volume_params import parse_volume


async def read_minproj(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the least voxels of a box."""
    return await _read(request, match, Extreme.LEAST)


async def read_maxproj(request: web.Request, match: Match) -> web.StreamResponse:
    """GET the greatest voxels of a box."""
    return await _read(request, match, Extreme.GREATEST)


async def _read(request: web.Request, match: Match, extreme: Extreme) -> web.StreamResponse:
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, match.channels, parse_volume(match.tail))
    layer = one_layer(layers_of(cutout, match.service, extreme=extreme), "projection")
    return await send_picture(request, Drawing((layer,)), "projection")
