"""Processes that write random overlapping boxes side by side, and the check against a serial model.

Every voxel tells who wrote it: its upper bits are noise that depends on its place alone, its lower
bits the number of the write. What was found is right if, for each cuboid by itself, there is an
order of the acknowledged writes that leads to it and keeps every two in their order of which one
was acknowledged before the other began.
"""

import dataclasses
import functools
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt
import requests

from tests.processes import KEY

Voxels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Place = tuple[slice, ...]
Zyx = tuple[int, int, int]

# No multiple of a cuboid's shape on any axis.
SHAPE_ZYX = (40, 300, 300)
CUBOID_ZYX = (16, 128, 128)
LARGEST_ZYX = (30, 200, 200)
_NUMBER_BITS = 12
# Of `merge`: this share of its voxels are zeros, which leave what is there.
_HOLES = 4


@dataclass(frozen=True, slots=True)
class Written:
    """An acknowledged write; the times are of the monotonic clock that all processes share."""

    number: int
    start_zyx: Zyx
    stop_zyx: Zyx
    op: str
    began_s: float
    ended_s: float

    @classmethod
    def from_json(cls, line: str) -> "Written":
        fields = json.loads(line)
        for name in ("start_zyx", "stop_zyx"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    @property
    def box(self) -> Place:
        return tuple(slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))

    def voxels(self) -> Voxels:
        """What it sent."""
        return np.where(self.mask(self.box), noise()[self.box] | np.uint32(self.number), 0)

    def mask(self, place: Place) -> Mask:
        """Which voxels of a place in the volume it sets."""
        whole = noise()[place].shape
        covered = np.zeros(whole, dtype=np.bool_)
        starts = [one.start for one in place]
        covered[
            tuple(
                slice(max(0, a - start), max(0, b - start))
                for a, b, start in zip(self.start_zyx, self.stop_zyx, starts, strict=True)
            )
        ] = True
        if self.op == "merge":
            covered &= (noise()[place] >> _NUMBER_BITS) % _HOLES != 0
        return covered


@functools.cache
def noise() -> Voxels:
    """The upper bits of all voxels; not to be changed."""
    return np.random.default_rng(0).integers(0, 1 << 19, SHAPE_ZYX, dtype="<u4") << _NUMBER_BITS


def inconsistencies(found: Voxels, written: Sequence[Written]) -> list[str]:
    """Why no order of the writes leads to what was found; empty if one does."""
    winners = found & np.uint32((1 << _NUMBER_BITS) - 1)
    wrong = (found != 0) & (found != noise() | winners)
    if wrong.any():
        return [f"{int(wrong.sum())} voxels that nobody wrote"]
    return [
        f"the cuboid at {[one.start for one in cuboid]}: {reason}"
        for cuboid in _cuboids()
        if (reason := _inconsistency(winners[cuboid], cuboid, written))
    ]


def _inconsistency(winners: Voxels, cuboid: Place, written: Sequence[Written]) -> str:
    """Why no order of the writes makes one cuboid; empty if one does."""
    masks = {write.number: write.mask(cuboid) for write in written}
    here = [write for write in written if masks[write.number].any()]
    known = {write.number for write in here}
    before: defaultdict[int, set[int]] = defaultdict(set)
    for write in here:
        mask = masks[write.number]
        if (winners[~mask] == write.number).any():
            return f"voxels of write {write.number} that it did not set"
        shown = set(np.flatnonzero(np.bincount(winners[mask])).tolist())
        if not shown <= known:
            return f"write {write.number} is gone, and in its place are {shown - known}"
        for winner in shown - {write.number}:
            before[winner].add(write.number)
        before[write.number] |= {one.number for one in here if one.ended_s < write.began_s}
    if not set(np.flatnonzero(np.bincount(winners.reshape(-1))).tolist()) <= known | {0}:
        return "voxels of a write that did not touch it"
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return f"no order of the writes leads to it: {error.args[1]}"
    return ""


def _cuboids() -> Iterator[Place]:
    counts = [math.ceil(n / c) for n, c in zip(SHAPE_ZYX, CUBOID_ZYX, strict=True)]
    for at in np.ndindex(*counts):
        yield tuple(slice(n * c, (n + 1) * c) for n, c in zip(at, CUBOID_ZYX, strict=True))


# -- the process of a writer


def _write(url: str, number: int, count: int, log: str) -> None:
    random = np.random.default_rng(number)
    with open(log, "a", buffering=1) as file, requests.Session() as session:
        for turn in range(count):
            start = [int(random.integers(0, n)) for n in SHAPE_ZYX]
            sizes = [int(random.integers(1, n)) for n in LARGEST_ZYX]
            stop = [min(a + d, n) for a, d, n in zip(start, sizes, SHAPE_ZYX, strict=True)]
            write = Written(
                number=number * count + turn + 1,
                start_zyx=(start[0], start[1], start[2]),
                stop_zyx=(stop[0], stop[1], stop[2]),
                op="merge" if turn % 2 else "replace",
                began_s=0.0,
                ended_s=0.0,
            )
            body = write.voxels().tobytes()
            began_s = time.monotonic()
            ranges = "/".join(f"{a},{b}" for a, b in zip(start[::-1], stop[::-1], strict=True))
            answer = session.post(
                f"{url}/{ranges}/0,1/?write={write.op}",
                data=body,
                headers={"Authorization": f"Token {KEY}", "X-Volume-Dtype": "<u4"},
                timeout=100,
            )
            assert answer.status_code == 200, answer.text
            done = dataclasses.replace(write, began_s=began_s, ended_s=time.monotonic())
            file.write(json.dumps(dataclasses.asdict(done)) + "\n")


if __name__ == "__main__":
    _write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
