"""Addresses of what derives from what; the rules are in ``pyramid.py``."""

from collections.abc import Iterator, Sequence

import numpy as np

from ndcass.geometry import Box, Geometry
from ndcass.pyramid import Stage, child_stages, cuboids_of, derived_codes, descendants, stages
from ndcass.store.base import NEARISO, PLAIN, CuboidAddress


def pyramid_of(stage: Stage) -> int:
    """Which of the two pyramids a stage belongs to."""
    return NEARISO if stage.neariso else PLAIN


def addresses_of(stage: Stage, channel_id: int, t: int, box: Box) -> Iterator[CuboidAddress]:
    """The cuboids of a derived level that a box of it touches."""
    pyramid, level = pyramid_of(stage), stage.level.level
    for code in cuboids_of(box, stage.level.cuboid_zyx):
        yield CuboidAddress(channel_id, pyramid, level, t, code)


def sources_of(stage: Stage, address: CuboidAddress) -> list[CuboidAddress]:
    """The cuboids that a derived one is made from; none if it lies outside the level."""
    box = stage.cuboid_box(address.morton)
    if box is None:
        return []
    source = stage.source
    codes = cuboids_of(stage.source_box(box), source.cuboid_zyx)
    return [
        CuboidAddress(address.channel_id, PLAIN, source.level, address.t, code) for code in codes
    ]


def derived_from(
    geometry: Geometry, base: int, channel_id: int, t: int, codes: Sequence[int]
) -> set[CuboidAddress]:
    """All cuboids that derive, directly or not, from cuboids of the base level."""
    found: set[CuboidAddress] = set()
    source = np.array(codes, dtype=np.uint64)
    for stage in stages(geometry, base):
        derived = derived_codes(stage, source)
        where = (channel_id, pyramid_of(stage), stage.level.level, t)
        found.update(CuboidAddress(*where, code) for code in derived.tolist())
        if not stage.neariso:
            source = derived
    return found


def children_of(
    geometry: Geometry, stage: Stage, addresses: Sequence[CuboidAddress]
) -> set[CuboidAddress]:
    """The cuboids that derive directly from some of a derived level."""
    if len(addresses) == 1:  # numpy takes ten times as long for one
        return set(_children_of_one(geometry, stage, addresses[0]))
    found: set[CuboidAddress] = set()
    for t in {address.t for address in addresses}:
        codes = np.array([a.morton for a in addresses if a.t == t], dtype=np.uint64)
        for child in child_stages(geometry, stage):
            where = (addresses[0].channel_id, pyramid_of(child), child.level.level, t)
            derived = derived_codes(child, codes)
            found.update(CuboidAddress(*where, code) for code in derived.tolist())
    return found


def _children_of_one(
    geometry: Geometry, stage: Stage, address: CuboidAddress
) -> Iterator[CuboidAddress]:
    box = stage.cuboid_box(address.morton)
    if box is None:
        return
    for child in child_stages(geometry, stage):
        derived = child.derived_box(box)
        if derived is not None:
            yield from addresses_of(child, address.channel_id, address.t, derived)


def descendants_of(
    geometry: Geometry, channel_id: int, level: int, t: int, box: Box
) -> set[CuboidAddress]:
    """All cuboids that derive, directly or not, from some voxels of a plain level."""
    return {
        derived
        for stage, its_box in descendants(geometry, box, level=level)
        for derived in addresses_of(stage, channel_id, t, its_box)
    }
