"""Index arithmetic between levels, against numpy's fancy indexing."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import morton, resample
from ndcass.errors import OutOfBounds
from ndcass.geometry import Box, Geometry, level_of
from ndcass.plan import plan_parts
from ndcass.resample import Source

# Levels of 64 x 64 x 64 and 16 x 128 x 128 cuboids.
SIZE = (300, 900, 1000)
FLAT = Geometry(SIZE, (0, 0, 0), (30.0, 4.0, 4.0), isotropic=False, scaling_levels=9)
CUBIC = Geometry(SIZE, (0, 0, 0), (1.0, 1.0, 1.0), isotropic=True, scaling_levels=9)
GEOMETRIES = st.sampled_from([FLAT, CUBIC])
DTYPES = st.sampled_from(["u1", "<u2", "<u4", "<f4", "<i8"])


@st.composite
def boxes(draw: st.DrawFn, geometry: Geometry, level: int, most: int) -> Box:
    start, stop = [], []
    for size in level_of(geometry, level).size_zyx:
        a = draw(st.integers(0, size - 1))
        start.append(a)
        stop.append(draw(st.integers(a + 1, min(size, a + most))))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def base_voxels(axes: Iterable[Iterable[int]], dtype: str) -> npt.NDArray[Any]:
    """Voxels of the base level; they differ from those near them, and none is zero."""
    z, y, x = np.ix_(*(np.fromiter(axis, dtype=np.int64) for axis in axes))
    voxels: npt.NDArray[Any] = ((z * 31 + y * 7 + x * 3) % 251 + 1).astype(dtype)
    return voxels


def model(box: Box, source: Source, dtype: str) -> npt.NDArray[Any]:
    """Each voxel of a box by the rule."""
    axes = []
    for start, stop, factor in zip(box.start_zyx, box.stop_zyx, source.factor_zyx, strict=True):
        positions = np.arange(start, stop)
        axes.append(positions // factor if source.is_coarser else positions * factor)
    return base_voxels(axes, dtype)


@given(st.data(), GEOMETRIES, st.integers(1, 8), st.integers(0, 8), DTYPES)
def test_a_finer_level_repeats_the_base(
    data: st.DataObject, geometry: Geometry, steps: int, level: int, dtype: str
) -> None:
    base = min(level + steps, geometry.scaling_levels)
    source = resample.source_of(geometry, level, base)
    box = data.draw(boxes(geometry, level, 40))
    coarse = resample.coarse_box(box, source)
    voxels = base_voxels((range(s.start, s.stop) for s in coarse.slices()), dtype)
    out = np.empty(box.shape_zyx, dtype=dtype)
    resample.enlarge(voxels, source, box, out)
    assert np.array_equal(out, model(box, source, dtype))


@given(st.data(), GEOMETRIES, st.integers(0, 3), st.integers(1, 6), st.integers(1, 50))
def test_a_coarser_level_takes_the_first_voxel_of_each_block(
    data: st.DataObject, geometry: Geometry, base: int, steps: int, most: int
) -> None:
    source = resample.source_of(geometry, base + steps, base)
    box = data.draw(boxes(geometry, base + steps, 60))
    cuboid = source.level.cuboid_zyx
    out = np.zeros(box.shape_zyx, dtype=np.uint8)
    read: list[int] = []
    for piece in resample.pieces(box, source, most):
        parts = plan_parts(piece, cuboid, source.factor_zyx)
        assert len(parts) == resample.cuboids_under(piece, source) <= most
        z, y, x = box.start_zyx
        into = out[piece.shifted((-z, -y, -x)).slices()]
        for part in parts:
            origin = np.multiply(morton.decode(part.morton), cuboid).tolist()
            taken = [range(*s.indices(n)) for s, n in zip(part.source, cuboid, strict=True)]
            into[part.target] = base_voxels(
                (
                    range(o + r.start, o + r.stop, r.step)
                    for o, r in zip(origin, taken, strict=True)
                ),
                "u1",
            )
        read += [part.morton for part in parts]
    assert np.array_equal(out, model(box, source, "u1"))
    assert len(read) == len(set(read)) == resample.cuboids_under(box, source)


def test_z_is_kept_where_only_x_and_y_are_halved() -> None:
    assert resample.source_of(FLAT, 3, 1).factor_zyx == (1, 4, 4)
    assert resample.source_of(CUBIC, 1, 3).factor_zyx == (4, 4, 4)


def test_steps_larger_than_a_cuboid_leave_cuboids_out() -> None:
    source = resample.source_of(FLAT, 8, 0)  # every 256th voxel of cuboids of 128
    assert resample.cuboids_under(Box((0, 0, 0), (1, 3, 4)), source) == 12


def test_a_base_that_the_dataset_does_not_have_is_refused() -> None:
    with pytest.raises(OutOfBounds):
        resample.source_of(FLAT, 0, 10)
