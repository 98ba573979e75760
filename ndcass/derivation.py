"""Cuboids of a derived level, made from the stored ones that they derive from.

Each stored cuboid is halved by itself, in the processor's cache, straight into its share of the
derived one: cuboids are even on every axis that is halved, so no block of voxels that become one
lies in two. What is to be rebuilt, and when, is in ``jobs/pyramid.py``; the rules are in
``downsample.py``.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass.assemble import merged
from ndcass.downsample import Rule, downsample_into
from ndcass.geometry import Zyx
from ndcass.merge import WriteOp
from ndcass.model import Channel
from ndcass.plan import Slices, plan_parts
from ndcass.pyramid import Stage
from ndcass.store.base import PLAIN, CuboidAddress, CuboidStore, CuboidWrite, StoredCuboid
from ndcass.volume import Usage, use_cuboids

Voxels = npt.NDArray[Any]  # which type is only known at run time


class _Share(NamedTuple):
    """What becomes of one source cuboid."""

    source: Slices  # its voxels that are inside the level
    target: Voxels  # where they go: that part of the derived cuboid


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
        shares: dict[CuboidAddress, _Share] = {}
        for address, out in zip(addresses, voxels, strict=True):
            shares |= self._shares(address, out)
        for address in shares.keys() & made.keys():
            self._halve(made[address], shares.pop(address))

        def halve(found: Sequence[StoredCuboid]) -> None:
            self._halve_all(found, shares)

        size = len(shares) * math.prod(self.stage.source.cuboid_zyx) * voxels.itemsize
        missing = await use_cuboids(cuboids, list(shares), halve, size_bytes=size, usage=Usage())
        for address in missing:
            shares[address].target[...] = 0
        return [
            CuboidWrite(address, WriteOp.REPLACE, cuboid_zyx, (0, 0, 0), out)
            for address, out in zip(addresses, voxels, strict=True)
        ]

    def _shares(self, address: CuboidAddress, out: Voxels) -> dict[CuboidAddress, _Share]:
        """The sources of a derived cuboid; its voxels that have none become zeros here."""
        stage = self.stage
        box = stage.cuboid_box(address.morton)
        if box is None or box.shape_zyx != stage.level.cuboid_zyx:
            out[...] = 0
        if box is None:
            return {}
        place = (address.channel_id, PLAIN, stage.source.level, address.t)
        return {
            CuboidAddress(*place, part.morton): _Share(
                part.source, out[_divided(part.target, stage.factor_zyx)]
            )
            for part in plan_parts(stage.source_box(box), stage.source.cuboid_zyx)
        }

    def _halve_all(
        self, found: Sequence[StoredCuboid], shares: Mapping[CuboidAddress, _Share]
    ) -> None:
        cuboid_zyx, dtype = self.stage.source.cuboid_zyx, self.channel.dtype
        scratch = np.empty(cuboid_zyx, dtype=dtype)
        for address, rows in found:
            cuboid = merged(address, rows, cuboid_zyx=cuboid_zyx, dtype=dtype, scratch=scratch)
            self._halve(cuboid.voxels, shares[address])

    def _halve(self, cuboid: Voxels, share: _Share) -> None:
        voxels = _even(cuboid[share.source], self.stage.factor_zyx)
        downsample_into(voxels, self.rule, share.target, pairs=self.stage.pairs)


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
