"""Labels in process: what the index costs, and what it saves.

``python -m bench.labels --output FILE`` measures the embedded engine; the same runs on Cassandra as
a part of ``python -m bench.on_cassandra``. Every figure is a ratio of two things that take turns.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.end_to_end import Result, report
from ndcass.annotation import ObjectVoxels, read_object_points, write_object_voxels
from ndcass.concurrency import keep_heap
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project, Token, TokenView
from ndcass.place import Place
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.volume import Usage, read_box
from ndcass.writer import write_box

# 64 MiB of uint32.
DENSE_ZYX = (64, 512, 512)
CUBOID_ZYX = (16, 128, 128)
# A grid of 100 x 100 x 100 cuboids.
SIDE = 100
SCATTERED_CUBOIDS, SCATTERED_VOXELS = 20, 10_000
WRITERS, WRITES = 8, 12

Voxels = npt.NDArray[Any]  # whatever type a measurement is about


def cells(shape_zyx: tuple[int, int, int], size_zyx: tuple[int, int, int]) -> Voxels:
    """Cells with a wall of background around each, cut a little askew; all labels differ."""
    z, y, x = np.ogrid[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]]
    dz, dy, dx = size_zyx
    y, x = y + x // 5, x + z // 3
    label = (z // dz) * 1_000_000 + (y // dy) * 1000 + x // dx + 1
    wall = ((y % dy) < 2) | ((x % dx) < 2)
    return np.where(wall, 0, label).astype("<u4")


async def project(stores: Stores) -> TokenView:
    """One channel of labels and one of the same numbers that are none."""
    z, y, x = (side * SIDE for side in CUBOID_ZYX)
    dataset = Dataset(
        dataset_name="b", user=1, ximagesize=x, yimagesize=y, zimagesize=z, zvoxelres=10.0
    )
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project(project_name="b", user=1, dataset="b"))
    await stores.catalog.create_token(Token(token_name="b", project="b", user=1))  # noqa: S106
    for name, kind in (("labels", "annotation"), ("numbers", "image")):
        await stores.catalog.create_channel(
            Channel(
                id=0, project="b", channel_name=name, channel_type=kind, channel_datatype="uint32"
            )
        )
    return await stores.catalog.token_view("b")


def _channel(view: TokenView, name: str) -> Channel:
    channel = view.channel(name)
    assert channel is not None
    return channel


async def seconds(call: Callable[[], Awaitable[object]]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def dense(stores: Stores, view: TokenView, rounds: int) -> list[float]:
    """Times of a write without the index over times of the same with it."""
    voxels = cells(DENSE_ZYX, (8, 40, 40))
    places = [Place(_channel(view, name), view.level(0)) for name in ("numbers", "labels")]
    ratios = []
    for turn in range(rounds + 1):
        corner = (0, 512 * (turn % 20), 512 * (turn // 20))
        box = Box((0, 0, 0), DENSE_ZYX).shifted(corner)
        plain_s, labelled_s = [
            await seconds(partial(write_box, stores, place, 0, box, voxels)) for place in places
        ]
        if turn:
            ratios.append(plain_s / labelled_s)
    return ratios


async def scattered(stores: Stores, view: TokenView, rounds: int) -> list[float]:
    """Times of reading an object of 20 cuboids over times of reading one of those."""
    rng = np.random.default_rng(1)
    channel = _channel(view, "labels")
    # Behind what the dense writes took.
    cuboids = rng.integers(20, SIDE, (SCATTERED_CUBOIDS, 3))
    each = SCATTERED_VOXELS // SCATTERED_CUBOIDS
    points = np.concatenate(
        [cuboid * CUBOID_ZYX + rng.integers(0, (8, 60, 60), (each, 3)) for cuboid in cuboids]
    )
    await write_object_voxels(
        stores, view, channel, [ObjectVoxels(7, 0, points, ())], WriteOp.MERGE, usage=Usage()
    )
    target = (stores, view, channel)
    place = Place(channel, view.level(0))
    z, y, x = (int(at) for at in cuboids[0] * CUBOID_ZYX)
    box = Box((0, 0, 0), CUBOID_ZYX).shifted((z, y, x))
    ratios = []
    for turn in range(10 * rounds + 3):
        object_s = await seconds(lambda: read_object_points(*target, [7], 0, limit_bytes=1 << 24))
        one_s = await seconds(lambda: read_box(stores.cuboids, place, 0, box))
        if turn >= 3:
            ratios.append(object_s / one_s)
    return ratios


async def together(stores: Stores, view: TokenView, rounds: int) -> list[float]:
    """Objects a second of eight writers of one cuboid over those of one."""
    channel = _channel(view, "labels")

    async def write(label: int) -> None:
        points = np.array([(1599, 0, label % 128)], dtype=np.int64)
        item = ObjectVoxels(label, 0, points, ())
        await write_object_voxels(stores, view, channel, [item], WriteOp.MERGE, usage=Usage())

    async def writer(first: int) -> None:
        for label in range(first, first + WRITES):
            await write(label)

    async def eight(first: int) -> None:
        await asyncio.gather(*(writer(first + WRITES * n) for n in range(WRITERS)))

    ratios = []
    for turn in range(rounds):
        first = 10_000 + 1000 * turn
        one_s = await seconds(partial(writer, first))
        eight_s = await seconds(partial(eight, first + WRITES))
        ratios.append(WRITERS * one_s / eight_s)
        for label in range(first, first + WRITES * (WRITERS + 1)):
            if not await stores.labels.mortons(channel.id, 0, label):
                raise RuntimeError(f"label {label} is not in the index")
    return ratios


async def measured(stores: Stores, rounds: int) -> list[Result]:
    """All figures of an engine."""
    view = await project(stores)
    return [
        _result(
            "dense write of 64 MiB uint32 with its index / the same without",
            await dense(stores, view, rounds),
            bounds=(0.6, 0.8),
        ),
        _result(
            "reading 10,000 voxels in 20 scattered cuboids in process / one cuboid",
            await scattered(stores, view, rounds),
            smaller_is_better=True,
        ),
        _result(
            "objects a second by 8 writers of one cuboid / by one",
            await together(stores, view, rounds),
            bounds=(1, None),
        ),
    ]


def _result(
    name: str,
    ratios: Sequence[float],
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    smaller_is_better: bool = False,
) -> Result:
    detail = {"from": min(ratios), "to": max(ratios)}
    value = statistics.median(ratios)
    return Result(name, value, *bounds, smaller_is_better=smaller_is_better, detail=detail)


def on_embedded(rounds: int) -> Iterator[Result]:
    """All figures, in a folder of its own."""

    async def measure() -> list[Result]:
        with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
            stores = await open_embedded(Path(folder))
            try:
                return await measured(stores, rounds)
            finally:
                await stores.close()

    yield from asyncio.run(measure())


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="Labels in process.")
    parser.add_argument("--output", type=Path, default=Path("build/bench-labels.json"))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_heap()  # as a gateway does
    report(["labels"], args.rounds, args.output, {"labels": on_embedded})


if __name__ == "__main__":
    main()
