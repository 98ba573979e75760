import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ndcass.errors import CorruptValue, InvalidRequest
from ndcass.histogram import Histogram, Tally, bins_of, count


def of(*voxels: int, bins: int = 256) -> Histogram:
    return Histogram(count(np.array(voxels, dtype="<u2"), bins))


@given(arrays.arrays("<u1", st.integers(0, 200)))
def test_counts_are_those_of_numpy_over_what_is_not_zero(voxels: np.ndarray) -> None:
    counts, edges = np.histogram(voxels[voxels > 0], bins=256, range=(0, 256))
    found = Histogram(count(voxels, 256))
    assert found.counts.tolist() == counts.tolist()
    assert found.edges == edges.tolist()


def test_every_value_of_16_bits_has_a_bin() -> None:
    voxels = np.arange(1 << 16, dtype="<u2").reshape(4, 128, 128)
    found = Histogram(count(voxels, bins_of("uint16")))
    assert found.counts.tolist() == [0] + [1] * 65535
    assert found.edges[-1] == 65536.0


@given(st.lists(st.integers(1, 255), min_size=1, max_size=50))
def test_moments_are_half_above_those_of_the_voxels(voxels: list[int]) -> None:
    found = of(*voxels)
    assert found.mean == pytest.approx(np.mean(voxels) + 0.5)
    assert found.stddev == pytest.approx(np.std(voxels), abs=1e-9)
    assert (found.minimum, found.maximum) == (min(voxels), max(voxels))


def test_of_no_voxels_there_is_no_mean_and_the_rest_is_zero() -> None:
    found = of(0, 0)
    assert math.isnan(found.mean)
    assert math.isnan(found.stddev)
    assert (found.minimum, found.maximum, found.percentile(Fraction(50))) == (0, 0, 0)


@given(
    st.lists(st.integers(1, 255), min_size=1, max_size=50),
    st.decimals("0.01", "99.99", places=2),
)
def test_a_percentile_is_the_edge_above_the_value_that_reaches_it(
    voxels: list[int], percent: object
) -> None:
    share = Fraction(str(percent))
    ordered = sorted(voxels)
    reaching = next(v for n, v in enumerate(ordered, 1) if Fraction(100 * n, len(voxels)) >= share)
    assert of(*voxels).percentile(share) == reaching + 1


@pytest.mark.parametrize(
    ("percent", "value"),
    [("-5", 0), ("0", 0), ("0.0001", 2), ("80", 9), ("80.001", 10), ("100", 256), ("250", 256)],
)
def test_percentiles_at_their_ends(percent: str, value: float) -> None:
    assert of(*range(1, 11)).percentile(Fraction(percent)) == value


def test_mass_at_one_value_has_all_percentiles_above_it() -> None:
    assert {of(100, 100).percentile(Fraction(p)) for p in (1, 50, 99)} == {101}


def test_ten_bins_are_added_up_and_the_tail_is_left_out() -> None:
    hist, edges = of(1, 9, 10, 249, 250, 255).binned()
    assert (len(hist), edges[0], edges[1], edges[-1]) == (25, 0, 10, 250)
    assert (hist[0], hist[1], hist[24], sum(hist)) == (2, 1, 1, 4)


def test_other_types_are_not_counted() -> None:
    with pytest.raises(InvalidRequest, match="uint8 and uint16, not of float32"):
        bins_of("float32")


def test_a_tally_comes_back_and_fits_into_a_record() -> None:
    counts = np.random.default_rng(1).integers(0, 1 << 40, 1 << 16)
    value = Tally("job 0 0", 77, 5, counts).to_bytes()
    assert len(value) < 1 << 20
    found = Tally.from_bytes(value)
    assert (found.owner, found.place, found.cuboids) == ("job 0 0", 77, 5)
    assert found.counts.tolist() == counts.tolist()


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_damaged_tally_is_named(cut: int) -> None:
    value = Tally("job", -1, 0, np.zeros(256, dtype=np.int64)).to_bytes()
    with pytest.raises(CorruptValue):
        Tally.from_bytes(value[:cut])
