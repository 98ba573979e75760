import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import morton
from ndcass.errors import InvalidRequest

LAST = (1 << 21) - 1
AXIS = st.one_of(st.integers(0, LAST), st.integers(0, 4096))
GRID = st.tuples(AXIS, AXIS, AXIS)

# (x, y, z) -> code
CHECKED = {
    (0, 0, 0): 0,
    (1, 0, 0): 1,
    (0, 1, 0): 2,
    (0, 0, 1): 4,
    (1, 1, 1): 7,
    (2, 0, 0): 8,
    (3, 5, 1): 143,
    (23, 31, 12): 15835,
    (LAST, LAST, LAST): (1 << 63) - 1,
}


def bit_by_bit(grid_zyx: tuple[int, int, int]) -> int:
    """The definition: bit i of x, y, z is bit 3i, 3i + 1, 3i + 2 of the code."""
    z, y, x = (format(axis, "021b") for axis in grid_zyx)
    return int("".join(c + b + a for a, b, c in zip(x, y, z, strict=True)), 2)


@pytest.mark.parametrize(("xyz", "code"), CHECKED.items())
def test_known_codes(xyz: tuple[int, int, int], code: int) -> None:
    x, y, z = xyz
    assert morton.encode((z, y, x)) == code
    assert morton.decode(code) == (z, y, x)


@given(GRID)
def test_a_code_is_the_interleaved_bits(grid: tuple[int, int, int]) -> None:
    assert morton.encode(grid) == bit_by_bit(grid)
    assert morton.decode(bit_by_bit(grid)) == grid


@given(st.lists(GRID, max_size=50))
def test_many_codes_are_those_of_one_each(grids: list[tuple[int, int, int]]) -> None:
    array = np.array(grids, dtype=np.uint64).reshape(-1, 3)
    codes = morton.encode_many(array)
    assert codes.dtype == np.uint64
    assert codes.tolist() == [bit_by_bit(grid) for grid in grids]
    assert np.array_equal(morton.decode_many(codes), array)


@pytest.mark.parametrize("bad", [-1, 1 << 21, 1 << 40])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_position_beyond_21_bits_is_refused(bad: int, axis: int) -> None:
    grid = [5, 5, 5]
    grid[axis] = bad
    with pytest.raises(InvalidRequest, match="outside"):
        morton.encode((grid[0], grid[1], grid[2]))
    with pytest.raises(InvalidRequest, match="outside"):
        morton.encode_many(np.array([[1, 2, 3], grid], dtype=np.int64))


@pytest.mark.parametrize("bad", [-1, 1 << 63])
def test_a_code_beyond_63_bits_is_refused(bad: int) -> None:
    with pytest.raises(InvalidRequest, match="Morton code"):
        morton.decode(bad)
    with pytest.raises(InvalidRequest, match="Morton code"):
        morton.decode_many(np.array([bad % (1 << 64)], dtype=np.uint64))


def test_arrays_of_another_kind_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no grid positions"):
        morton.encode_many(np.zeros((2, 2), dtype=np.uint64))
    with pytest.raises(InvalidRequest, match="no grid positions"):
        morton.encode_many(np.zeros((2, 3), dtype=np.float64))
    with pytest.raises(InvalidRequest, match="no Morton codes"):
        morton.decode_many(np.zeros(2, dtype=np.int64))


def test_inputs_are_left_alone() -> None:
    grid = np.array([[1, 2, 3]], dtype=np.uint64)
    codes = np.array([53], dtype=np.uint64)
    morton.encode_many(grid)
    morton.decode_many(codes)
    assert grid.tolist() == [[1, 2, 3]]
    assert codes.tolist() == [53]


def test_runs_of_nothing_are_none() -> None:
    assert morton.runs(np.array([], dtype=np.uint64)) == []


def test_runs_are_split_where_a_code_is_missing() -> None:
    codes = np.array([0, 1, 2, 5, 7, 8], dtype=np.uint64)
    assert morton.runs(codes) == [(0, 3), (5, 6), (7, 9)]


@given(st.lists(st.integers(0, 60) | st.integers((1 << 63) - 20, (1 << 63) - 1), max_size=60))
def test_runs_hold_exactly_the_codes_and_are_maximal(codes: list[int]) -> None:
    found = morton.runs(np.array(sorted(codes), dtype=np.uint64))
    assert [code for start, stop in found for code in range(start, stop)] == sorted(set(codes))
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found))
