"""Boxes at levels that are not stored, over HTTP: volumes, slices, bounds and limits."""

import io
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.store.embedded import open_embedded
from tests.server.running import Running, running

Voxels = npt.NDArray[Any]

# Sizes of levels 0 to 3: 300 x 200 x 20, 150 x 100 x 20, 75 x 50 x 20, 38 x 25 x 20.
SHAPE_1 = (4, 30, 20)


async def prepared(app: Running) -> Voxels:
    """A volume whose channel `deep` holds level 1, and what is in it at its corner."""
    await app.make_volume("v", zoffset=1, scalinglevels=3, zvoxelres=0.5)
    path = "dataset/v/project/v/channel/deep/"
    body = {"channel_type": "timeseries", "channel_datatype": "uint16", "resolution": 1}
    await app.make(path, {"channel_name": "deep", **body})
    voxels = np.random.default_rng(3).integers(1, 60_000, SHAPE_1).astype("<u2")
    assert await app.write("v/deep/raw/1/10,30/40,70/2,6/", voxels) == 200
    return voxels


@pytest.fixture
async def level_1(app: Running) -> Voxels:
    return await prepared(app)


async def test_every_format_shows_a_finer_level(app: Running, level_1: Voxels) -> None:
    wide = level_1.repeat(2, axis=1).repeat(2, axis=2)[:, 3:, 5:]
    box = "0/25,60/83,140/2,6/"
    assert np.array_equal((await app.read(f"v/deep/raw/{box}"))[0], wide)
    npz = await (await app.get(f"/nd/sd/v/deep/npz/{box}")).read()
    assert np.array_equal(np.load(io.BytesIO(zlib.decompress(npz)))[0], wide)
    hdf5 = await (await app.get(f"/nd/sd/v/deep/hdf5/{box}")).read()
    with h5py.File(io.BytesIO(hdf5)) as file:
        assert np.array_equal(file["deep/CUTOUT"][()], wide)


async def test_every_format_shows_a_coarser_level(app: Running, level_1: Voxels) -> None:
    thin = level_1[:, ::2, ::2][:, 1:]
    box = "2/5,15/21,35/2,6/"
    assert np.array_equal((await app.read(f"v/deep/raw/{box}"))[0], thin)
    zipped = await (await app.get(f"/nd/sd/v/deep/zip/{box}")).read()
    assert zlib.decompress(zipped) == thin.tobytes()


async def test_a_list_may_hold_channels_of_different_bases(app: Running, level_1: Voxels) -> None:
    path = "dataset/v/project/v/channel/flat/"
    body = {"channel_type": "timeseries", "channel_datatype": "uint16"}
    await app.make(path, {"channel_name": "flat", **body})
    ones = np.ones((4, 60, 40), "<u2")
    assert await app.write("v/flat/raw/0/20,60/80,140/2,6/", ones) == 200
    both = await app.read("v/deep,0,flat/raw/1/10,30/40,70/2,6/")
    assert np.array_equal(both[0], level_1)
    assert not both[1].any()
    assert (both[2] == 1).all()


@pytest.mark.parametrize("level", [0, 2])
async def test_a_level_that_is_made_from_another_cannot_be_written(
    app: Running, level_1: Voxels, level: int
) -> None:
    path = f"/nd/sd/v/deep/raw/{level}/0,1/0,1/1,2/"
    headers = {"X-Volume-Dtype": "<u2"}
    answer = await app.request("POST", path, user="admin", data=b"\1\0", headers=headers)
    assert answer.status == 404
    assert "write to level 1" in await answer.text()


async def test_bounds_are_those_of_the_level_asked_for(app: Running, level_1: Voxels) -> None:
    assert await app.status("/nd/sd/v/deep/raw/2/74,75/49,50/20,21/") == 200
    assert await app.status("/nd/sd/v/deep/raw/2/74,76/49,50/20,21/") == 404
    # Near-isotropic, level 1 has a quarter of the slices; what is made from it has all of them.
    assert await app.status("/nd/sd/v/deep/raw/1/0,1/0,1/1,7/neariso/") == 404
    assert await app.status("/nd/sd/v/deep/raw/0/0,1/0,1/1,21/neariso/") == 200


async def test_labels_posted_near_isotropic_are_ordinary(app: Running, level_1: Voxels) -> None:
    labels = np.full((20, 1, 1), 7, "<u4")
    assert await app.write("v/lab/raw/0/0,1/0,1/1,21/neariso/", labels) == 200
    assert np.array_equal((await app.read("v/lab/raw/0/0,1/0,1/1,21/"))[0], labels)


@pytest.fixture
async def small_app(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway on which a coarse read may go through one cuboid of 64 x 64 x 64 uint16."""
    stores = await open_embedded(tmp_path / "small")
    try:
        limits = ServerSettings(max_source_bytes=64**3 * 2)
        async with running(stores, Settings(server=limits)) as found:
            yield found
    finally:
        await stores.close()


@pytest.mark.parametrize(
    "path",
    ["raw/3/8,9/0,25/1,2/", "npz/3/8,9/0,25/1,2/", "hdf5/3/8,9/0,25/1,2/", "xy/3/8,9/0,25/1/"],
)
async def test_a_coarse_read_of_too_much_is_refused(small_app: Running, path: str) -> None:
    await prepared(small_app)
    answer = await small_app.get(f"/nd/sd/v/deep/{path}")
    assert answer.status == 413, await answer.text()
    assert str(64**3 * 2) in await answer.text()
    assert await small_app.status("/nd/sd/v/deep/raw/3/8,9/0,16/1,2/") == 200
