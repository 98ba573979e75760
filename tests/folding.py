"""What tests of folding share: stores of cuboids with clocks that tests move, and a serial model.

Run as a process it folds a channel and kills itself at a step, see `main`.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ndcass import assemble
from ndcass.merge import Cuboid, WriteOp, apply
from ndcass.store.base import PLAIN, CuboidAddress, CuboidWrite
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.fold import settled_after_ms
from ndcass.store.cassandra.folding import CassandraFolding, FoldSettings
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.tiers import Tier, Tiers, Windows
from ndcass.store.clock import wall_clock_ms

SHAPE = (2, 4, 4)
DTYPE = np.dtype("<u4")
BUCKET_BITS = 3
# Long enough for busy nodes; tests move the clocks instead of waiting.
WINDOWS = Windows(max_clock_skew_ms=0, write_window_s=10.0, read_window_s=20.0)
# One more than the windows together, and the safety of the sweeper.
PAST_ALL_S = 40.0

Voxels = npt.NDArray[Any]  # labels of the tests

# Far from those that a catalogue gives out, and from those of another run on the same tables.
channel_ids = itertools.count(1 << 32 | int.from_bytes(os.urandom(3), "big") << 8)


@dataclass(slots=True)
class Clock:
    """The time of a folder, which a test moves forward.

    For folds it moves no further than makes everything that was written so far old enough: what is
    written next must be later than their watermark.
    """

    fold_ahead_ms: int = 0
    sweep_ahead_s: float = 0.0

    def fold_ms(self) -> int:
        return wall_clock_ms() + self.fold_ahead_ms

    def sweep_ms(self) -> int:
        return wall_clock_ms() + int(self.sweep_ahead_s * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time() + self.sweep_ahead_s

    def pass_windows(self) -> None:
        """What was written is old enough to be folded, and what was folded to be swept."""
        self.fold_ahead_ms = settled_after_ms(WINDOWS)
        self.sweep_ahead_s += PAST_ALL_S


@dataclass(slots=True)
class Volume:
    """A channel on real nodes beside a serial model of it."""

    driver: Driver
    cuboids: CassandraCuboids
    folding: CassandraFolding
    clock: Clock
    channel_id: int
    model: dict[CuboidAddress, Cuboid] = field(default_factory=dict)

    def at(self, morton: int) -> CuboidAddress:
        return CuboidAddress(self.channel_id, PLAIN, 0, 0, morton)

    def bucket(self, morton: int) -> Bucket:
        return Bucket.of(self.at(morton), BUCKET_BITS)

    async def write(
        self,
        morton: int,
        voxels: Voxels,
        op: WriteOp = WriteOp.MERGE,
        corner: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """Write, and note in the model what is to be read from now on."""
        address = self.at(morton)
        await write(self.cuboids, address, voxels, op, corner)
        old = self.model.get(address, Cuboid(np.zeros(SHAPE, dtype=DTYPE)))
        self.model[address] = apply(old, op, corner, voxels)

    async def fold(self, morton: int = 0, *, more_than: int = 0) -> None:
        """Visit a bucket: fold it, and sweep what is due."""
        await self.folding.visit(self.bucket(morton), more_than=more_than)

    async def fold_and_sweep(self, morton: int = 0) -> None:
        """All that is ever done to a bucket."""
        self.clock.pass_windows()
        await self.fold(morton)
        self.clock.pass_windows()
        await self.fold(morton)

    async def check(self) -> None:
        """Readers see exactly the model."""
        found = await read(self.cuboids, list(self.model))
        for address, expected in self.model.items():
            cuboid = found.get(address, Cuboid(np.zeros(SHAPE, dtype=DTYPE)))
            assert same(cuboid, expected), f"{address} is not as it was written"

    async def rows(self, morton: int = 0) -> tuple[int, int]:
        """How many writes and bases of a cuboid there are, whether valid or not."""
        heads = (await self.cuboids.buckets.heads(self.bucket(morton))).get(morton)
        return (len(heads.writes), len(heads.bases)) if heads is not None else (0, 0)


async def write(
    cuboids: CassandraCuboids,
    address: CuboidAddress,
    voxels: Voxels,
    op: WriteOp = WriteOp.MERGE,
    corner: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """One acknowledged write of one cuboid."""
    async with cuboids.batch() as batch:
        await batch.add([CuboidWrite(address, op, SHAPE, corner, voxels, keeps_exceptions=True)])
        await batch.commit()


async def read(
    cuboids: CassandraCuboids, addresses: Sequence[CuboidAddress]
) -> dict[CuboidAddress, Cuboid]:
    """What a reader sees."""
    found: dict[CuboidAddress, Cuboid] = {}
    async for page in cuboids.read(addresses):
        for address, rows in page:
            found[address] = assemble.merged(address, rows, cuboid_zyx=SHAPE, dtype=DTYPE)
    return found


def same(one: Cuboid, other: Cuboid) -> bool:
    """Whether two cuboids have the same voxels and exceptions."""
    return (
        np.array_equal(one.voxels, other.voxels)
        and np.array_equal(one.exceptions.offsets, other.exceptions.offsets)
        and np.array_equal(one.exceptions.labels, other.exceptions.labels)
    )


def labels(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> Voxels:
    """A few labels, most voxels none, so that ops meet each other."""
    return rng.choice(np.array([0, 0, 0, 1, 2, 3], dtype=DTYPE), shape)


async def open_volume(
    driver: Driver,
    tiers: Tiers,
    channel_id: int,
    *,
    windows: Windows = WINDOWS,
    settings: FoldSettings | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Volume:
    """A channel as another gateway sees it: with a folder, a clock and hints of its own."""
    cuboids = await CassandraCuboids.open(driver, tiers, windows, bucket_bits=BUCKET_BITS)
    clock = Clock()
    folding = await CassandraFolding.open(
        driver,
        cuboids,
        settings or FoldSettings(),
        now_ms=clock.fold_ms,
        monotonic_s=clock.monotonic_s,
        on_step=on_step,
    )
    # Not the folder's: a base is old a while after it was made.
    folding.sweeper._now_ms = clock.sweep_ms
    return Volume(driver, cuboids, folding, clock, channel_id)


# -- as a process


async def _die_at(asked: dict[str, Any]) -> None:
    def on_step(step: str) -> None:
        if step == asked["step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    driver = await Driver.connect(ConnectSettings(tuple(asked["hosts"]), port=asked["port"]))
    tiers = Tiers(Tier(*asked["ingest"]), Tier(*asked["archive"]))
    volume = await open_volume(driver, tiers, asked["channel"], on_step=on_step)
    for _ in range(3):
        volume.clock.pass_windows()
        async for _part in volume.folding.fold_channel(volume.channel_id, drain=True):
            pass
    await driver.close()


def main() -> None:
    """Fold and sweep the channel that the argument (JSON) names, and die at its step."""
    asyncio.run(_die_at(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
