"""Writes on the in-memory store: bodies in any pieces, and what is refused."""

import asyncio
import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndcass.errors import BadBody, NotFound, ReadOnly
from ndcass.geometry import Box
from ndcass.place import Place, Slab
from ndcass.store.base import Stores
from ndcass.writer import BodyWriter, cutout_writer, write_box
from tests.volumes import boxes, random_voxels, read, stores_with_channel

Voxels = npt.NDArray[Any]


@settings(max_examples=20, deadline=None)
@given(box=boxes(), cuts=st.lists(st.integers(1, 200_000), max_size=6), times=st.integers(1, 2))
def test_a_body_may_arrive_in_any_pieces(box: Box, cuts: list[int], times: int) -> None:
    async def run() -> None:
        stores, place = await stores_with_channel(channel_datatype="uint16")
        voxels = random_voxels((times, *box.shape_zyx), "<u2")
        body = voxels.tobytes()
        edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
        async with (
            cutout_writer(stores) as writer,
            BodyWriter(writer, [place], list(range(times)), box) as into,
        ):
            for a, b in pairwise(edges):
                await into.feed(body[a:b])
            await into.finish()
            await writer.commit()
        for t in range(times):
            assert np.array_equal(await read(stores, place, box, t), voxels[t])

    asyncio.run(run())


async def post(stores: Stores, place: Place, box: Box, body: bytes) -> None:
    async with (
        cutout_writer(stores) as writer,
        BodyWriter(writer, [place], [0], box) as into,
    ):
        await into.feed(body)
        await into.finish()
        await writer.commit()


async def test_labels_and_images_go_together_and_only_labels_into_the_index() -> None:
    stores, image = await stores_with_channel(channel_datatype="uint32")
    labels = Place(
        await stores.catalog.create_channel(
            dataclasses.replace(
                image.channel, id=0, channel_name="labels", channel_type="annotation"
            )
        ),
        image.level,
    )
    box = Box((0, 0, 0), (20, 40, 50))
    some, others = (random_voxels(box.shape_zyx, "<u4") for _ in range(2))
    some[...], others[...] = some % 7, others % 7 + 7
    async with cutout_writer(stores) as writer:
        for voxels in (some, others):  # the later of two writes to a voxel counts
            slabs = [(Slab(place, 0, box), voxels) for place in (image, labels, image)]
            await writer.write_slabs(slabs)
        await writer.commit()
    for place, listed in ((image, set()), (labels, set(range(1, 14)))):
        assert np.array_equal(await read(stores, place, box), others)
        assert await stores.labels.listed(place.channel.id, 0, list(range(14))) == listed


async def test_a_short_body_changes_nothing() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (40, 50, 50))
    with pytest.raises(BadBody, match="fewer"):
        await post(stores, place, box, random_voxels((39, 50, 50)).tobytes())
    assert not (await read(stores, place, box)).any()


async def test_a_long_body_changes_nothing() -> None:
    stores, place = await stores_with_channel()
    box = Box((0, 0, 0), (2, 50, 50))
    with pytest.raises(BadBody, match="more"):
        await post(stores, place, box, bytes(2 * 50 * 50 + 1))
    assert not (await read(stores, place, box)).any()


async def test_a_write_of_another_type_is_refused() -> None:
    stores, place = await stores_with_channel()
    with pytest.raises(BadBody, match="uint16"):
        await write_box(
            stores, place, 0, Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), dtype=np.uint16)
        )


async def test_a_read_only_channel_takes_nothing() -> None:
    stores, place = await stores_with_channel(readonly=1)
    with pytest.raises(ReadOnly):
        await write_box(
            stores, place, 0, Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), dtype=np.uint8)
        )


async def test_a_write_into_a_channel_that_was_deleted_meanwhile_is_not_acknowledged() -> None:
    stores, place = await stores_with_channel()
    async with cutout_writer(stores) as writer:
        box = Box((0, 0, 0), (1, 1, 1))
        await writer.write(place, 0, box, np.ones((1, 1, 1), dtype=np.uint8))
        await stores.catalog.delete_channel("p", "c")
        with pytest.raises(NotFound, match="deleted"):
            await writer.commit()
