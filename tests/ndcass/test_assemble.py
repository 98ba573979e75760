from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import codec
from ndcass.assemble import assemble, merged
from ndcass.errors import CorruptValue
from ndcass.geometry import Box
from ndcass.merge import EMPTY, Cuboid, CuboidRow, Exceptions, WriteOp, apply
from ndcass.plan import plan_parts

CUBOID = (4, 8, 8)
Voxels = npt.NDArray[Any]  # whatever type a test stores


def address_of(morton: int) -> tuple[int, ...]:
    return (1, 0, 0, 0, morton)


def row(
    morton: int,
    number: int,
    op: WriteOp,
    voxels: Voxels,
    corner: tuple[int, int, int] = (0, 0, 0),
    exceptions: Exceptions = EMPTY,
) -> CuboidRow:
    """The `number`th row of a cuboid."""
    z, y, x = voxels.shape
    write_id = number.to_bytes(16, "big")
    identity = codec.row_identity(address_of(morton), write_id, op, corner, (z, y, x))
    return CuboidRow(
        write_id, op, corner, (z, y, x), codec.encode(voxels, exceptions, identity=identity)
    )


def full(value: int) -> Voxels:
    return np.full(CUBOID, value, dtype="<u2")


def assembled(box: Box, rows_of: Mapping[int, tuple[CuboidRow, ...]], fill: int = 0) -> Voxels:
    out = np.full(box.shape_zyx, fill, dtype="<u2")
    found = [
        (part, address_of(part.morton), rows_of[part.morton], out)
        for part in plan_parts(box, CUBOID)
        if part.morton in rows_of
    ]
    assemble(found, cuboid_zyx=CUBOID)
    return out


@given(st.data())
def test_a_box_is_the_same_voxels_as_in_the_whole_volume(data: st.DataObject) -> None:
    """2 x 2 x 2 cuboids, each of nought to three rows of random boxes, against one large array."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    volume = np.zeros((8, 16, 16), dtype="<u2")
    rows_of: dict[int, tuple[CuboidRow, ...]] = {}
    for part in plan_parts(Box((0, 0, 0), volume.shape), CUBOID):
        cuboid = Cuboid(np.zeros(CUBOID, dtype="<u2"))
        rows = []
        for number in range(data.draw(st.integers(0, 3))):
            op = WriteOp(data.draw(st.integers(1, 6)))
            starts = [int(rng.integers(size)) for size in CUBOID]
            if data.draw(st.booleans()):
                starts = [0, 0, 0]
            corner = (starts[0], starts[1], starts[2])
            shape = tuple(size - a for size, a in zip(CUBOID, starts, strict=True))
            voxels = rng.integers(0, 3, shape).astype("<u2")
            rows.append(row(part.morton, number, op, voxels, corner))
            cuboid = apply(cuboid, op, corner, voxels)
        if rows:
            rows_of[part.morton] = tuple(rows)
            volume[part.target] = cuboid.voxels
    start = data.draw(st.tuples(*[st.integers(0, n - 1) for n in volume.shape]))
    stop = data.draw(
        st.tuples(*[st.integers(a + 1, n) for a, n in zip(start, volume.shape, strict=True)])
    )
    box = Box(start, stop)
    assert np.array_equal(assembled(box, rows_of), volume[box.slices()])


def test_what_was_not_found_is_left_alone() -> None:
    rows_of = {1: (row(1, 1, WriteOp.BASE, full(5)),)}
    out = assembled(Box((0, 0, 0), (1, 1, 16)), rows_of, fill=9)
    assert out.ravel().tolist() == [9] * 8 + [5] * 8


@pytest.mark.parametrize("op", [WriteOp.REDUCE, WriteOp.ERASE])
def test_a_lone_row_that_takes_away_leaves_zeros(op: WriteOp) -> None:
    assert not assembled(Box((0, 0, 0), CUBOID), {0: (row(0, 1, op, full(5)),)}).any()


@pytest.mark.parametrize(
    "op", [WriteOp.BASE, WriteOp.MERGE, WriteOp.REPLACE, WriteOp.PRESERVE, WriteOp.EXCEPTION]
)
def test_a_lone_row_of_a_whole_cuboid_is_the_cuboid(op: WriteOp) -> None:
    voxels = np.arange(256, dtype="<u2").reshape(CUBOID)
    assert np.array_equal(assembled(Box((0, 0, 0), CUBOID), {0: (row(0, 1, op, voxels),)}), voxels)


def test_exceptions_of_a_base_and_of_later_rows_are_merged() -> None:
    its = Exceptions(np.array([3], dtype=np.uint32), np.array([7], dtype=np.uint64))
    rows = (
        row(0, 1, WriteOp.BASE, full(5), exceptions=its),
        row(0, 2, WriteOp.EXCEPTION, np.full((1, 1, 2), 8, dtype="<u2"), (0, 0, 3)),
    )
    cuboid = merged(address_of(0), rows, cuboid_zyx=CUBOID, dtype=np.dtype("<u2"))
    assert (cuboid.voxels == 5).all()
    assert cuboid.exceptions.offsets.tolist() == [3, 3, 4]
    assert cuboid.exceptions.labels.tolist() == [7, 8, 8]


@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_row_is_an_error_that_names_the_cuboid(count: int) -> None:
    noise = np.random.default_rng(1).integers(0, 1 << 16, CUBOID).astype("<u2")
    rows = [row(3, number, WriteOp.MERGE, noise) for number in range(count)]
    damaged = bytearray(rows[-1].payload)
    damaged[-1] ^= 4
    rows[-1] = rows[-1]._replace(payload=bytes(damaged))
    with pytest.raises(CorruptValue, match=r"\(1, 0, 0, 0, 3\)"):
        assembled(Box((0, 8, 8), (4, 16, 16)), {3: tuple(rows)})


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_of_another_type_is_an_error(count: int) -> None:
    rows = tuple(row(0, n, WriteOp.MERGE, np.ones(CUBOID, dtype="<u1")) for n in range(count))
    with pytest.raises(CorruptValue):
        assembled(Box((0, 0, 0), CUBOID), {0: rows})


@pytest.mark.parametrize("shape", [(5, 8, 8), (4, 16, 16)])
def test_a_row_larger_than_its_cuboid_is_an_error(shape: tuple[int, int, int]) -> None:
    rows = (row(0, 1, WriteOp.BASE, np.ones(shape, dtype="<u2")),)
    with pytest.raises(CorruptValue):
        assembled(Box((0, 0, 0), CUBOID), {0: rows})
