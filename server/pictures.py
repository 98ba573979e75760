"""From requests for pictures to PNG: what slices, projections, tiles and overlays share."""

from collections.abc import Sequence

from aiohttp import web

from ndcass import composite
from ndcass.concurrency import run_cpu
from ndcass.drawing import Drawing, Extreme, Layer, Style, Voxels, stretched_height
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import Cutout
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.png import CONTENT_TYPE, encode_png
from ndcass.server.volume_params import window_bounds
from ndcass.tile import Tile
from ndcass.volume import Place


def layers_of(
    cutout: Cutout,
    plane: str,
    *,
    style: Style = Style.SLICE,
    extreme: Extreme | None = None,
) -> tuple[Layer | None, ...]:
    """What each channel of a request shows, the first timestep of it; None is the zero channel.

    Raises
    ------
    InvalidRequest
        If the window or the filter does not fit a channel.
    """
    t = cutout.times[0]
    return tuple(
        place and _layer(cutout, place, t, plane, style=style, extreme=extreme)
        for place in cutout.places
    )


def _layer(
    cutout: Cutout,
    place: Place,
    t: int | None,
    plane: str,
    *,
    style: Style,
    extreme: Extreme | None,
) -> Layer:
    params, channel = cutout.params, place.channel
    window = None
    if params.window is not None:
        window = window_bounds(params.window, channel.channel_datatype)
    return Layer(
        plane=plane,
        place=place,
        t=channel.starttime if t is None else t,
        box=cutout.box,
        style=style,
        extreme=extreme,
        window=window,
        keep_ids=params.filter_ids,
    )


def slice_drawing(cutout: Cutout, plane: str) -> Drawing:
    """The slice that a request asks for; InvalidRequest if it is not of exactly one channel."""
    layer = one_layer(layers_of(cutout, plane), "slice")
    return Drawing((layer,), height=stretched_height(plane, cutout.level, cutout.box))


def one_layer(layers: Sequence[Layer | None], what: str) -> Layer:
    """The only layer of a picture that shows one channel; InvalidRequest if there are more."""
    if len(layers) != 1 or layers[0] is None:
        raise InvalidRequest(f"a {what} shows exactly one channel")
    return layers[0]


def in_colours(
    layers: Sequence[Layer | None],
    letters: Sequence[str | None],
    *,
    height: int | None = None,
    tile: Tile | None = None,
) -> Drawing:
    """A picture of several channels in a colour each; `letters` has those that were asked for.

    Raises
    ------
    InvalidRequest
        If a letter is no colour, or there are more channels than colours.
    """
    colours = composite.colours_of(letters)
    shown = [(layer, colour) for layer, colour in zip(layers, colours, strict=True) if layer]
    return Drawing(
        tuple(layer for layer, _ in shown),
        colours=tuple(colour for _, colour in shown),
        height=height,
        tile=tile,
    )


async def send_picture(request: web.Request, drawing: Drawing, what: str) -> web.Response:
    """Draw a picture and send it as PNG; `what` it is called if it is too large."""
    check_size(request, drawing, what)
    async with request.app[MEMORY].hold(drawing.memory_bytes):
        planes = await read_planes(request, drawing)
        body = await run_cpu(lambda: encode_png(drawing.pixels(planes)))
        return web.Response(body=body, content_type=CONTENT_TYPE)


def check_size(request: web.Request, drawing: Drawing, what: str) -> None:
    """TooLarge if the picture, or what is looked at for it, is more than the settings allow."""
    limits = request.app[SETTINGS].server
    if drawing.plane_bytes > limits.max_slice_bytes:
        raise TooLarge(what, asked=drawing.plane_bytes, limit=limits.max_slice_bytes)
    asked = sum(layer.read_bytes for layer in drawing.layers)
    if asked > limits.max_cutout_bytes:
        raise TooLarge(f"voxels of the {what}", asked=asked, limit=limits.max_cutout_bytes)


async def read_planes(request: web.Request, drawing: Drawing) -> Sequence[Voxels]:
    """The voxels of a picture; who calls it has checked its size and holds its memory."""
    exchange = exchange_of(request)
    return await drawing.read(
        request.app[STORES].cuboids, usage=exchange.usage, on_block=exchange.progress.moved
    )
