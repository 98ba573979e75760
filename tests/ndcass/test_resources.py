"""Rules of the resource API that HTTP cannot show: what happens in between."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndcass import resources
from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, PermissionDenied
from ndcass.geometry import MAX_GRID, Box, levels_of
from ndcass.model import User
from ndcass.place import Place
from ndcass.store.base import StoredObject, Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.store.memory.catalog import MemoryCatalog
from ndcass.volume import read_box
from ndcass.writer import cutout_writer, write_box

BOX = Box((0, 0, 0), (2, 2, 2))
SIZES = {"ximagesize": 10, "yimagesize": 10, "zimagesize": 10}


@pytest.fixture(params=["memory", "embedded"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """Stores of one engine, then of the other."""
    opened: Stores = MemoryStores() if request.param == "memory" else await open_embedded(tmp_path)
    yield opened
    await opened.close()


async def made(stores: Stores, name: str = "d", *, public: int = 1) -> User:
    """A dataset, project, channel and token of one name; their owner."""
    owner = await stores.catalog.add_user(f"owner-{name}")
    catalog = stores.catalog
    fields: dict[str, Any] = {"public": public}
    await resources.create_dataset(
        catalog, name, {"dataset_name": name, **SIZES, **fields}, caller=owner
    )
    await resources.create_project(
        catalog, name, name, {"project_name": name, **fields}, caller=owner
    )
    await resources.create_token(
        catalog, name, name, name, {"token_name": name, **fields}, caller=owner
    )
    channel = {"channel_name": "c", "channel_type": "image", "channel_datatype": "uint8"}
    await resources.create_channel(catalog, name, name, "c", channel, caller=owner)
    return owner


async def test_name_that_is_freed_between_two_looks_is_still_a_conflict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores = MemoryStores()
    owner = await made(stores)

    async def gone(catalog: MemoryCatalog, name: str) -> Any:
        raise NotFound(name)

    monkeypatch.setattr(MemoryCatalog, "dataset", gone)
    with pytest.raises(AlreadyExists, match=r"^dataset d exists$"):
        await resources.create_dataset(
            stores.catalog, "d", {"dataset_name": "d", **SIZES}, caller=owner
        )


async def test_anonymous_callers_make_and_delete_nothing() -> None:
    stores = MemoryStores()
    await made(stores)
    for call in (
        resources.create_dataset(stores.catalog, "e", {}, caller=None),
        resources.delete_dataset(stores.catalog, "none", caller=None),
        resources.delete_project(stores.catalog, "d", "d", caller=None),
        resources.delete_channel(stores.catalog, "d", "d", "c", caller=None),
        resources.delete_token(stores.catalog, "d", "d", "d", caller=None),
    ):
        with pytest.raises(PermissionDenied):
            await call


async def test_channel_takes_no_level_that_the_dataset_lacks() -> None:
    stores = MemoryStores()
    owner = await made(stores)
    with pytest.raises(InvalidRequest, match="0 to 0"):
        await resources.update_channel(stores, "d", "d", "c", {"resolution": 1}, caller=owner)


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        ({"ximagesize": (1 << 28) + 1}, "ximagesize is 268435457, at most 268435456"),
        ({"zimagesize": (1 << 25) + 1}, "zimagesize is 33554433, at most 33554432"),
        (
            {"zimagesize": (1 << 27) + 1, "scalingoption": 1},
            "zimagesize is 134217729, at most 134217728",
        ),
        ({"yimagesize": (1 << 63) - 1, "scalinglevels": 20}, "yimagesize"),
    ],
)
async def test_dataset_that_no_grid_holds_is_refused(sent: dict[str, int], limit: str) -> None:
    catalog = MemoryStores().catalog
    user = await catalog.add_user("u")
    with pytest.raises(InvalidRequest, match=limit):
        await resources.create_dataset(
            catalog, "d", {"dataset_name": "d", **SIZES, **sent}, caller=user
        )


async def test_largest_dataset_is_made_with_all_its_levels() -> None:
    catalog = MemoryStores().catalog
    user = await catalog.add_user("u")
    sizes = {"ximagesize": 1 << 28, "yimagesize": 1 << 28, "zimagesize": 1 << 25}
    body = {"dataset_name": "d", **sizes, "scalinglevels": 20}
    await resources.create_dataset(catalog, "d", body, caller=user)
    for level in levels_of((await catalog.dataset("d")).geometry):
        for size, cuboid in zip(level.size_zyx, level.cuboid_zyx, strict=True):
            assert -(-size // cuboid) <= MAX_GRID


async def test_token_of_another_project_is_not_found_under_this_one() -> None:
    stores = MemoryStores()
    owner = await made(stores, "d")
    await made(stores, "e")
    with pytest.raises(NotFound):
        await resources.read_token(stores.catalog, "d", "d", "e", caller=owner)


async def test_overview_shows_public_projects_of_public_datasets() -> None:
    stores = MemoryStores()
    await made(stores, "b")
    await made(stores, "a")
    await made(stores, "hidden", public=0)
    shown, left_out = await resources.public_views(stores.catalog)
    assert [found.project.name for found in shown] == ["a", "b"]
    assert [found.token for found in shown] == ["a", "b"]
    assert [channel.name for channel in shown[0].channels] == ["c"]
    assert left_out == 0


async def test_overview_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MOST_SHOWN", 2)
    stores = MemoryStores()
    for name in ("a", "b", "c"):
        await made(stores, name)
    shown, left_out = await resources.public_views(stores.catalog)
    assert ([found.project.name for found in shown], left_out) == (["a", "b"], 1)


async def test_conflict_is_raised_before_anything_is_changed() -> None:
    stores = MemoryStores()
    owner = await made(stores)
    channel = await stores.catalog.channel("d", "c")
    await _write_one(stores)
    changes = {"channel_datatype": "uint16", "channel_description": "new"}
    with pytest.raises(Conflict):
        await resources.update_channel(stores, "d", "d", "c", changes, caller=owner)
    assert await stores.catalog.channel("d", "c") == channel


async def _write_one(stores: MemoryStores) -> None:
    """One cuboid of the channel `c`."""
    await write_box(stores, await _place(stores), 0, BOX, np.ones((2, 2, 2), dtype=np.uint8))


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"channel_datatype": "uint16"}, "<u2"),
        ({"channel_type": "annotation", "channel_datatype": "uint64"}, "<u8"),
        ({"exceptions": 1}, "<u1"),
    ],
)
async def test_write_under_way_does_not_end_in_a_channel_of_another_type(
    either: Stores, changes: dict[str, Any], dtype: str
) -> None:
    owner = await made(either)
    async with cutout_writer(either) as writer:
        await writer.write(await _place(either), 0, BOX, np.ones((2, 2, 2), dtype=np.uint8))
        changed = await resources.update_channel(either, "d", "d", "c", changes, caller=owner)
        with pytest.raises(NotFound, match="its type"):
            await writer.commit()
    assert changed == await either.catalog.channel("d", "c")
    await _check_blank_and_writable(either, dtype)


async def test_write_under_way_does_not_end_in_another_geometry(either: Stores) -> None:
    owner = await made(either)
    async with cutout_writer(either) as writer:
        await writer.write(await _place(either), 0, BOX, np.ones((2, 2, 2), dtype=np.uint8))
        await resources.update_dataset(either, "d", {"zimagesize": 2000}, caller=owner)
        with pytest.raises(NotFound, match="geometry"):
            await writer.commit()
    await _check_blank_and_writable(either, "<u1")


async def test_write_under_way_survives_other_changes(either: Stores) -> None:
    owner = await made(either)
    async with cutout_writer(either) as writer:
        await writer.write(await _place(either), 0, BOX, np.ones((2, 2, 2), dtype=np.uint8))
        fields = {"channel_description": "new"}
        await resources.update_channel(either, "d", "d", "c", fields, caller=owner)
        await resources.update_dataset(either, "d", {"dataset_description": "new"}, caller=owner)
        await writer.commit()
    read = await read_box(either.cuboids, await _place(either), 0, BOX)
    assert np.array_equal(read, np.ones((2, 2, 2)))


@pytest.mark.parametrize("what", ["voxels", "objects"])
@pytest.mark.parametrize("field", ["channel_datatype", "exceptions"])
async def test_channel_with_data_keeps_its_type(either: Stores, what: str, field: str) -> None:
    owner = await made(either)
    channel = await either.catalog.channel("d", "c")
    if what == "voxels":
        await write_box(either, await _place(either), 0, BOX, np.ones((2, 2, 2), dtype=np.uint8))
    else:
        await either.objects.put(channel.id, [StoredObject(1, {"type": 2})])
    value = {"channel_datatype": "uint16", "exceptions": 1}[field]
    with pytest.raises(Conflict, match=f"c holds data, so none of .*{field}"):
        await resources.update_channel(either, "d", "d", "c", {field: value}, caller=owner)
    with pytest.raises(Conflict, match="c holds data"):
        await resources.update_dataset(either, "d", {"ximagesize": 99}, caller=owner)
    assert await either.catalog.channel("d", "c") == channel


async def _check_blank_and_writable(stores: Stores, dtype: str) -> None:
    """Make sure that a channel reads as zeros, and as what is written into it then."""
    place = await _place(stores)
    read = await read_box(stores.cuboids, place, 0, BOX)
    assert read.dtype == np.dtype(dtype)
    assert not read.any()
    voxels = np.full((2, 2, 2), 7, dtype=dtype)
    await write_box(stores, place, 0, BOX, voxels)
    assert np.array_equal(await read_box(stores.cuboids, place, 0, BOX), voxels)


async def _place(stores: Stores) -> Place:
    """The channel `c` as it is now."""
    dataset = await stores.catalog.dataset("d")
    return Place(await stores.catalog.channel("d", "c"), dataset.level(0))
