"""One level of a channel, and where its voxels are: what is read and written is named by it.

What lives here: places, and pieces of boxes of places. What does not: reading them (``volume.py``)
and writing them (``writer.py``).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from ndcass import resample
from ndcass.errors import InvalidRequest
from ndcass.geometry import Box, Level, Zyx
from ndcass.model import PROPAGATED, UNDER_PROPAGATION, Channel, TokenView
from ndcass.plan import Part, plan_parts
from ndcass.resample import Source
from ndcass.store.base import NEARISO, PLAIN, CuboidAddress

# Slabs that are read, or written, in one go at most.
SLABS_TOGETHER = 256

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Place(NamedTuple):
    """One level of a channel, plain or near-isotropic, and where its voxels are.

    Boxes of a place are boxes of `level`. The cuboids (`cuboid_zyx`, `address`, `pyramid`) are
    those that are stored, at another level where there is a `source`; `addresses` tells which.
    """

    channel: Channel
    level: Level
    neariso: bool = False
    source: Source | None = None

    @property
    def pyramid(self) -> int:
        """Which of the two pyramids; where the factor is 1 both are the plain one."""
        return NEARISO if self.neariso and self.level.neariso_scaledown > 1 else PLAIN

    @property
    def stored_level(self) -> Level:
        """The level whose cuboids hold the voxels."""
        return self.level if self.source is None else self.source.level

    @property
    def cuboid_zyx(self) -> Zyx:
        return self.stored_level.cuboid_zyx

    def address(self, t: int, morton: int) -> CuboidAddress:
        """Where a cuboid of this place is stored."""
        return CuboidAddress(self.channel.id, self.pyramid, self.stored_level.level, t, morton)

    def parts(self, box: Box) -> list[Part]:
        """The stored cuboids under a box of `level`; `target` is no use where they are coarser."""
        source = self.source
        if source is None:
            return plan_parts(box, self.cuboid_zyx)
        if source.is_coarser:
            return plan_parts(resample.coarse_box(box, source), self.cuboid_zyx)
        return plan_parts(box, self.cuboid_zyx, source.factor_zyx)

    def addresses(self, t: int, box: Box) -> list[CuboidAddress]:
        """The stored cuboids under a box of `level` at one timestep."""
        return [self.address(t, part.morton) for part in self.parts(box)]


def reading_place(
    view: TokenView,
    channel: Channel,
    level: int,
    *,
    neariso: bool = False,
    unfinished: bool = True,
) -> Place:
    """Where the voxels of a channel at some level are read (data plane 6).

    What is finer than the base of the channel repeats it, also near-isotropic. What is coarser is
    the pyramid if there is one or, with `unfinished`, one is being built; else every so many-th
    voxel of the base. The near-isotropic levels stand for themselves: what is in them was written
    there.

    Raises
    ------
    OutOfBounds
        If the dataset has no such level.
    """
    asked = view.level(level)
    base = channel.resolution
    if level == base:
        return Place(channel, asked, neariso)
    built = channel.propagate == PROPAGATED
    built = built or (unfinished and channel.propagate == UNDER_PROPAGATION)
    own = built or (neariso and asked.neariso_scaledown > 1)
    if level > base and own:
        return Place(channel, asked, neariso)
    return Place(channel, asked, source=resample.source_of(view.dataset.geometry, level, base))


def writing_place(view: TokenView, channel: Channel, level: int, *, neariso: bool = False) -> Place:
    """Where voxels that are sent for some level are written.

    Raises
    ------
    OutOfBounds
        If the dataset has no such level.
    InvalidRequest
        If nothing written there could be read again.
    """
    # Labels were never written to the near-isotropic levels (data plane 5.1).
    place = reading_place(view, channel, level, neariso=neariso and not channel.is_annotation)
    if place.source is not None:
        raise InvalidRequest(
            f"channel {channel.channel_name} holds level {channel.resolution}, from which level "
            f"{level} is made: write to level {channel.resolution}"
        )
    return place


class Slab(NamedTuple):
    """A piece of an answer. Without a place it is zeros."""

    place: Place | None
    t: int
    box: Box


def together(slabs: Iterable[Slab], limit_voxels: int) -> Iterator[list[Slab]]:
    """Slabs that follow each other in groups of about `limit_voxels`.

    A series of many timesteps of a few voxels each would otherwise take a change of thread for
    each.
    """
    group: list[Slab] = []
    voxels = 0
    for slab in slabs:
        if group and (voxels + slab.box.voxels > limit_voxels or len(group) == SLABS_TOGETHER):
            yield group
            group, voxels = [], 0
        group.append(slab)
        voxels += slab.box.voxels
    if group:
        yield group


def shaped(group: Sequence[Slab], flat: Voxels) -> Iterator[tuple[Slab, Voxels]]:
    """Each slab of a group with its share of a flat array, in its shape."""
    at = 0
    for slab in group:
        yield slab, flat[at : at + slab.box.voxels].reshape(slab.box.shape_zyx)
        at += slab.box.voxels
