"""The parts that every voxel passes, each beside the least that the machine could do.

``pytest bench --benchmark-enable``: compare the lines of a group with its `memcpy` line.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ndcass import codec, merge, morton, plan
from ndcass.geometry import Box

CUBOID = (16, 128, 128)
WHOLE = tuple(slice(0, n) for n in CUBOID)
IDENTITY = codec.row_identity((1, 0, 0, 0, 0), bytes(16), 0, (0, 0, 0), CUBOID)
Voxels = npt.NDArray[Any]  # of whatever type a case has


def noise() -> Voxels:
    """An image, which does not compress."""
    return np.random.default_rng(1).integers(0, 256, CUBOID, dtype=np.uint8)


def labels() -> Voxels:
    """A few cells."""
    z, y, x = np.ogrid[: CUBOID[0], : CUBOID[1], : CUBOID[2]]
    cells: Voxels = ((z // 8) * 64 + (y // 24) * 8 + x // 24 + 1).astype("<u4")
    return cells


CASES = {"noise uint8": noise(), "labels uint32": labels()}


@pytest.mark.parametrize("case", CASES)
def test_memcpy_of_a_cuboid(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark.group = f"one cuboid, {case}"
    voxels = CASES[case]
    into = np.empty_like(voxels)
    benchmark(np.copyto, into, voxels)


@pytest.mark.parametrize("case", CASES)
def test_encode_a_cuboid(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark.group = f"one cuboid, {case}"
    parts = benchmark(codec.encode_parts, CASES[case], identity=IDENTITY)
    voxels, _ = codec.decode(b"".join(parts), identity=IDENTITY)
    assert np.array_equal(voxels, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_decode_a_cuboid(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark.group = f"one cuboid, {case}"
    payload = codec.encode(CASES[case], identity=IDENTITY)
    out = np.empty_like(CASES[case])
    benchmark(codec.decode_into, payload, WHOLE, out, identity=IDENTITY)
    assert np.array_equal(out, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_decode_one_plane(benchmark: BenchmarkFixture, case: str) -> None:
    benchmark.group = f"one plane, {case}"
    payload = codec.encode(CASES[case], identity=IDENTITY)
    source = (slice(7, 8), WHOLE[1], WHOLE[2])
    out = np.empty((1, *CUBOID[1:]), dtype=CASES[case].dtype)
    benchmark(codec.decode_into, payload, source, out, identity=IDENTITY)
    assert np.array_equal(out[0], CASES[case][7])


@pytest.mark.parametrize("op", [merge.WriteOp.MERGE, merge.WriteOp.PRESERVE])
def test_merge_a_cuboid(benchmark: BenchmarkFixture, op: merge.WriteOp) -> None:
    benchmark.group = "one cuboid, noise uint8"
    base = merge.Cuboid(noise(), merge.EMPTY)
    posted = noise()[::-1].copy()
    benchmark(merge.apply, base, op, (0, 0, 0), posted)


def test_morton_codes_of_a_million_cuboids(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a million Morton codes"
    grid = np.random.default_rng(2).integers(0, 1 << 21, (1_000_000, 3)).astype(np.uint64)
    benchmark(morton.encode_many, grid)


def test_memcpy_of_a_million_positions(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a million Morton codes"
    grid = np.random.default_rng(2).integers(0, 1 << 21, (1_000_000, 3)).astype(np.uint64)
    benchmark(grid.copy)


def test_plan_a_box_of_a_thousand_cuboids(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "a plan of a thousand cuboids"
    parts = benchmark(plan.plan_parts, Box((3, 5, 7), (160, 1280, 1290)), CUBOID)
    assert len(parts) > 1000
