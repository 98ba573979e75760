"""Small objects of one cuboid are painted together, as if one after the other."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.geometry import Box
from ndcass.label_painting import ObjectVoxels, Painting, joined, painted
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset
from ndcass.place import Place
from tests.labelled import Model

SHAPE = (20, 150, 150)
PLACE = Place(
    Channel(1, "p", "c", "annotation", "uint32"), Dataset("d", 150, 150, 20, user=1).level(0)
)

objects = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.tuples(st.integers(0, 18), st.integers(120, 140), st.integers(120, 140)),
        st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    ),
    max_size=8,
)


def paintings(
    items: Iterable[tuple[int, tuple[int, int, int], tuple[int, int, int]]],
) -> list[Painting]:
    found: list[Painting] = []
    for label, corner, shape in items:
        mask = np.ones(shape, dtype=np.bool_)
        found += painted(ObjectVoxels(label, 0, None, [(corner, mask)]), PLACE)
    return found


def after(some: Iterable[Painting], op: WriteOp) -> Model:
    model = Model(SHAPE)
    model.paint(WriteOp.MERGE, Box((0, 125, 125), (9, 135, 135)), np.full((9, 10, 10), 2, "<u4"))
    for slab, voxels in some:
        model.paint(op, slab.box, voxels)
    return model


@pytest.mark.parametrize("op", [WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REDUCE])
@given(items=objects)
def test_joined_paintings_do_what_they_would_one_by_one(
    op: WriteOp, items: list[tuple[int, tuple[int, int, int], tuple[int, int, int]]]
) -> None:
    some = paintings(items)
    one_by_one, together = after(some, op).cuboid, after(joined(iter(some)), op).cuboid
    assert np.array_equal(one_by_one.voxels, together.voxels)
    assert np.array_equal(one_by_one.exceptions.offsets, together.exceptions.offsets)
    assert np.array_equal(one_by_one.exceptions.labels, together.exceptions.labels)


def test_a_cuboid_is_painted_once_where_its_objects_do_not_overlap() -> None:
    some = paintings([(1, (0, 0, 0), (1, 2, 2)), (2, (5, 9, 9), (1, 2, 2))])
    [(slab, voxels)] = joined(iter(some))
    assert slab.box == Box((0, 0, 0), (6, 11, 11))
    assert sorted(set(voxels.reshape(-1).tolist())) == [0, 1, 2]
    overlapping = paintings([(1, (0, 0, 0), (1, 2, 2)), (2, (0, 1, 1), (1, 2, 2))])
    assert len(list(joined(iter(overlapping)))) == 2
