"""The rules of the levels, against models that take one block of plain numbers at a time."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndcass.downsample import Rule, downsample
from ndcass.errors import InvalidRequest

INTEGERS = ["<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8"]
FLOATS = ["<f4", "<f8"]

Voxels = npt.NDArray[Any]  # whatever type a test is about


def even_boxes(dtype: str, *, few: bool = False) -> st.SearchStrategy[Voxels]:
    """Boxes of even sizes; with `few` of few values, so that labels meet."""
    half = st.integers(1, 3)
    shapes = st.tuples(half, half, half).map(lambda s: (2 * s[0], 2 * s[1], 2 * s[2]))
    kind = np.dtype(dtype)
    values = (
        st.integers(0, 3)
        if few
        else hnp.from_dtype(kind, allow_nan=False, allow_infinity=False)
        | st.sampled_from([0, 1, np.iinfo(kind).max if kind.kind in "iu" else 3])
    )
    return shapes.flatmap(lambda shape: hnp.arrays(kind, shape, elements=values))


def modelled(voxels: Voxels, pairs: bool, rule: Callable[[list[list[Any]]], Any]) -> list[Any]:
    """What a rule for one block makes of each; a block is a list of planes of a, b, c, d."""
    depth = 2 if pairs else 1
    found = []
    for z in range(0, voxels.shape[0], depth):
        for y in range(0, voxels.shape[1], 2):
            for x in range(0, voxels.shape[2], 2):
                block = voxels[z : z + depth, y : y + 2, x : x + 2]
                found.append(rule([[v.item() for v in plane.ravel()] for plane in block]))
    return found


def nearest(block: list[list[int]]) -> int:
    first, *others = (plane[3] for plane in block)
    if not others:
        return first
    second = others[0]
    if second == 0:
        return first
    if first == 0:
        return second
    total = first + second
    return total // 2 if total >= 0 else -(-total // 2)


def label(block: list[list[int]]) -> int:
    for a, b, c, d in block:
        held = a or b
        if c != 0 and (held == 0 or c in (a, b)):
            held = c
        if d != 0 and (held == 0 or d in (a, b, c)):
            held = d
        if held:
            return held
    return 0


def mean(block: list[list[int]]) -> int:
    values = [v for plane in block for v in plane]
    return round(Fraction(sum(values), len(values)))  # to the nearest, ties to even


def mode(block: list[list[int]]) -> int:
    values = [v for plane in block for v in plane]
    return max(values, key=lambda v: (values.count(v), v != 0))  # max takes the first


def rgba_components(voxels: Voxels) -> Sequence[Voxels]:
    return [((voxels >> np.uint32(shift)) & np.uint32(255)) for shift in (0, 8, 16, 24)]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("dtype", [name for name in INTEGERS if name != "<u4"])
@pytest.mark.parametrize(("rule", "model"), [(Rule.NEAREST, nearest), (Rule.MEAN, mean)])
def test_images_follow_the_model(
    dtype: str, pairs: bool, rule: Rule, model: Callable[[list[list[int]]], Any]
) -> None:
    @settings(max_examples=30)
    @given(even_boxes(dtype))
    def check(voxels: Voxels) -> None:
        assert downsample(voxels, rule, pairs=pairs).ravel().tolist() == modelled(
            voxels, pairs, model
        )

    check()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("rule", "model"), [(Rule.LABEL, label), (Rule.MODE, mode)])
def test_labels_follow_the_model(
    dtype: str, pairs: bool, rule: Rule, model: Callable[[list[list[int]]], Any]
) -> None:
    @settings(max_examples=30)
    @given(even_boxes(dtype, few=True))
    def check(voxels: Voxels) -> None:
        assert downsample(voxels, rule, pairs=pairs).ravel().tolist() == modelled(
            voxels, pairs, model
        )

    check()


@given(even_boxes("<u4"), st.booleans())
def test_the_mean_of_colours_is_that_of_each_component(voxels: Voxels, pairs: bool) -> None:
    out = downsample(voxels, Rule.MEAN, pairs=pairs)
    for component, made in zip(rgba_components(voxels), rgba_components(out), strict=True):
        assert made.ravel().tolist() == modelled(component, pairs, mean)


@given(even_boxes("<u4"))
def test_two_slices_of_colours_are_averaged_component_by_component(voxels: Voxels) -> None:
    made = downsample(voxels, Rule.NEAREST, pairs=True).ravel().tolist()
    first, second = (voxels[at::2, 1::2, 1::2].ravel().tolist() for at in (0, 1))
    for a, b, out in zip(first, second, made, strict=True):
        pair = zip(a.to_bytes(4, "little"), b.to_bytes(4, "little"), strict=True)
        both = bytes((p + q) // 2 for p, q in pair)
        assert out == (int.from_bytes(both, "little") if a and b else a or b)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pairs", [False, True])
def test_the_mean_of_floats_is_rounded_once(dtype: str, pairs: bool) -> None:
    exact = st.integers(-(1 << 18), 1 << 18).map(float)

    @given(hnp.arrays(np.dtype(dtype), (2, 4, 4), elements=exact))
    def check(voxels: Voxels) -> None:
        def model(block: list[list[float]]) -> float:
            values = [Fraction(v) for plane in block for v in plane]
            return float(np.dtype(dtype).type(float(sum(values) / len(values))))

        made = downsample(voxels, Rule.MEAN, pairs=pairs)
        assert made.dtype == dtype
        assert made.ravel().tolist() == modelled(voxels, pairs, model)

    check()


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_floats_do_not_become_infinite(dtype: str) -> None:
    most = np.finfo(dtype).max
    voxels = np.full((2, 2, 2), most, dtype=dtype)
    for rule in (Rule.MEAN, Rule.NEAREST):
        assert downsample(voxels, rule, pairs=True).tolist() == [[[most]]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_float_that_is_no_number_stays_one(dtype: str) -> None:
    voxels = np.ones((2, 2, 2), dtype=dtype)
    voxels[0, 1, 1] = np.nan
    for rule in (Rule.MEAN, Rule.NEAREST):
        assert np.isnan(downsample(voxels, rule, pairs=True)).all()
    voxels[:, 1, 1] = np.inf, -np.inf
    assert np.isnan(downsample(voxels, Rule.MEAN, pairs=True)).all()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ((1, 2, 2, 1), 1),
        ((1, 2, 3, 4), 1),
        ((0, 2, 3, 3), 3),
        ((1, 2, 3, 2), 2),
        ((0, 0, 7, 9), 7),
        ((0, 0, 0, 5), 5),
        ((1, 1, 2, 2), 2),
        ((1, 2, 1, 2), 2),
        ((1, 2, 3, 1), 1),
        ((0, 1, 2, 0), 1),
    ],
)
def test_the_table_of_the_contract(block: tuple[int, ...], expected: int) -> None:
    voxels = np.array(block, dtype="<u4").reshape(1, 2, 2)
    assert downsample(voxels, Rule.LABEL, pairs=False).tolist() == [[[expected]]]


def test_the_second_slice_counts_only_where_the_first_is_empty() -> None:
    voxels = np.array([[[0, 0, 1, 2]] * 2, [[3, 3, 3, 3]] * 2], dtype="<u8")
    assert downsample(voxels, Rule.LABEL, pairs=True).tolist() == [[[3, 2]]]


def test_the_odd_voxel_of_each_block_is_taken() -> None:
    voxels = np.arange(32, dtype="<u2").reshape(2, 4, 4)
    assert np.array_equal(downsample(voxels, Rule.NEAREST, pairs=False), voxels[:, 1::2, 1::2])


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 2, 3), (3, 2, 2)])
def test_an_odd_box_is_refused(rule: Rule, shape: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be halved"):
        downsample(np.zeros(shape, dtype="<u2"), rule, pairs=True)


@pytest.mark.parametrize("rule", [Rule.LABEL, Rule.MODE])
def test_floats_are_no_labels(rule: Rule) -> None:
    with pytest.raises(InvalidRequest, match="no labels"):
        downsample(np.zeros((2, 2, 2), dtype="<f4"), rule, pairs=False)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("pairs", [False, True])
def test_the_input_stays_as_it_is(rule: Rule, pairs: bool) -> None:
    voxels = np.random.default_rng(1).integers(0, 4, (4, 4, 4)).astype("<i8")
    before = voxels.copy()
    voxels.flags.writeable = False
    made = downsample(voxels, rule, pairs=pairs)
    assert np.array_equal(voxels, before)
    assert not np.shares_memory(made, voxels)
