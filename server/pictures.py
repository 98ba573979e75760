"""From requests for pictures to PNG: what slices, projections, tiles and overlays share."""

from collections.abc import Sequence
from hashlib import blake2b

from aiohttp import web

from ndcass import composite
from ndcass.concurrency import run_cpu
from ndcass.drawing import Drawing, Extreme, Layer, Style, Voxels, stretched_height
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.place import Place
from ndcass.server.app_keys import MEMORY, PICTURES, SETTINGS, STORES
from ndcass.server.cutout import Cutout
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.png import CONTENT_TYPE, encode_png
from ndcass.server.freshness import note_boxes
from ndcass.server.volume_params import window_bounds
from ndcass.store.picture_cache import key_of
from ndcass.tile import Tile
from ndcass.volume import source_bytes

# Pictures of more cuboids are drawn anew each time: asking for the versions of so many would take
# longer than most pictures do.
MAX_NAMED_CUBOIDS = 4096
ETAG_BYTES = 16


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
    """Send a picture as PNG, from the cache if it is there; `what` it is called if too large.

    Its ETag names what was asked for and what is stored, so that a client, and the cache, can tell
    whether they have the picture without anybody drawing it.
    """
    check_size(request, drawing, what)
    await note_drawings(request, [drawing])
    if drawing.cuboid_count > MAX_NAMED_CUBOIDS:
        async with request.app[MEMORY].hold(drawing.memory_bytes):
            planes = await read_planes(request, drawing)
            return _png_response(await run_cpu(_encoded, drawing, planes), {})
    key = key_of(drawing.identity)
    # Asked before the voxels are read: what is drawn is at least as new as its name says.
    versions = await request.app[STORES].cuboids.versions(drawing.cuboids())
    etag = blake2b(key + versions, digest_size=ETAG_BYTES).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    if _is_known(request, etag):
        return web.Response(status=304, headers=headers)
    cache = request.app[PICTURES]
    body = None if cache is None else await run_cpu(cache.get, key, versions)
    if body is None:
        async with request.app[MEMORY].hold(drawing.memory_bytes):
            planes = await read_planes(request, drawing)
            body = await run_cpu(_encoded, drawing, planes)
        if cache is not None:
            cache.keep(key, versions, body)
    return _png_response(body, headers)


def _encoded(drawing: Drawing, planes: Sequence[Voxels]) -> bytes:
    return encode_png(drawing.pixels(planes))


def _png_response(body: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(body=body, headers={**headers, "Content-Type": CONTENT_TYPE})


def _is_known(request: web.Request, etag: str) -> bool:
    """Whether the client says that it has the picture of that name."""
    known = request.if_none_match
    return known is not None and any(tag.value in (etag, "*") for tag in known)


def check_size(request: web.Request, drawing: Drawing, what: str) -> None:
    """TooLarge if the picture, or what is looked at for it, is more than the settings allow."""
    limits = request.app[SETTINGS].server
    if drawing.plane_bytes > limits.max_slice_bytes:
        raise TooLarge(what, asked=drawing.plane_bytes, limit=limits.max_slice_bytes)
    asked = sum(layer.read_bytes for layer in drawing.layers)
    if asked > limits.max_cutout_bytes:
        raise TooLarge(f"voxels of the {what}", asked=asked, limit=limits.max_cutout_bytes)
    for layer in drawing.layers:
        exchange_of(request).usage.check_source(source_bytes([layer.place], layer.box, 1))


async def note_drawings(request: web.Request, drawings: Sequence[Drawing]) -> None:
    """Have the answer say whether what it shows of derived levels is fresh."""
    layers = [layer for drawing in drawings for layer in drawing.layers]
    await note_boxes(request, [(layer.place, (layer.t,), layer.box) for layer in layers])


async def read_planes(request: web.Request, drawing: Drawing) -> Sequence[Voxels]:
    """The voxels of a picture; who calls it has checked its size and holds its memory."""
    exchange = exchange_of(request)
    return await drawing.read(
        request.app[STORES].cuboids, usage=exchange.usage, on_block=exchange.progress.moved
    )
