"""Questions about the labels of a region: which, how large, what touches, what lies under them."""

from collections.abc import AsyncGenerator

from aiohttp import web

from ndcass import questions
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, InvalidRequest, TooLarge
from ndcass.questions import Columns, Region
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import Cutout, resolve
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.table import CONTENT_TYPES, table_pieces
from ndcass.server.freshness import note_cutout
from ndcass.server.match import Match
from ndcass.server.streaming import send_pieces
from ndcass.server.volume_params import parse_volume

_QUESTIONS = {"ids": questions.ids, "sizes": questions.sizes, "touches": questions.touches}
# Of labels with the voxels of an image: what a question takes beside them, in times of both.
_WORK_SHARE = 24


async def ask_labels(request: web.Request, match: Match) -> web.StreamResponse:
    """GET what a region says of its labels: ids, sizes or touches."""
    body_format = _body_format(request)
    cutout, region = await _open(request, match, [match.names["channel"]])
    question = _QUESTIONS[match.service]
    usage = exchange_of(request).usage
    async with request.app[MEMORY].hold(_memory(cutout)):
        columns = await question(request.app[STORES], region, usage=usage)
        return await _send(request, columns, body_format)


async def ask_statistics(request: web.Request, match: Match) -> web.StreamResponse:
    """GET what lies under each label of a region in an image channel."""
    body_format = _body_format(request)
    cutout, region = await _open(request, match, [match.names["channel"], match.names["image"]])
    image = cutout.places[1]
    assert image is not None  # `image` is a word; 0 stands for itself only where zeros are sent
    usage = exchange_of(request).usage
    async with request.app[MEMORY].hold(_memory(cutout)):
        columns = await questions.statistics(
            request.app[STORES], region, image, _timestep(cutout, 1), usage=usage
        )
        return await _send(request, columns, body_format)


def _body_format(request: web.Request) -> str:
    asked = request.query.get("format", "json")
    if asked not in CONTENT_TYPES:
        raise InvalidOption(
            f"format={asked[:40]} is unknown; known are {', '.join(sorted(CONTENT_TYPES))}"
        )
    return asked


async def _open(request: web.Request, match: Match, names: list[str]) -> tuple[Cutout, Region]:
    """The labels that a request is about.

    Raises
    ------
    InvalidRequest
        If it names several timesteps, or a channel that has no labels.
    TooLarge
        If the region is larger than a cutout may be.
    """
    view = await open_token(request, match.token, write=False)
    cutout = resolve(view, names, parse_volume(match.tail))
    if len(cutout.times) > 1:
        raise InvalidRequest("a question is about one timestep")
    if None in cutout.places:
        raise InvalidRequest("a question is about channels that there are, 0 is none")
    if not cutout.first.is_annotation:
        raise InvalidRequest(f"channel {cutout.first.channel_name} is no annotation channel")
    size = cutout.box.voxels * cutout.first.dtype.itemsize
    limit = request.app[SETTINGS].server.max_cutout_bytes
    if size > limit:
        raise TooLarge("region", asked=size, limit=limit)
    await note_cutout(request, cutout)
    place = cutout.places[0]
    assert place is not None
    return cutout, Region(place, _timestep(cutout, 0), cutout.box)


def _timestep(cutout: Cutout, index: int) -> int:
    place, t = cutout.places[index], cutout.times[0]
    assert place is not None
    return place.channel.starttime if t is None else t


def _memory(cutout: Cutout) -> int:
    size = cutout.box.voxels * cutout.first.dtype.itemsize
    return min(questions.QUESTION_BYTES, _WORK_SHARE * size)


async def _send(request: web.Request, columns: Columns, body_format: str) -> web.StreamResponse:
    return await send_pieces(
        request,
        _pieces(columns, body_format),
        content_type=CONTENT_TYPES[body_format],
        headers={},
        length=None,
    )


async def _pieces(columns: Columns, body_format: str) -> AsyncGenerator[bytes, None]:
    pieces = table_pieces(columns, body_format)
    while piece := await run_cpu(next, pieces, b""):
        yield piece
