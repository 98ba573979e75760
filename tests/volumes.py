"""Channels on the in-memory store, for tests of places, reading and writing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from ndcass import volume
from ndcass.geometry import Box
from ndcass.model import Channel, Dataset, Project, Token, TokenView
from ndcass.place import Place, reading_place
from ndcass.store.base import Stores
from ndcass.store.memory import MemoryStores

Voxels = npt.NDArray[Any]

DATASET = Dataset(
    dataset_name="d", ximagesize=400, yimagesize=300, zimagesize=90, user=1, zvoxelres=4.0
)


async def stores_with_channel(**fields: Any) -> tuple[Stores, Place]:
    stores = MemoryStores()
    await stores.catalog.create_dataset(DATASET)
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    defaults = {"channel_type": "timeseries", "channel_datatype": "uint8"}
    channel = await stores.catalog.create_channel(
        Channel(id=0, project="p", channel_name="c", **{**defaults, **fields})
    )
    return stores, Place(channel, DATASET.level(0))


def random_voxels(shape: Sequence[int], dtype: str = "u1", seed: int = 0) -> Voxels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, shape).astype(np.dtype(dtype))


async def read(stores: Stores, place: Place, box: Box, t: int = 0) -> Voxels:
    return await volume.read_box(stores.cuboids, place, t, box)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start, stop = [], []
    for size in (90, 300, 400):
        a = draw(st.integers(0, size - 1))
        start.append(a)
        stop.append(draw(st.integers(a + 1, min(size, a + 150))))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


async def view_with_channel(
    *, isotropic: bool = False, zvoxelres: float = 4.0, **fields: Any
) -> tuple[Stores, TokenView]:
    stores = MemoryStores()
    dataset = dataclasses.replace(
        DATASET, scalinglevels=5, scalingoption=int(isotropic), zvoxelres=zvoxelres
    )
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project(project_name="p", user=1, dataset="d"))
    await stores.catalog.create_token(Token(token_name="t", user=1, project="p"))
    given: dict[str, Any] = {"channel_type": "timeseries", "channel_datatype": "uint8", **fields}
    await stores.catalog.create_channel(Channel(id=0, project="p", channel_name="c", **given))
    return stores, await stores.catalog.token_view("t")


def the_channel(view: TokenView) -> Channel:
    channel = view.channel("c")
    assert channel is not None
    return channel


async def read_level(
    stores: Stores, view: TokenView, level: int, box: Box, *, neariso: bool = False
) -> Voxels:
    place = reading_place(view, the_channel(view), level, neariso=neariso)
    return await read(stores, place, box)
