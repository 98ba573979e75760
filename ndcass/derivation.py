"""Cuboids of a derived level, made from the stored ones that they derive from.

Each stored cuboid is halved by itself, in the processor's cache, straight into its share of the
derived one: cuboids are even on every axis that is halved, so no block of voxels that become one
lies in two. What is to be rebuilt, and when, is in ``jobs/pyramid.py``; the rules are in
``downsample.py``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass import morton
from ndcass.assemble import merged
from ndcass.downsample import Rule, downsample_into
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel
from ndcass.plan import Slices, plan_parts
from ndcass.pyramid import Stage
from ndcass.store.base import PLAIN, CuboidAddress, CuboidStore, CuboidWrite, StoredCuboid
from ndcass.volume import Usage, use_cuboids

Voxels = npt.NDArray[Any]  # which type is only known at run time


class Share(NamedTuple):
    """What becomes of one source cuboid: the same names as in a `plan.Part`."""

    morton: int
    source: Slices  # its voxels that are inside the level
    target: Slices  # where in the derived cuboid they go


def shares(stage: Stage, derived_box: Box) -> Iterator[Share]:
    """What a derived cuboid, or what of it is inside its level, is made from, in Morton order."""
    if not stage.is_inner(derived_box):
        yield from _planned(stage, stage.source_box(derived_box))
        return
    z, y, x = stage.first_source(derived_box)
    for (dz, dy, dx), source, target in _inner_shares(stage):
        yield Share(morton.encode((z + dz, y + dy, x + dx)), source, target)


@lru_cache(maxsize=64)
def _inner_shares(stage: Stage) -> list[tuple[Zyx, Slices, Slices]]:
    """Of a whole cuboid, with places in the grid counted from the first source.

    They are the same for all, and to plan them takes longer than to halve a cuboid.
    """
    (depth, height, width), (fz, fy, fx) = stage.level.cuboid_zyx, stage.factor_zyx
    first = Box((0, 0, 0), (depth * fz, height * fy, width * fx))
    return [(morton.decode(code), source, to) for code, source, to in _planned(stage, first)]


def _planned(stage: Stage, source_box: Box) -> Iterator[Share]:
    for part in plan_parts(source_box, stage.source.cuboid_zyx):
        yield Share(part.morton, part.source, _divided(part.target, stage.factor_zyx))


class _Source(NamedTuple):
    """What is taken of a source cuboid, and where it goes: into a part of a derived one."""

    voxels: Slices
    target: Voxels


class Derivation(NamedTuple):
    """How a derived level of a channel is made."""

    channel: Channel
    stage: Stage
    rule: Rule

    async def writes(
        self,
        cuboids: CuboidStore,
        addresses: Sequence[CuboidAddress],
        made: Mapping[CuboidAddress, Voxels] = MappingProxyType({}),
    ) -> list[CuboidWrite]:
        """Some derived cuboids as they are to be now; zeros beyond the end of their level.

        Parameters
        ----------
        made : mapping of CuboidAddress to ndarray
            Source cuboids that are not stored yet and count in the place of those that are.

        Raises
        ------
        StoreError
            If a source is damaged (CorruptValue) or cannot be read.
        """
        cuboid_zyx = self.stage.level.cuboid_zyx
        voxels = np.empty((len(addresses), *cuboid_zyx), dtype=self.channel.dtype)
        sources: dict[CuboidAddress, _Source] = {}
        for address, out in zip(addresses, voxels, strict=True):
            sources.update(self._sources(address, out))
        for address in sources.keys() & made.keys():
            self._halve(made[address], sources.pop(address))

        def halve(found: Sequence[StoredCuboid]) -> None:
            self._halve_all(found, sources)

        size = len(sources) * math.prod(self.stage.source.cuboid_zyx) * voxels.itemsize
        missing = await use_cuboids(cuboids, list(sources), halve, size_bytes=size, usage=Usage())
        for address in missing:
            sources[address].target[...] = 0
        return [
            CuboidWrite(address, WriteOp.REPLACE, cuboid_zyx, (0, 0, 0), out)
            for address, out in zip(addresses, voxels, strict=True)
        ]

    def _sources(
        self, address: CuboidAddress, out: Voxels
    ) -> Iterator[tuple[CuboidAddress, _Source]]:
        """What a derived cuboid is made from; its voxels that have no source become zeros here."""
        box = self.stage.cuboid_box(address.morton)
        if box is None or box.shape_zyx != self.stage.level.cuboid_zyx:
            out[...] = 0
        if box is None:
            return
        channel_id, level, t = address.channel_id, self.stage.source.level, address.t
        for code, voxels, target in shares(self.stage, box):
            yield CuboidAddress(channel_id, PLAIN, level, t, code), _Source(voxels, out[target])

    def _halve_all(
        self, found: Sequence[StoredCuboid], sources: Mapping[CuboidAddress, _Source]
    ) -> None:
        cuboid_zyx, dtype = self.stage.source.cuboid_zyx, self.channel.dtype
        scratch = np.empty(cuboid_zyx, dtype=dtype)
        for address, rows in found:
            cuboid = merged(address, rows, cuboid_zyx=cuboid_zyx, dtype=dtype, scratch=scratch)
            self._halve(cuboid.voxels, sources[address])

    def _halve(self, cuboid: Voxels, source: _Source) -> None:
        voxels = _even(cuboid[source.voxels], self.stage.factor_zyx)
        downsample_into(voxels, self.rule, source.target, pairs=self.stage.pairs)


def _divided(box: Slices, factor_zyx: Zyx) -> Slices:
    """What a box of the source becomes; of an odd size, one more than its half."""
    z, y, x = (
        slice(axis.start // factor, -(-axis.stop // factor))
        for axis, factor in zip(box, factor_zyx, strict=True)
    )
    return z, y, x


def _even(voxels: Voxels, factor_zyx: Zyx) -> Voxels:
    """With zeros behind the end of the image, where that is odd."""
    lacking = [(0, -size % factor) for size, factor in zip(voxels.shape, factor_zyx, strict=True)]
    return np.pad(voxels, lacking) if any(after for _, after in lacking) else voxels
