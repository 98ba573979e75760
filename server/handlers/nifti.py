"""NIfTI: a whole channel at level 0, out and in (control plane 8)."""

import contextlib
import math
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ndcass import resources
from ndcass.concurrency import run_cpu
from ndcass.errors import InvalidOption, InvalidRequest, NotFound, PermissionDenied, TooLarge
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import ANNOTATION, TIMESERIES, Channel, TokenView
from ndcass.place import Place, reading_place, writing_place
from ndcass.propagation import check_unlocked
from ndcass.server.access import caller, open_token
from ndcass.server.app_keys import MEMORY, SETTINGS, STORES
from ndcass.server.cutout import channel_of
from ndcass.server.exchange import exchange_of
from ndcass.server.formats import nifti
from ndcass.server.formats.base import Dtype, Voxels
from ndcass.server.formats.encodings import encoding
from ndcass.server.formats.nifti import Colour, Header, NiftiDecoder, NiftiEncoder
from ndcass.server.match import Match
from ndcass.server.streaming import Body, decoded, encoded, send_pieces
from ndcass.volume import SLAB_BYTES, plan_answer, source_bytes, stream_slabs
from ndcass.writer import BodyWriter, check_writable, cutout_writer

LEVEL = 0
# Where the header of the last upload is kept among a channel's side records.
RECORD = ("nifti", "header")
# `?header=dataset` makes one where none was uploaded.
MADE = "dataset"
CREATE, ANNOTATIONS = "create", "annotations"
# Of one voxel of a file: numbers of eight bytes are the largest.
MAX_FILE_ITEM = 8
_ZEROS = memoryview(bytes(1 << 20))
Array = npt.NDArray[Any]  # which type is only known at run time

_NOT_IN_FILE_NAME = re.compile(r"[^A-Za-z0-9]")


async def read_nifti(request: web.Request, match: Match) -> web.StreamResponse:
    """GET a channel with the header that came with its last upload."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, _one_name(match))
    place = reading_place(view, channel, LEVEL)
    kept = await _kept_header(request, view, channel)
    size_zyx, times = place.level.size_zyx, range(*channel.time_range)
    _check_size(request, place, len(times))
    form = nifti.form_of(
        kept,
        size_zyx,
        channel.dtype,
        len(times),
        fits=await _fits(request, place, times, kept),
        in_colour=channel.dtype == np.uint32 and not channel.is_annotation,
    )
    encoder = NiftiEncoder(form, math.prod(size_zyx) * len(times), channel.dtype)
    packed = encoding("gzip", encoder)
    slabs = _slabs(request, place, times, passes=len(nifti.passes(form)))
    path = f"{match.token}/{_one_name(match)}/nii/"
    name = _NOT_IN_FILE_NAME.sub("_", path)[:200]
    async with request.app[MEMORY].hold(4 * SLAB_BYTES):
        return await send_pieces(
            request,
            encoded(packed, slabs),
            content_type=nifti.CONTENT_TYPE,
            headers={"Content-Disposition": f"attachment; filename={name}.{nifti.SUFFIX}"},
            length=None,
        )


async def _kept_header(request: web.Request, view: TokenView, channel: Channel) -> Header:
    """The header of the last upload; NotFound if there was none and none is to be made."""
    option = request.query.get("header")
    if option is not None and option != MADE:
        raise InvalidOption(f"header={option[:80]} is unknown; known is {MADE}")
    record = await request.app[STORES].records.get(channel.id, *RECORD)
    if record is not None:
        return nifti.parse_header(record)
    if option is None:
        raise NotFound(
            f"channel {channel.channel_name} has no NIfTI header, for none was uploaded; "
            f"?header={MADE} makes one of what the dataset says"
        )
    level = view.level(LEVEL)
    start, stop = channel.time_range
    return nifti.made_header(level.size_zyx, level.voxelres_zyx, channel.dtype, stop - start)


def _check_size(request: web.Request, place: Place, timesteps: int) -> None:
    box = _whole(place)
    size = box.voxels * timesteps * place.channel.dtype.itemsize
    limit = request.app[SETTINGS].server.max_cutout_bytes
    if size > limit:
        raise TooLarge("channel", asked=size, limit=limit)
    exchange_of(request).usage.check_source(source_bytes([place], box, timesteps))


def _slabs(
    request: web.Request, place: Place, times: Sequence[int], *, passes: int = 1
) -> AsyncGenerator[Array, None]:
    """All voxels of a channel, so many times."""
    dtype = place.channel.dtype
    plan = plan_answer(
        [place] * passes, times, _whole(place), cuboid_zyx=place.level.cuboid_zyx, dtype=dtype
    )
    store, usage = request.app[STORES].cuboids, exchange_of(request).usage
    return stream_slabs(store, plan, dtype=dtype, usage=usage)


async def _fits(request: web.Request, place: Place, times: Sequence[int], kept: Header) -> bool:
    """Whether every voxel is a number of the type that the header names."""
    if kept.is_rgb or np.can_cast(place.channel.dtype, kept.dtype):
        return True
    if "f" in (place.channel.dtype.kind, kept.dtype.kind):
        return False
    async with (
        request.app[MEMORY].hold(2 * SLAB_BYTES),
        contextlib.aclosing(_slabs(request, place, times)) as slabs,
    ):
        async for slab in slabs:
            if not await run_cpu(nifti.are_within, slab, kept.dtype):
                return False
    return True


def _whole(place: Place) -> Box:
    return Box((0, 0, 0), place.level.size_zyx)


def _one_name(match: Match) -> str:
    name, *more = match.channels or ("default",)
    if more:
        raise InvalidRequest("a NIfTI is exactly one channel")
    return name


# -- uploads


async def write_nifti(request: web.Request, match: Match) -> web.StreamResponse:
    """POST a file that becomes all of a channel; 200 means that it is on disk."""
    view = await open_token(request, match.token, write=True)
    options = match.names.get("nifti_options", "")
    words = frozenset(filter(None, options.split("/")))
    if words - {CREATE, ANNOTATIONS}:
        raise InvalidRequest(f"nii/{options[:80]} is none of {CREATE}/, {ANNOTATIONS}/")
    if CREATE in words:
        await _upload_new(request, view, _one_name(match), annotation=ANNOTATIONS in words)
    else:
        channel = channel_of(view, _one_name(match))
        if ANNOTATIONS in words and not channel.is_annotation:
            raise InvalidRequest(f"channel {channel.channel_name} is no annotation channel")
        await _upload(request, view, channel, clear=ANNOTATIONS not in words)
    return web.Response(body=b"Success", headers={"Content-Type": "text/html"})


async def _upload(request: web.Request, view: TokenView, channel: Channel, *, clear: bool) -> None:
    """A file into a channel that exists, so that all but its type is known before the body."""
    check_writable(channel)
    await check_unlocked(request.app[STORES], channel)
    place = writing_place(view, channel, LEVEL)
    box, start_stop = _whole(place), channel.time_range
    timesteps = start_stop[1] - start_stop[0]
    in_colour = channel.dtype == np.uint32 and not channel.is_annotation

    def target(header: Header) -> tuple[Dtype, Colour]:
        colour = header.colour_for(in_colour=in_colour)
        volumes = colour is Colour.VOLUMES
        nifti.check_fits(header, place.level.size_zyx, None if volumes else timesteps)
        return channel.dtype, colour

    size = _checked_size(request, box.voxels * timesteps * channel.dtype.itemsize)
    # Colours that come as three volumes are put together before anything is written.
    packed = box.voxels * channel.dtype.itemsize if in_colour else 0
    buffers = BodyWriter.buffer_bytes(place, box, timesteps)
    decoder = NiftiDecoder(target)
    body = _body(request, max(size, box.voxels * 3) // channel.dtype.itemsize * MAX_FILE_ITEM)
    async with (
        request.app[MEMORY].hold(packed + buffers),
        contextlib.aclosing(decoded(request, body, decoder, in_thread=True)) as pieces,
    ):
        first = await anext(pieces, b"")
        await _store(request, place, decoder, first, pieces, clear=clear)


async def _upload_new(
    request: web.Request, view: TokenView, name: str, *, annotation: bool
) -> None:
    """A file into a channel that is made for it, and goes again if the file is no good."""
    user = await caller(request)
    if user is None:
        raise PermissionDenied("making a channel needs an API key: Authorization: Token KEY")
    level = view.level(LEVEL)

    def target(header: Header) -> tuple[Dtype, Colour]:
        dtype = np.dtype("<u4") if annotation else header.natural_dtype
        nifti.check_fits(header, level.size_zyx, None)
        _checked_size(request, math.prod(header.shape) * dtype.itemsize)
        return dtype, header.colour_for(in_colour=header.is_rgb and not annotation)

    decoder = NiftiDecoder(target)
    body = _body(request, request.app[SETTINGS].server.max_body_bytes)
    async with contextlib.aclosing(decoded(request, body, decoder, in_thread=True)) as pieces:
        first = await anext(pieces, b"")
        header = decoder.found
        fields = {
            "channel_name": name,
            "channel_description": name,
            "channel_type": ANNOTATION if annotation else TIMESERIES,
            "channel_datatype": decoder.dtype.name,
            "endtime": header.timesteps or 1,
        }
        catalog = request.app[STORES].catalog
        dataset, project = view.dataset.dataset_name, view.project.project_name
        channel = await resources.create_channel(
            catalog, dataset, project, name, fields, caller=user
        )
        try:
            place = writing_place(view, channel, LEVEL)
            buffers = BodyWriter.buffer_bytes(place, _whole(place), header.timesteps or 1)
            async with request.app[MEMORY].hold(buffers):
                await _store(request, place, decoder, first, pieces, clear=False)
        except BaseException:
            await catalog.delete_channel(project, name)
            raise


async def _store(
    request: web.Request,
    place: Place,
    decoder: NiftiDecoder,
    first: Voxels,
    pieces: AsyncGenerator[Voxels, None],
    *,
    clear: bool,
) -> None:
    """Replace the voxels of a channel by those that arrive, then keep the header.

    A file without a time axis is the first timestep; `clear` says that the others become zero, as
    they do where a file is the whole channel.
    """
    stores, header = request.app[STORES], decoder.found
    start, stop = place.channel.time_range
    one = header.timesteps is None or decoder.colour is Colour.VOLUMES
    times = range(start, start + 1) if one and not clear else range(start, stop)
    zeros = (
        (len(times) - 1) * math.prod(place.level.size_zyx) * decoder.dtype.itemsize if one else 0
    )
    usage = exchange_of(request).usage
    async with cutout_writer(stores, op=WriteOp.REPLACE, usage=usage) as writer:
        async with BodyWriter(writer, [place], times, _whole(place)) as voxels:
            await voxels.feed(first)
            async for piece in pieces:
                await voxels.feed(piece)
            while zeros:
                share = min(zeros, len(_ZEROS))
                await voxels.feed(_ZEROS[:share])
                zeros -= share
            await voxels.finish()
        await writer.commit()
    await stores.records.put(place.channel.id, *RECORD, bytes(header.block.binaryblock))


def _checked_size(request: web.Request, size: int) -> int:
    limit = request.app[SETTINGS].server.max_body_bytes
    if size > limit:
        raise TooLarge("channel", asked=size, limit=limit)
    return size


def _body(request: web.Request, size: int) -> Body:
    """What a file of at most about `size` bytes may have."""
    limit = request.app[SETTINGS].server.max_body_bytes
    return Body.of(request, min(size, limit), limit=limit)
