"""Which voxels a GET of objects asks for, and reading them (annotation plane 3)."""

import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from aiohttp import web

from ndcass import annotation
from ndcass.annotation import POINT_BYTES
from ndcass.errors import InvalidRequest, Malformed, TooLarge
from ndcass.geometry import Box
from ndcass.label_voxels import cuboids_of_labels, union_of, whole_box
from ndcass.model import Channel, TokenView
from ndcass.objects import labels_of
from ndcass.place import Place, reading_place
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.formats.ramon_hdf5 import ObjectFile
from ndcass.server.volume_params import parse_volume

NO_DATA, VOXELS, CUTOUT = "nodata", "voxels", "cutout"
# Old clients end their requests with it; it says nothing.
_SAYS_NOTHING = "remap"
BOUNDING_BOX, CUBOIDS = "boundingbox", "cuboids"
# A block of this many voxels or more is refused, as the original does.
MAX_BLOCK_VOXELS = 1 << 28
# Lists of points are made in two copies, one of them in the order of the file.
POINT_COPIES = 3


class Data(NamedTuple):
    """What is asked for: one of the words above; `box` is a stored one."""

    word: str
    level: int = 0
    box: Box | None = None


def parse_data(view: TokenView, tail: str) -> Data:
    """What the path behind the ids asks for.

    Raises
    ------
    Malformed
        If it ends where a level should begin.
    InvalidRequest
        If a word is unknown, or level or box are none of the dataset.
    """
    words = [word for word in tail.split("/") if word not in ("", _SAYS_NOTHING)]
    if not words or words[0] == NO_DATA:
        return Data(NO_DATA)
    word, *rest = words
    if word not in (VOXELS, CUTOUT, BOUNDING_BOX, CUBOIDS):
        raise InvalidRequest(f"{word[:80]!r} is nothing that can be asked of an object")
    if not rest:
        # An empty level was a refusal of the original, a path that is too short broke it.
        kind = InvalidRequest if tail.endswith("/") else Malformed
        raise kind(f"{word} needs a level: {word}/0/")
    level = parse_level(view, rest[0])
    ranges = [item for item in rest[1:] if "," in item]
    if word != CUTOUT or not ranges:
        return Data(word, level)
    params = parse_volume("/".join((rest[0], *ranges)))
    return Data(word, level, view.level(level).stored_box(params.box))


def parse_level(view: TokenView, text: str) -> int:
    """A level of the dataset; InvalidRequest if it has none such."""
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise InvalidRequest(f"{text[:80]!r} is no level")
    return view.level(int(text)).level


@contextlib.asynccontextmanager
async def read_data(
    request: web.Request,
    view: TokenView,
    channel: Channel,
    shown: Sequence[ObjectFile],
    data: Data,
) -> AsyncIterator[list[ObjectFile]]:
    """Some objects with what is asked of each; their memory is held for the length of the block.

    Raises
    ------
    InvalidRequest
        If one of them has no voxels, or too many for a block.
    TooLarge
        If all of it is more than an answer may have.
    """
    if data.word == NO_DATA:
        yield list(shown)
        return
    stores, limit = request.app[STORES], request.app[SETTINGS].server.max_whole_bytes
    labels = [await labels_of(stores, channel, one.item) for one in shown]
    size = 0
    for of_one in labels:
        size += await _needed(request, view, channel, of_one, data)
        if size > limit and data.word != VOXELS:
            raise TooLarge("voxels of objects", asked=size, limit=limit)
    size = min(size, limit)
    async with request.app[MEMORY].hold(size):
        filled: list[ObjectFile] = []
        points_left = size // POINT_COPIES
        for one, of_one in zip(shown, labels, strict=True):
            filled.append(await _filled(request, view, channel, one, of_one, data, points_left))
            points = filled[-1].points_zyx
            points_left -= 0 if points is None else points.nbytes
        yield filled


async def _needed(
    request: web.Request, view: TokenView, channel: Channel, labels: Sequence[int], data: Data
) -> int:
    """About how many bytes the voxels of an object take at most, by the index."""
    if data.word == BOUNDING_BOX:
        return 0
    if data.box is not None:
        return _checked(data.box.voxels)
    place = reading_place(view, channel, data.level)
    stored = place if data.word != CUBOIDS else Place(channel, view.level(data.level))
    codes = await cuboids_of_labels(request.app[STORES], stored, labels)
    if data.word == CUTOUT:
        box = union_of(whole_box(code, place.cuboid_zyx) for code in codes)
        factors = place.source.factor_zyx if place.source is not None else (1, 1, 1)
        repeats = math.prod(factors) if place.source and place.source.is_coarser else 1
        return 0 if box is None else _checked(box.voxels * repeats)
    voxels = len(codes) * math.prod(stored.cuboid_zyx)
    if data.word == CUBOIDS:
        return voxels
    # As a list each voxel takes much more than in a mask, but most cuboids are nearly empty: the
    # lists themselves have limits of their own, one by one and together.
    limit = request.app[SETTINGS].server.max_whole_bytes
    return min(voxels * POINT_BYTES * POINT_COPIES, limit // 4)


def _checked(voxels: int) -> int:
    if voxels >= MAX_BLOCK_VOXELS:
        raise InvalidRequest(
            f"a block of {voxels} voxels: fewer than {MAX_BLOCK_VOXELS} are read at once"
        )
    return voxels


async def _filled(
    request: web.Request,
    view: TokenView,
    channel: Channel,
    shown: ObjectFile,
    labels: Sequence[int],
    data: Data,
    points_left: int,
) -> ObjectFile:
    """An object with what is asked of it; a list of voxels takes up to `points_left` bytes."""
    stores, level = request.app[STORES], data.level
    offset = view.level(level).offset_zyx
    shown = replace(shown, level=level)
    if data.word == BOUNDING_BOX:
        box = await annotation.object_box(stores, view, channel, labels, level)
        return replace(shown, box=box and box.shifted(offset))
    if data.word == CUBOIDS:
        cuboids = [
            cuboid
            async for cuboid in annotation.object_cuboids(stores, view, channel, labels, level)
        ]
        return replace(shown, cuboids=cuboids)
    if data.word == VOXELS:
        limit = request.app[SETTINGS].server.max_whole_bytes // (4 * POINT_COPIES)
        points = await annotation.read_object_points(
            stores, view, channel, labels, level, limit_bytes=min(limit, points_left)
        )
        return replace(shown, points_zyx=points + np.array(offset))
    block = await annotation.read_object_block(
        stores, view, channel, labels, level, data.box, limit_voxels=MAX_BLOCK_VOXELS - 1
    )
    if block is None:
        return shown
    box, mask = block
    return replace(shown, box=box.shifted(offset), mask=mask)
