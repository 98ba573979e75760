from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndcass.errors import CorruptValue, InvalidRequest
from ndcass.merge import (
    EMPTY,
    Cuboid,
    Exceptions,
    WriteOp,
    apply,
    apply_in_place,
    is_blank,
    is_solid,
    merge_rows,
    without_negative_zeros,
)

SHAPE = (2, 3, 4)
INTEGERS = ["<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8"]
FLOATS = ["<f4", "<f8"]
IMAGE_OPS = [WriteOp.MERGE, WriteOp.REPLACE, WriteOp.PRESERVE]
LABEL_OPS = [WriteOp.EXCEPTION, WriteOp.REDUCE, WriteOp.ERASE]

Row = tuple[WriteOp, tuple[int, int, int], npt.NDArray[Any]]
Place = tuple[int, int, int]


class Model:
    """A cuboid as a dict of voxels and a dict of sets: the rules, one voxel at a time."""

    def __init__(self, dtype: str) -> None:
        zero = np.zeros((), dtype=dtype)[()]
        self.dtype = dtype
        self.painted: dict[Place, Any] = dict.fromkeys(np.ndindex(SHAPE), zero)
        self.others: dict[Place, set[int]] = {place: set() for place in np.ndindex(SHAPE)}

    def write(self, op: WriteOp, corner: tuple[int, int, int], voxels: npt.NDArray[Any]) -> None:
        for place in np.ndindex(voxels.shape):
            z, y, x = (a + b for a, b in zip(place, corner, strict=True))
            self._write_voxel(op, (z, y, x), voxels[place])

    def _write_voxel(self, op: WriteOp, at: Place, v: Any) -> None:
        stored, others = self.painted[at], self.others[at]
        if op == WriteOp.REPLACE:
            self.painted[at] = v
            others.clear()
            return
        if v == 0:
            return
        label = int(v) % (1 << 64) if np.dtype(self.dtype).kind in "iu" else None
        if op == WriteOp.MERGE or (op == WriteOp.PRESERVE and stored == 0):
            self.painted[at] = v
            others.discard(label)
        elif op == WriteOp.EXCEPTION:
            if stored == 0:
                self.painted[at] = v
                others.discard(label)
            elif stored != v and label is not None:
                others.add(label)
        elif op == WriteOp.REDUCE and stored == v:
            self.painted[at] = np.zeros((), dtype=self.dtype)[()]
        elif op == WriteOp.ERASE and stored == v:
            lowest = min(others, default=0)
            self.painted[at] = np.array([lowest], dtype=np.uint64).astype(self.dtype)[0]
            others.discard(lowest)
        elif op in (WriteOp.REDUCE, WriteOp.ERASE):
            others.discard(label)

    def voxels(self) -> npt.NDArray[Any]:
        return np.array(list(self.painted.values()), dtype=self.dtype).reshape(SHAPE)

    def pairs(self) -> list[tuple[int, int]]:
        return [
            (offset, label)
            for offset, labels in enumerate(self.others.values())
            for label in sorted(labels)
        ]


def pairs(exceptions: Exceptions) -> list[tuple[int, int]]:
    assert exceptions.offsets.dtype == np.uint32
    assert exceptions.labels.dtype == np.uint64
    return list(zip(exceptions.offsets.tolist(), exceptions.labels.tolist(), strict=True))


def same_bits(some: npt.NDArray[Any], others: npt.NDArray[Any]) -> bool:
    return some.dtype == others.dtype and some.tobytes() == others.tobytes()


def values(dtype: str) -> st.SearchStrategy[Any]:
    """Few values, so that they meet; among them the ends of the range and odd floats."""
    if dtype in FLOATS:
        return st.sampled_from([0.0, 0.0, -0.0, 1.0, -2.5, float("nan"), float("inf")])
    limits = np.iinfo(dtype)
    return st.sampled_from([0, 0, 1, 2, 3, int(limits.max), int(limits.min)])


@st.composite
def rows(draw: st.DrawFn, dtype: str, ops: list[WriteOp]) -> Row:
    starts = [draw(st.integers(0, size - 1)) for size in SHAPE]
    stops = [draw(st.integers(a + 1, size)) for a, size in zip(starts, SHAPE, strict=True)]
    shape = tuple(b - a for a, b in zip(starts, stops, strict=True))
    voxels = draw(hnp.arrays(dtype, shape, elements=values(dtype), fill=st.nothing()))
    return draw(st.sampled_from(ops)), (starts[0], starts[1], starts[2]), voxels


def check_against_model(dtype: str, written: list[Row]) -> None:
    model = Model(dtype)
    cuboid = Cuboid(np.zeros(SHAPE, dtype=dtype), EMPTY)
    for op, corner, voxels in written:
        before = cuboid.voxels.copy(), pairs(cuboid.exceptions), voxels.copy()
        merged = apply(cuboid, op, corner, voxels)
        assert same_bits(cuboid.voxels, before[0])
        assert pairs(cuboid.exceptions) == before[1]
        assert same_bits(voxels, before[2])
        model.write(op, corner, voxels)
        cuboid = merged
        assert same_bits(cuboid.voxels, model.voxels())
        assert pairs(cuboid.exceptions) == model.pairs()
    at_once = merge_rows(SHAPE, np.dtype(dtype), [(*row, EMPTY) for row in written])
    assert same_bits(at_once.voxels, model.voxels())
    assert pairs(at_once.exceptions) == model.pairs()


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
def test_every_op_on_integers_does_what_the_rules_say(dtype: str, data: st.DataObject) -> None:
    check_against_model(dtype, data.draw(st.lists(rows(dtype, IMAGE_OPS + LABEL_OPS), max_size=8)))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_image_ops_on_floats_do_what_the_rules_say(dtype: str, data: st.DataObject) -> None:
    check_against_model(dtype, data.draw(st.lists(rows(dtype, IMAGE_OPS), max_size=8)))


@pytest.mark.parametrize("op", LABEL_OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_label_ops_on_floats_are_refused(dtype: str, op: WriteOp) -> None:
    base = np.ones(SHAPE, dtype=dtype)
    with pytest.raises(InvalidRequest, match="no labels"):
        apply_in_place(base, EMPTY, op, (0, 0, 0), base.copy())
    assert (base == 1).all()


def labels(*values: int) -> npt.NDArray[np.uint32]:
    return np.array(values, dtype="<u4").reshape(1, 1, -1)


def written(*written_rows: tuple[WriteOp, npt.NDArray[np.uint32]]) -> tuple[list[int], Any]:
    """Painted labels and exceptions of a row of voxels after some writes at its start."""
    merged = merge_rows(
        (1, 1, 4), np.dtype("<u4"), [(op, (0, 0, 0), v, EMPTY) for op, v in written_rows]
    )
    return merged.voxels.ravel().tolist(), pairs(merged.exceptions)


def test_an_exception_is_remembered_beside_the_painted_label() -> None:
    assert written((WriteOp.MERGE, labels(0, 5, 7)), (WriteOp.EXCEPTION, labels(7, 7, 7))) == (
        [7, 5, 7, 0],
        [(1, 7)],
    )


def test_an_exception_that_gets_painted_is_one_no_longer() -> None:
    assert written(
        (WriteOp.MERGE, labels(5)), (WriteOp.EXCEPTION, labels(7)), (WriteOp.MERGE, labels(7))
    ) == ([7, 0, 0, 0], [])


def test_reduce_leaves_exceptions_of_others_where_the_painted_label_went() -> None:
    assert written(
        (WriteOp.MERGE, labels(5, 5)),
        (WriteOp.EXCEPTION, labels(7, 8)),
        (WriteOp.REDUCE, labels(5, 8)),
    ) == ([0, 5, 0, 0], [(0, 7)])


def test_erase_brings_the_lowest_exception_to_light() -> None:
    assert written(
        (WriteOp.MERGE, labels(5)),
        (WriteOp.EXCEPTION, labels(9)),
        (WriteOp.EXCEPTION, labels(7)),
        (WriteOp.ERASE, labels(5)),
    ) == ([7, 0, 0, 0], [(0, 9)])


def test_replace_drops_the_exceptions_of_its_box_only() -> None:
    assert written(
        (WriteOp.MERGE, labels(5, 5)),
        (WriteOp.EXCEPTION, labels(7, 7)),
        (WriteOp.REPLACE, labels(0)),
    ) == ([0, 5, 0, 0], [(1, 7)])


def test_a_base_replaces_all_that_came_before_it() -> None:
    base = np.array([1, 2, 0, 0], dtype="<u4").reshape(1, 1, 4)
    its = Exceptions(np.array([1], dtype=np.uint32), np.array([9], dtype=np.uint64))
    merged = merge_rows(
        (1, 1, 4),
        np.dtype("<u4"),
        [
            (WriteOp.MERGE, (0, 0, 0), labels(8, 8, 8, 8), EMPTY),
            (WriteOp.BASE, (0, 0, 0), base, its),
            (WriteOp.MERGE, (0, 0, 2), labels(3), EMPTY),
        ],
    )
    assert merged.voxels.ravel().tolist() == [1, 2, 3, 0]
    assert pairs(merged.exceptions) == [(1, 9)]
    assert base.ravel().tolist() == [1, 2, 0, 0]


def test_a_lone_base_is_not_copied() -> None:
    base = np.ones(SHAPE, dtype="<u1")
    base.flags.writeable = False
    merged = merge_rows(SHAPE, np.dtype("<u1"), [(WriteOp.BASE, (0, 0, 0), base, EMPTY)])
    assert np.shares_memory(merged.voxels, base)


def test_no_rows_are_zeros() -> None:
    merged = merge_rows(SHAPE, np.dtype("<f4"), [])
    assert same_bits(merged.voxels, np.zeros(SHAPE, dtype="<f4"))
    assert pairs(merged.exceptions) == []


@pytest.mark.parametrize(
    ("corner", "shape"),
    [((0, 0, 1), SHAPE), ((-1, 0, 0), (1, 1, 1)), ((0, 0, 0), (3, 4))],
)
def test_a_box_outside_the_cuboid_is_refused(
    corner: tuple[int, int, int], shape: tuple[int, ...]
) -> None:
    voxels = np.ones(shape, dtype="<u1")
    with pytest.raises(InvalidRequest, match="do not fit"):
        apply(Cuboid(np.zeros(SHAPE, dtype="<u1")), WriteOp.MERGE, corner, voxels)
    with pytest.raises(CorruptValue, match="does not fit"):
        merge_rows(SHAPE, np.dtype("<u1"), [(WriteOp.MERGE, corner, voxels, EMPTY)])


def test_another_type_is_refused() -> None:
    voxels = np.ones(SHAPE, dtype="<u2")
    with pytest.raises(InvalidRequest, match="do not fit"):
        apply(Cuboid(np.zeros(SHAPE, dtype="<u1")), WriteOp.MERGE, (0, 0, 0), voxels)
    with pytest.raises(CorruptValue, match="does not fit"):
        merge_rows(SHAPE, np.dtype("<u1"), [(WriteOp.MERGE, (0, 0, 0), voxels, EMPTY)])


def test_a_base_that_is_not_whole_is_refused() -> None:
    part = np.ones((1, 1, 1), dtype="<u1")
    with pytest.raises(InvalidRequest, match="base"):
        apply(Cuboid(np.zeros(SHAPE, dtype="<u1")), WriteOp.BASE, (0, 0, 0), part)
    with pytest.raises(CorruptValue, match="base"):
        merge_rows(SHAPE, np.dtype("<u1"), [(WriteOp.BASE, (0, 0, 0), part, EMPTY)])


def test_voxels_need_not_be_contiguous() -> None:
    big = np.arange(4 * 6 * 8, dtype="<u2").reshape(4, 6, 8)
    part = big[::2, ::2, ::2]
    for op in [*IMAGE_OPS, WriteOp.EXCEPTION, WriteOp.BASE]:
        merged = apply(Cuboid(np.zeros(SHAPE, dtype="<u2")), op, (0, 0, 0), part)
        assert np.array_equal(merged.voxels, part)


SIGNALLING_NAN = np.array([0x7F800001, 0, 0x80000000], dtype="<u4").view("<f4")


def test_a_signalling_nan_counts_and_keeps_its_bits_without_a_warning() -> None:
    assert not is_blank(SIGNALLING_NAN)
    assert is_solid(SIGNALLING_NAN[:1])
    posted = without_negative_zeros(SIGNALLING_NAN, WriteOp.MERGE)
    assert posted.view("<u4").tolist() == [0x7F800001, 0, 0]
    kept = without_negative_zeros(SIGNALLING_NAN, WriteOp.REPLACE)
    assert kept.view("<u4").tolist() == [0x7F800001, 0, 0x80000000]


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_blank_and_solid_voxels_are_told_apart(dtype: str) -> None:
    zeros, ones, both = (np.array(v, dtype=dtype) for v in ([0, 0], [1, 1], [0, 1]))
    assert (is_blank(zeros), is_blank(ones), is_blank(both)) == (True, False, False)
    assert (is_solid(zeros), is_solid(ones), is_solid(both)) == (False, True, False)
    if np.dtype(dtype).kind != "u":
        assert is_solid(np.array([-1, 1], dtype=dtype))
        assert not is_solid(np.array([-1, 0], dtype=dtype))
