"""Slices: xy, xz and yz planes of one channel as PNG, and of several in a colour each."""

from aiohttp import web

from ndcass.drawing import Style, stretched_height
from ndcass.server.access import open_token
from ndcass.server.cutout import Cutout, resolve
from ndcass.server.match import Match
from ndcass.server.pictures import in_colours, layers_of, send_picture, slice_drawing
from ndcass.server.volume_params import parse_plane


async def read_slice(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a plane as a picture."""
    cutout = await _cutout(request, match)
    return await send_picture(request, slice_drawing(cutout, match.service), "slice")


async def read_false_colour(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a plane of several channels, each in the colour of its place."""
    cutout = await _cutout(request, match)
    layers = layers_of(cutout, match.service, style=Style.INTENSITY)
    height = stretched_height(match.service, cutout.level, cutout.box)
    return await send_picture(
        request, in_colours(layers, [None] * len(layers), height=height), "slice"
    )


async def _cutout(request: web.Request, match: Match) -> Cutout:
    view = await open_token(request, match.token, write=False)
    return resolve(view, match.channels, parse_plane(match.service, match.tail))
