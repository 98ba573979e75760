from collections.abc import AsyncIterator

import numpy as np
import pytest

from ndcass.cli import demo
from ndcass.cli.serve import ensure_admin
from ndcass.config import ServerSettings
from ndcass.geometry import Box
from ndcass.model import Dataset
from ndcass.place import Place
from ndcass.store.base import Stores
from ndcass.store.memory import MemoryStores
from ndcass.volume import read_box

SMALL = (8, 64, 64)


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    opened = MemoryStores()
    await ensure_admin(opened.catalog, None)
    yield opened
    await opened.close()


def test_volume_follows_from_its_seed() -> None:
    image, labels = demo.make_volume(5, SMALL)
    again, labels_again = demo.make_volume(5, SMALL)
    other, _ = demo.make_volume(6, SMALL)

    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (image != other).any()


def test_every_voxel_belongs_to_a_cell() -> None:
    _, labels = demo.make_volume(5, SMALL)

    assert labels.min() >= 1


def test_label_is_the_nearest_point() -> None:
    points = np.array([[100, 40, 40], [100, 40, 200], [300, 200, 100]], dtype=np.float32)

    labels, _ = demo._nearest(points, SMALL)

    for z, y, x in [(0, 0, 0), (2, 10, 62), (7, 60, 20), (5, 30, 30)]:
        # Distances are those of the middle of a square of 2 x 2 voxels.
        at = np.array([(z + 0.5) * 40, (y // 2 + 0.5) * 8, (x // 2 + 0.5) * 8])
        assert labels[z, y, x] == np.square(points - at).sum(axis=1).argmin() + 1


def test_membranes_are_darker_than_cells() -> None:
    image, labels = demo.make_volume(5)
    edge = labels[:, :, 1:] != labels[:, :, :-1]

    assert image[:, :, 1:][edge].mean() < 0.6 * image.mean()


async def test_demo_reads_back_through_its_token(stores: Stores) -> None:
    assert await demo.ensure_demo(stores)

    view = await stores.catalog.token_view("demo")
    assert view.token.public == 1
    image, labels = demo.make_volume(demo.SEED)
    for name, expected in (("em", image), ("cells", labels)):
        channel = view.channel(name)
        assert channel is not None
        place = Place(channel, view.dataset.level(0))
        found = await read_box(stores.cuboids, place, 0, Box((0, 0, 0), demo.SHAPE_ZYX))
        np.testing.assert_array_equal(found, expected)


async def test_image_is_the_default_channel(stores: Stores) -> None:
    await demo.ensure_demo(stores)

    channel = (await stores.catalog.token_view("demo")).channel("default")

    assert channel is not None
    assert channel.channel_name == "em"


async def test_store_with_a_dataset_is_left_alone(stores: Stores) -> None:
    mine = Dataset(dataset_name="mine", ximagesize=1, yimagesize=1, zimagesize=1, user=1)
    await stores.catalog.create_dataset(mine)

    assert not await demo.ensure_demo(stores)

    assert list(await stores.catalog.datasets()) == [mine]
    assert await demo.what_to_open(stores, ServerSettings()) == ()


async def test_what_to_open_names_the_address(stores: Stores) -> None:
    await demo.ensure_demo(stores)

    lines = await demo.what_to_open(stores, ServerSettings(host="127.0.0.1", port=8123))

    assert all("http://127.0.0.1:8123/" in line for line in lines)
