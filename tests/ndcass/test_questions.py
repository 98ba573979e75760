"""Questions about regions of labels: answers equal what numpy makes of the whole arrays."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ndcass import label_tables, questions
from ndcass.annotation import ObjectVoxels, write_object_voxels
from ndcass.errors import InvalidRequest, TooLarge
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.questions import Columns, Region
from ndcass.resample import source_of
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.volume import Usage
from ndcass.writer import write_box
from tests.labelled import SIZE_ZYX, Volume, annotated

Voxels = npt.NDArray[Any]
WHOLE = Box((0, 0, 0), SIZE_ZYX)
# Across cuboids, beside their limits, and within one.
BOXES = (WHOLE, Box((3, 5, 7), (37, 199, 290)), Box((16, 128, 128), (32, 129, 256)))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cuboids a block, and tables that are added up all the time."""
    monkeypatch.setattr(questions, "BLOCK_BYTES", 2 << 20)
    monkeypatch.setattr(label_tables, "WAITING_ROWS", 10)


@pytest.fixture
async def stores() -> Stores:
    return MemoryStores()


def lumps(seed: int, labels: int, shape: tuple[int, int, int] = SIZE_ZYX) -> Voxels:
    """Labels in boxes that overlap, half of it background."""
    rng = np.random.default_rng(seed)
    voxels = np.zeros(shape, dtype="<u4")
    for label in range(1, labels + 1):
        low = rng.integers(0, shape)
        high = low + rng.integers(1, (12, 60, 90))
        voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label * 1000
    return voxels


async def written(volume: Volume, voxels: Voxels) -> Place:
    place = Place(volume.channel, volume.view.level(0))
    await write_box(volume.stores, place, 0, Box((0, 0, 0), voxels.shape), voxels)
    return place


async def imaged(volume: Volume, voxels: Voxels, datatype: str) -> Place:
    channel = await volume.stores.catalog.create_channel(
        Channel(
            id=0,
            project="p",
            channel_name="img",
            channel_type="image",
            channel_datatype=datatype,
        )
    )
    place = Place(channel, volume.view.level(0))
    await write_box(volume.stores, place, 0, Box((0, 0, 0), voxels.shape), voxels)
    return place


def pairs_of(columns: Columns, *names: str) -> list[Any]:
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def touching(voxels: Voxels) -> dict[tuple[int, int], int]:
    """By shifting the whole array, axis by axis."""
    found: Counter[tuple[int, int]] = Counter()
    for axis in range(3):
        first = np.moveaxis(voxels, axis, 0)[:-1].ravel()
        second = np.moveaxis(voxels, axis, 0)[1:].ravel()
        meet = (first != second) & (first != 0) & (second != 0)
        found.update(zip(first[meet].tolist(), second[meet].tolist(), strict=True))
    both: Counter[tuple[int, int]] = Counter()
    for (a, b), count in found.items():
        both[min(a, b), max(a, b)] += count
    return dict(both)


@pytest.mark.parametrize("box", BOXES)
async def test_sizes_and_ids_are_those_of_the_array(stores: Stores, box: Box) -> None:
    voxels = lumps(1, 30)
    region = Region(await written(await annotated(stores), voxels), 0, box)
    labels, counts = np.unique(voxels[box.slices()], return_counts=True)
    expected = [pair for pair in zip(labels.tolist(), counts.tolist(), strict=True) if pair[0]]
    assert pairs_of(await questions.sizes(stores, region, usage=Usage()), "label", "voxels") == (
        expected
    )
    found = await questions.ids(stores, region, usage=Usage())
    assert found["label"].tolist() == [label for label, _ in expected]


@pytest.mark.parametrize("box", BOXES)
async def test_faces_between_blocks_are_counted_once(stores: Stores, box: Box) -> None:
    voxels = lumps(2, 40)
    region = Region(await written(await annotated(stores), voxels), 0, box)
    found = await questions.touches(stores, region, usage=Usage())
    expected = touching(voxels[box.slices()])
    rows = pairs_of(found, "label", "other", "faces")
    assert {(a, b): faces for a, b, faces in rows} == expected
    assert rows == sorted(rows)


@pytest.mark.parametrize("datatype", ["uint8", "int16", "float32"])
async def test_statistics_are_those_of_the_voxels_under_each_label(
    stores: Stores, datatype: str
) -> None:
    voxels = lumps(3, 30)
    volume = await annotated(stores)
    region = Region(await written(volume, voxels), 0, WHOLE)
    rng = np.random.default_rng(4)
    values = (rng.standard_normal(SIZE_ZYX) * 20 + 100).astype(datatype)
    image = await imaged(volume, values, datatype)
    found = await questions.statistics(stores, region, image, 0, usage=Usage())
    labels = [label for label in np.unique(voxels).tolist() if label]
    assert found["label"].tolist() == labels
    under = [values[voxels == label].astype(np.float64) for label in labels]
    assert found["voxels"].tolist() == [len(some) for some in under]
    for name in ("mean", "std", "min", "max"):
        expected = [getattr(some, name)() for some in under]
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-9)


async def test_a_voxel_that_is_no_number_is_none_under_its_label_only(stores: Stores) -> None:
    volume = await annotated(stores)
    labels = np.array([[[1, 1, 2, 2]]], dtype="<u4")
    image = await imaged(volume, np.array([[[1, np.nan, 3, 5]]], dtype="<f4"), "float32")
    region = Region(await written(volume, labels), 0, Box((0, 0, 0), (1, 1, 4)))
    found = await questions.statistics(stores, region, image, 0, usage=Usage())
    assert np.isnan(found["mean"][0])
    assert (found["mean"][1], found["std"][1], found["max"][1]) == (4, 1, 5)


async def test_exceptions_count_as_voxels_of_their_object(stores: Stores) -> None:
    volume = await annotated(stores, exceptions=1)
    place = await written(volume, np.full((1, 1, 300), 7, dtype="<u4"))
    points = np.array([(0, 0, x) for x in range(120, 140)] + [(1, 0, 0)], dtype=np.int64)
    await write_object_voxels(
        *volume.target, [ObjectVoxels(9, 0, points, ())], WriteOp.EXCEPTION, usage=Usage()
    )
    region = Region(place, 0, WHOLE)
    found = await questions.sizes(stores, region, usage=Usage())
    assert pairs_of(found, "label", "voxels") == [(7, 300), (9, 21)]
    some = Region(place, 0, Box((0, 0, 125), (1, 1, 130)))
    found = await questions.sizes(stores, some, usage=Usage())
    assert pairs_of(found, "label", "voxels") == [(7, 5), (9, 5)]
    values = np.arange(300, dtype="<u2").reshape(1, 1, 300)
    image = await imaged(volume, values, "uint16")
    found = await questions.statistics(stores, some, image, 0, usage=Usage())
    assert pairs_of(found, "label", "voxels", "mean", "min", "max") == [
        (7, 5, 127, 125, 129),
        (9, 5, 127, 125, 129),
    ]


async def test_an_empty_region_has_an_empty_answer(stores: Stores) -> None:
    volume = await annotated(stores)
    region = Region(Place(volume.channel, volume.view.level(0)), 0, WHOLE)
    image = await imaged(volume, np.ones((1, 1, 1), dtype="u1"), "uint8")
    usage = Usage()
    for found in (
        await questions.ids(stores, region, usage=usage),
        await questions.sizes(stores, region, usage=usage),
        await questions.touches(stores, region, usage=usage),
        await questions.statistics(stores, region, image, 0, usage=usage),
    ):
        assert {len(column) for column in found.values()} == {0}


async def test_levels_that_are_not_stored_and_wrong_channels_are_refused(stores: Stores) -> None:
    volume = await annotated(stores)
    place = await written(volume, lumps(1, 3))
    image = await imaged(volume, np.ones((1, 1, 1), dtype="u1"), "uint8")
    made = Place(
        volume.channel, volume.view.level(1), source=source_of(volume.view.dataset.geometry, 1, 0)
    )
    box = Box((0, 0, 0), (1, 1, 1))
    with pytest.raises(InvalidRequest, match="not stored"):
        await questions.touches(stores, Region(made, 0, box), usage=Usage())
    with pytest.raises(InvalidRequest, match="not stored"):
        await questions.statistics(stores, Region(place, 0, box), made, 0, usage=Usage())
    with pytest.raises(InvalidRequest, match="no annotation channel"):
        await questions.sizes(stores, Region(image, 0, box), usage=Usage())
    with pytest.raises(InvalidRequest, match="of an image channel"):
        await questions.statistics(stores, Region(place, 0, box), place, 0, usage=Usage())


async def test_noise_has_too_many_labels(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_ROWS", 1000)
    noise = np.arange(1, 2001, dtype="<u4").reshape(2, 10, 100)
    region = Region(await written(await annotated(stores), noise), 0, WHOLE)
    for question in (questions.sizes, questions.touches):
        with pytest.raises(TooLarge, match="rows"):
            await question(stores, region, usage=Usage())


async def test_a_real_stack_is_as_its_files_are(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # blocks of their real size
    folder = shared / "data" / "drosophila-vnc"
    labels, values = (
        np.stack([np.asarray(Image.open(path)) for path in sorted((folder / name).iterdir())])
        for name in ("labels", "raw")
    )
    labels = labels.astype("<u4")
    stores = await open_embedded(tmp_path)
    sizes = {"ximagesize": 1024, "yimagesize": 1024, "zimagesize": 20}
    volume = await annotated(stores, dataset=sizes)
    region = Region(await written(volume, labels), 0, Box((0, 0, 0), labels.shape))
    image = await imaged(volume, values, "uint8")
    known, counts = np.unique(labels[labels > 0], return_counts=True)
    found = await questions.statistics(stores, region, image, 0, usage=Usage())
    assert found["label"].tolist() == known.tolist()
    assert found["voxels"].tolist() == counts.tolist()
    for name in ("mean", "std", "min", "max"):
        expected = [getattr(values[labels == label], name)() for label in known]
        np.testing.assert_allclose(found[name], expected, rtol=1e-12)
    found = await questions.touches(stores, region, usage=Usage())
    rows = pairs_of(found, "label", "other", "faces")
    assert {(a, b): faces for a, b, faces in rows} == touching(labels)
    assert all(a < b for a, b in itertools.pairwise(known.tolist()))
    await stores.close()
