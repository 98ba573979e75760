"""Pyramids: building a level, one edit, and readers while one is built.

``python -m bench.pyramid --output build/bench-pyramid.json``. Building is measured in process,
store to store, beside the same reduction by numpy on arrays in RAM, in turns.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.clients import Client, serve_ndcass
from bench.end_to_end import Result, report, touch_memory
from ndcass.concurrency import keep_heap
from ndcass.downsample import Rule, downsample
from ndcass.geometry import Box
from ndcass.jobs import handlers
from ndcass.jobs.refreshing import refresh_stale
from ndcass.jobs.runner import run_jobs
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project
from ndcass.place import Place
from ndcass.propagation import start
from ndcass.server.app import SWITCH_S
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.writer import write_box

Voxels = npt.NDArray[Any]  # of whatever type a case has

# z, y, x of what a level is built from: 256 MiB of uint8.
LEVEL_SHAPE = (64, 2048, 2048)
# 2 GiB of uint8, 13,824 cuboids with their levels.
LARGE_SHAPE = (128, 4096, 4096)
EDIT_LEVELS = 6
SLAB_PLANES = 16
POLL_S = 0.0005
# Of a build: each look takes a thread and the interpreter from what is measured.
BUILD_POLL_S = 0.005
# No build is over before.
BUILD_LEAST_S = 0.1
# Reads of one run.
READS = 1500
TOKEN = "pyramid"


def noise(shape: tuple[int, int, int]) -> Voxels:
    """An image, which does not compress."""
    return np.random.default_rng(3).integers(1, 256, shape, dtype=np.uint8)


def cells(shape: tuple[int, int, int]) -> Voxels:
    """Labels of some hundred voxels each, with ragged edges."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rng = np.random.default_rng(4)
    ragged = rng.integers(0, 3, (1, shape[1], shape[2]))
    found: Voxels = ((z // 8) * 4096 + ((y + ragged) // 24) * 64 + (x + ragged) // 24 + 1).astype(
        "<u4"
    )
    return found


def nearest_by_numpy(base: Voxels) -> Voxels:
    """The odd voxels."""
    return np.ascontiguousarray(base[:, 1::2, 1::2])


def mean_by_numpy(base: Voxels) -> Voxels:
    """Sums of a type that holds them, rounded."""
    total = base[:, 0::2, 0::2].astype(np.uint16)
    for y, x in ((0, 1), (1, 0), (1, 1)):
        total += base[:, y::2, x::2]
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def mode_in_ram(base: Voxels) -> Voxels:
    """tinybrain's where it is installed, else our own rule on the whole array."""
    with contextlib.suppress(ImportError):
        tinybrain = importlib.import_module("tinybrain")  # GPL: only this line compares with it

        (level,) = tinybrain.downsample_segmentation(
            np.asfortranarray(base.T)[..., np.newaxis], (2, 2, 1), num_mips=1
        )
        return np.asarray(level)
    return downsample(base, Rule.MODE, pairs=False)


CASES: dict[str, tuple[str, str, str, Callable[..., Voxels], Callable[[Voxels], Voxels]]] = {
    "nearest, uint8": ("image", "uint8", "default", noise, nearest_by_numpy),
    "mean, uint8": ("image", "uint8", "mean", noise, mean_by_numpy),
    "mode, uint32 labels": ("annotation", "uint32", "mode", cells, mode_in_ram),
    "ndstore's rule, uint32 labels": (
        "annotation",
        "uint32",
        "default",
        cells,
        lambda base: downsample(base, Rule.LABEL, pairs=False),
    ),
}


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Stores]:
    """Stores in a temporary folder, with workers as a gateway has them."""
    keep_heap()  # this and the next as a gateway does
    sys.setswitchinterval(SWITCH_S)
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as folder:
        stores = await open_embedded(Path(folder))
        stop = asyncio.Event()
        work = [
            asyncio.create_task(run_jobs(stores, handlers(), owner="bench", stop=stop, poll_s=1.0)),
            asyncio.create_task(refresh_stale(stores, stop)),
        ]
        try:
            yield stores
        finally:
            stop.set()
            await asyncio.gather(*work)
            await stores.close()


async def filled(
    stores: Stores, name: str, base: Voxels, levels: int, **fields: Any
) -> tuple[Channel, Dataset]:
    """A channel with the voxels of an array, repeated to the size of the dataset."""
    z, y, x = base.shape
    dataset = Dataset(
        dataset_name=name,
        ximagesize=x,
        yimagesize=y,
        zimagesize=z,
        user=1,
        scalinglevels=levels,
        zvoxelres=1000.0,
    )
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project(name, 1, name))
    channel = await stores.catalog.create_channel(Channel(0, name, "em", **fields))
    place = Place(channel, dataset.level(0))
    for first in range(0, z, SLAB_PLANES):
        box = Box((first, 0, 0), (first + SLAB_PLANES, y, x))
        await write_box(
            stores, place, 0, box, base[first : first + SLAB_PLANES], op=WriteOp.REPLACE
        )
    return channel, dataset


async def build(stores: Stores, channel: Channel) -> float:
    """Seconds until a channel is propagated."""
    began = time.perf_counter()
    job = await start(stores, channel)
    await asyncio.sleep(BUILD_LEAST_S)
    while True:
        now = await stores.jobs.job(job.id)
        if now.state not in ("PENDING", "STARTED"):
            break
        await asyncio.sleep(BUILD_POLL_S)
    if now.error:
        raise RuntimeError(now.error)
    return time.perf_counter() - began


def building(rounds: int) -> Iterator[Result]:
    """A level, store to store, against numpy in RAM."""
    for name, (kind, datatype, option, make, in_ram) in CASES.items():
        ratios, rates = asyncio.run(
            _building(rounds, make(LEVEL_SHAPE), kind, datatype, option, in_ram)
        )
        yield Result(
            f"building a level ({name}) / in RAM",
            statistics.median(ratios),
            0.3,
            0.6,
            smaller_is_better=False,
            detail={"Mvoxels_per_s": statistics.median(rates)},
        )


async def _building(
    rounds: int,
    base: Voxels,
    kind: str,
    datatype: str,
    option: str,
    in_ram: Callable[[Voxels], Voxels],
) -> tuple[list[float], list[float]]:
    ratios, rates = [], []
    touch_memory((rounds + 2) * base.nbytes)
    async with opened() as stores:
        channel, _ = await filled(
            stores,
            "level",
            base,
            1,
            channel_type=kind,
            channel_datatype=datatype,
            downsampling=option,
        )
        for _ in range(rounds):
            began = time.perf_counter()
            in_ram(base)
            ram_s = time.perf_counter() - began
            built_s = await build(stores, channel)
            ratios.append(ram_s / built_s)
            rates.append(base.size / built_s / 1e6)
            built = await stores.catalog.live_channel(channel.id)
            assert built is not None
            channel = await stores.catalog.update_channel(dataclasses.replace(built, propagate=0))
    return ratios, rates


def editing(rounds: int) -> Iterator[Result]:
    """One edit against building all."""
    edits, built_s = asyncio.run(_editing(rounds))
    yield Result(
        f"one cuboid edited, {EDIT_LEVELS} levels fresh again / building all of 2 GiB",
        statistics.median(edits) / built_s,
        1 / 50,
        1 / 500,
        smaller_is_better=True,
        detail={"edit_ms": statistics.median(edits) * 1000, "all_s": built_s},
    )


async def _editing(rounds: int) -> tuple[list[float], float]:
    async with opened() as stores:
        base = noise((SLAB_PLANES, *LARGE_SHAPE[1:]))
        large = np.broadcast_to(base, (LARGE_SHAPE[0] // SLAB_PLANES, *base.shape))
        channel, dataset = await filled(
            stores,
            "large",
            large.reshape(LARGE_SHAPE),
            EDIT_LEVELS,
            channel_type="image",
            channel_datatype="uint8",
        )
        built_s = await build(stores, channel)
        built = await stores.catalog.live_channel(channel.id)
        assert built is not None
        place = Place(built, dataset.level(0))
        box = Box((32, 1024, 1024), (48, 1152, 1152))
        edits = []
        for turn in range(rounds * 3):
            voxels = np.full(box.shape_zyx, turn + 1, dtype=np.uint8)
            await write_box(stores, place, 0, box, voxels, op=WriteOp.REPLACE)
            began = time.perf_counter()
            while await stores.stale.counts(channel.id):  # noqa: ASYNC110 - other processes may
                await asyncio.sleep(POLL_S)
            edits.append(time.perf_counter() - began)
            await asyncio.sleep(0.2)  # no edit is to wait for the one before
        return edits, built_s


def reading(rounds: int) -> Iterator[Result]:
    """Readers of one cuboid each, while a pyramid is built and while none is."""
    ratios, quiet, busy = [], [], []
    with serve_ndcass(workers=2) as server:
        client = Client(server)
        _post_volume(client)
        for _ in range(rounds):
            quiet.append(_p99_ms(client))
            client.drain(f"/nd/sd/{TOKEN}/em/setPropagate/1/")
            busy.append(_p99_ms(client, while_building=True))
            while _is_building(client):
                time.sleep(0.05)
            client.drain(f"/nd/sd/{TOKEN}/em/setPropagate/0/")
            ratios.append(busy[-1] / quiet[-1])
    yield Result(
        "p99 of one-cuboid reads while a pyramid is built / without",
        statistics.median(ratios),
        3,
        1.5,
        smaller_is_better=True,
        detail={"without_ms": statistics.median(quiet), "while_ms": statistics.median(busy)},
    )


def _post_volume(client: Client) -> None:
    z, y, x = LEVEL_SHAPE
    fields = {
        "dataset_name": TOKEN,
        "ximagesize": x,
        "yimagesize": y,
        "zimagesize": 4 * z,
        "zvoxelres": 1000.0,
        "scalinglevels": EDIT_LEVELS,
    }
    path = f"/nd/resource/dataset/{TOKEN}/"
    client.create(path, fields)
    path += f"project/{TOKEN}/"
    client.create(path, {"project_name": TOKEN})
    channel = {"channel_name": "em", "channel_type": "image", "channel_datatype": "uint8"}
    client.create(f"{path}channel/em/", channel)
    client.create(f"{path}token/{TOKEN}/", {"token_name": TOKEN})
    voxels = noise((SLAB_PLANES, y, x))
    for first in range(0, 4 * z, SLAB_PLANES):
        box = f"0,{x}/0,{y}/{first},{first + SLAB_PLANES}"
        client.post(f"/nd/sd/{TOKEN}/em/raw/0/{box}/", voxels.data)


def _is_building(client: Client) -> bool:
    state = bytearray(1)
    client.get(f"/nd/sd/{TOKEN}/em/getPropagate/", state)
    return state == b"1"


def _p99_ms(client: Client, *, while_building: bool = False) -> float:
    """Of reads of random cuboids, as long as a pyramid is built or a fixed number of them."""
    z, y, x = LEVEL_SHAPE
    rng = np.random.default_rng(9)
    took: list[float] = []
    while len(took) < READS:
        z0, y0, x0 = (int(rng.integers(0, n)) for n in (4 * z // 16, y // 128, x // 128))
        box = f"{x0 * 128},{x0 * 128 + 128}/{y0 * 128},{y0 * 128 + 128}/{z0 * 16},{z0 * 16 + 16}"
        began = time.perf_counter()
        client.drain(f"/nd/sd/{TOKEN}/em/raw/0/{box}/")
        took.append(time.perf_counter() - began)
        if while_building and len(took) % 100 == 0 and not _is_building(client):
            break
    return statistics.quantiles(took, n=100)[98] * 1000


MEASURES: dict[str, Callable[[int], Iterator[Result]]] = {
    "building": building,
    "editing": editing,
    "reading": reading,
}


def main() -> int:
    """Measure and report; exit code 0 whether or not a line holds, for this is no test."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/bench-pyramid.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=sorted(MEASURES))
    options = parser.parse_args()
    report(options.only or list(MEASURES), options.rounds, options.output, MEASURES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
