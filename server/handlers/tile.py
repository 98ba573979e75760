"""Tiles of 512 x 512 pixels for CATMAID and Viking."""

from collections.abc import Sequence

from aiohttp import web

from ndcass.drawing import Drawing, Extreme, Style
from ndcass.errors import InvalidRequest, NotFound
from ndcass.geometry import Level
from ndcass.model import TokenView
from ndcass.server.access import open_token
from ndcass.server.cutout import Cutout, resolve
from ndcass.server.match import Match
from ndcass.server.pictures import in_colours, layers_of, one_layer, send_picture
from ndcass.server.tile_params import TileParams, parse_tile, parse_viking
from ndcass.server.volume_params import VolumeParams
from ndcass.tile import Tile, xy_tile, xz_tile, yz_tile

# More slices than any level has.
_MOST_AROUND = 1 << 62


async def read_tile(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a tile of one channel."""
    return await _send_tile(request, match, match.service, parse_tile(match.tail))


async def read_viking_tile(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a tile of one channel by the name that Viking has for it."""
    return await _send_tile(request, match, "xy", parse_viking(match.tail))


async def _send_tile(
    request: web.Request, match: Match, plane: str, params: TileParams
) -> web.StreamResponse:
    view = await open_token(request, match.token, write=False)
    tile = _tile(view.level(params.level), plane, params)
    cutout = _cutout(view, (match.names["channel"],), params, tile)
    layer = one_layer(layers_of(cutout, plane), "tile")
    return await send_picture(request, Drawing((layer,), tile=tile), "tile")


async def read_false_colour_tile(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a tile of several channels in a colour each, all of them windowed."""
    plane, params = match.service, parse_tile(match.tail)
    named = [name.partition(":") for name in match.names["colours"].split(",")]
    names = [name for name, _, _ in named]
    if "" in names:
        raise InvalidRequest("the list of channels has an empty name in it")
    letters = [letter if colon else None for _, colon, letter in named]
    view = await open_token(request, match.token, write=False)
    tile = _tile(view.level(params.level), plane, params)
    layers = layers_of(_cutout(view, names, params, tile), plane, style=Style.WINDOWED)
    return await send_picture(request, in_colours(layers, letters, tile=tile), "tile")


async def read_projected_tile(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a tile of the greatest voxels of some slices before and behind one."""
    params = parse_tile(match.tail)
    width = min(int(match.names["slices"] or 0), _MOST_AROUND)
    view = await open_token(request, match.token, write=False)
    level = view.level(params.level)
    tile = xy_tile(level, params.coordinate, params.row, params.column, around=width)
    cutout = _cutout(view, (match.names["channel"],), params, tile)
    layer = one_layer(layers_of(cutout, "xy", extreme=Extreme.GREATEST), "tile")
    return await send_picture(request, Drawing((layer,), tile=tile), "tile")


async def refuse_filter_tile(request: web.Request, match: Match) -> web.StreamResponse:
    """GET of a kind of tiles that was planned and never made."""
    raise NotFound("there are no tiles below filter/: put filter/IDS/ behind the plane of a tile")


def _tile(level: Level, plane: str, params: TileParams) -> Tile:
    if plane == "xy":
        return xy_tile(level, params.coordinate, params.row, params.column)
    make = xz_tile if plane == "xz" else yz_tile
    return make(level, params.coordinate, params.row, params.column)


def _cutout(view: TokenView, names: Sequence[str], params: TileParams, tile: Tile) -> Cutout:
    """The box of a tile as a request for it would be resolved."""
    times = None if params.t is None else (params.t, params.t + 1)
    box = VolumeParams(
        level=params.level,
        box=tile.box,
        times=times,
        neariso=False,
        window=None,
        filter_ids=params.filter_ids,
        rest="",
    )
    return resolve(view, names, box)
