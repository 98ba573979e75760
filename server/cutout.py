"""A request for a box of some channels, checked against the project that its token leads to."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ndcass.errors import InvalidRequest, NotFound, TooLarge
from ndcass.geometry import Box, Level
from ndcass.merge import WriteOp
from ndcass.model import Channel, TokenView
from ndcass.place import Place, reading_place, writing_place
from ndcass.server.formats.base import Layout
from ndcass.server.volume_params import VolumeParams, write_op
from ndcass.volume import SLAB_BYTES

# What leaves, or is written, slab by slab. The other formats have no order in which that could be
# done: they are made and read as a whole, and have a lower limit.
STREAMED = frozenset({"npz", "raw", "zip", "tiff"})
HDF5 = "hdf5"
# Bodies that have no one type; the others have, and stand for an all-zero channel as well.
MIXED = frozenset({HDF5, "diff"})
WITH_ZERO_CHANNEL = frozenset({"npz", "raw", "zip", "blosc", "jpeg"})
# What a format that is made as a whole takes, in times of the voxels (blosc; HDF5 takes less).
WHOLE_MEMORY = 4
# Channels times timesteps of one request; sizes are limited besides. A series of single voxels
# takes about as long as these many cuboids.
MAX_VOLUMES = 1 << 16
# The name that stands for an all-zero channel in second and later places (data plane 2.2).
ZERO_CHANNEL = "0"


class Cutout(NamedTuple):
    """A request for a box, resolved: what is read or written of which channels."""

    names: tuple[str, ...]  # as in the URL
    places: tuple[Place | None, ...]  # None: the all-zero channel
    params: VolumeParams
    level: Level
    box: Box  # stored
    times: Sequence[int | None]

    @property
    def first(self) -> Channel:
        place = self.places[0]
        assert place is not None  # resolve() refuses a zero channel in first place
        return place.channel

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, z, y, x), or (c, t, z, y, x) where the URL has a time range."""
        time = (len(self.times),) if self.params.times is not None else ()
        return (len(self.places), *time, *self.box.shape_zyx)

    def layout(self, dtype: np.dtype[Any] | None = None) -> Layout:
        """What the formats need to know; `dtype` if it is not the first channel's."""
        channels = [place.channel if place else self.first for place in self.places]
        return Layout(
            channels=self.names,
            channel_types=tuple(channel.channel_type for channel in channels),
            datatypes=tuple(channel.channel_datatype for channel in channels),
            shape=self.shape,
            dtype=dtype or self.first.dtype,
            has_time=self.params.times is not None,
        )


def resolve(
    view: TokenView, names: Sequence[str] | None, params: VolumeParams, *, write: bool = False
) -> Cutout:
    """Channels, level and box of a request, checked against the project.

    `write` says that the places are for writing: then all of them are stored.

    Raises
    ------
    NotFound
        If a channel does not exist, or there is no default channel.
    OutOfBounds
        If the box reaches beyond the level.
    InvalidRequest
        If the time range is empty, or nothing can be written at the level.
    TooLarge
        If it is more channels and timesteps than one request may name.
    """
    names = tuple(names) if names else ("default",)
    level = view.level(params.level)
    place_of = writing_place if write else reading_place
    places = [
        None
        if index and name == ZERO_CHANNEL
        else place_of(view, channel_of(view, name), params.level, neariso=params.neariso)
        for index, name in enumerate(names)
    ]
    neariso = params.neariso and any(place is not None and place.neariso for place in places)
    box = level.stored_box(params.box, neariso=neariso)
    start, stop = params.times or (0, 1)
    if start >= stop:
        raise InvalidRequest(f"time range {start},{stop} is empty or inverted")
    volumes = (stop - start) * len(names)
    if volumes > MAX_VOLUMES:
        raise TooLarge("channels times timesteps", asked=volumes, limit=MAX_VOLUMES, unit="volumes")
    times = range(start, stop) if params.times is not None else (None,)
    return Cutout(names, tuple(places), params, level, box, times)


def channel_of(view: TokenView, name: str) -> Channel:
    """The channel of that name, or the default one; NotFound if there is none."""
    channel = view.channel(name)
    if channel is None:
        what = "no default channel" if name == "default" else f"no channel {name[:80]}"
        raise NotFound(f"token {view.token.token_name} has {what}")
    return channel


def write_op_for(channel: Channel, option: str | None, words: frozenset[str]) -> WriteOp:
    """How posted voxels meet stored ones, see `write_op`; InvalidRequest if the channel cannot."""
    op = write_op(option, words, annotation=channel.is_annotation)
    if op is WriteOp.EXCEPTION and not (channel.is_annotation and channel.exceptions):
        raise InvalidRequest(f"channel {channel.channel_name} keeps no exceptions")
    return op


def buffer_bytes(cutout: Cutout) -> int:
    """What the two buffers of a stream take; a slab may be somewhat larger than its limit."""
    size = math.prod(cutout.shape) * cutout.first.dtype.itemsize
    _, height, width = cutout.level.cuboid_zyx
    row = height * max(width, cutout.box.shape_zyx[2]) * cutout.first.dtype.itemsize
    return min(size, 2 * max(SLAB_BYTES, row))


def check_channels(cutout: Cutout, service: str) -> None:
    """Refuse channels of several types, and the all-zero channel, where a body cannot have them."""
    if len(cutout.places) == 1:
        return
    for name, place in zip(cutout.names, cutout.places, strict=True):
        if place is None:
            if service not in WITH_ZERO_CHANNEL:
                raise NotFound(f"no channel {name}")
        elif service not in MIXED and place.channel.dtype != cutout.first.dtype:
            raise InvalidRequest(
                f"channel {name} is {place.channel.channel_datatype}, the first channel is "
                f"{cutout.first.channel_datatype}: only {' and '.join(sorted(MIXED))} mix types"
            )
