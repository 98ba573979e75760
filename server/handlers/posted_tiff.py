"""POST a TIFF: its pages become the sections from a corner on (data plane 3.7)."""

import numpy as np
from aiohttp import web

from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.geometry import Box
from ndcass.place import writing_place
from ndcass.propagation import check_unlocked
from ndcass.server.access import open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import channel_of, write_op_for
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.base import check_dtype
from ndcass.server.formats.tiff import Stack, open_tiff, read_page
from ndcass.server.match import Match
from ndcass.server.streaming import Body
from ndcass.server.volume_params import parse_voxel
from ndcass.writer import BodyWriter, check_writable, cutout_writer


async def write_tiff(request: web.Request, match: Match) -> web.StreamResponse:
    """POST pages; 200 means that they are on disk."""
    view = await open_token(request, match.token, write=True)
    params = parse_voxel(match.tail)
    name, *more = match.channels or ("default",)
    if more:
        raise InvalidRequest("a TIFF is written to exactly one channel")
    channel = channel_of(view, name)
    place = writing_place(view, channel, params.level)
    corner = place.level.stored_box(params.box).start_zyx
    check_writable(channel)
    await check_unlocked(request.app[STORES], channel)
    op = write_op_for(channel, request.query.get("write"), frozenset())
    limits, memory = request.app[SETTINGS].server, request.app[MEMORY]
    free = Box(corner, place.level.size_zyx)  # from the corner on
    room = free.voxels * channel.dtype.itemsize
    body = Body.of(request, min(room, limits.max_body_bytes), limit=limits.max_body_bytes)
    async with memory.hold(body.expected_bytes(request)):
        raw = await body.read(request)
        stack = await run_cpu(open_tiff, raw, most_pages=free.shape_zyx[0])
    check_dtype(stack.dtype, channel.dtype, what="the TIFF")
    box = Box((0, 0, 0), stack.shape_zyx).shifted(corner)
    place.level.stored_box(box.shifted(place.level.offset_zyx))  # refuses what reaches beyond
    size = box.voxels * channel.dtype.itemsize
    if size > limits.max_body_bytes:
        raise TooLarge("box", asked=size, limit=limits.max_body_bytes)
    usage = exchange_of(request).usage
    buffers = BodyWriter.buffer_bytes(place, box, 1) + size // stack.pages
    # What the body takes is asked for together with the rest: two who wait for more of what both
    # hold would wait forever.
    async with (
        memory.hold(len(raw) + buffers),
        cutout_writer(request.app[STORES], op=op, usage=usage) as writer,
    ):
        async with BodyWriter(writer, [place], [None], box) as voxels:
            await _feed(stack, voxels)
        await writer.commit()
    return web.Response(body=b"Success", headers={"Content-Type": "text/html"})


async def _feed(stack: Stack, voxels: BodyWriter) -> None:
    page = np.empty(stack.shape_zyx[1:], dtype=stack.dtype)
    for number in range(stack.pages):
        await run_cpu(read_page, stack, number, page)
        await voxels.feed(page.data.cast("B"))
    await voxels.finish()
