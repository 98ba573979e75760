"""Labels of arrays, compared with what numpy makes of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ndcass.label_values import as_labels, count_labels, has_label, joined_labels, unique_labels

Voxels = npt.NDArray[Any]

SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=6)
FEW = st.sampled_from([0, 1, 2, 3, (1 << 20) - 1, 1 << 20, (1 << 32) - 1])


@given(arrays.arrays("<u4", SHAPES, elements=FEW))
def test_unique_labels_are_all_and_no_others(voxels: Voxels) -> None:
    expected = np.unique(voxels)
    assert unique_labels(voxels).tolist() == expected[expected != 0].tolist()


@given(arrays.arrays("<u8", SHAPES, elements=st.sampled_from([0, 1, 5, 1 << 20, (1 << 64) - 1])))
def test_counts_are_those_of_every_voxel(voxels: Voxels) -> None:
    labels, counts = count_labels(voxels)
    expected = {int(label): int((voxels == label).sum()) for label in np.unique(voxels) if label}
    assert dict(zip(labels.tolist(), counts.tolist(), strict=True)) == expected


def test_a_share_of_an_array_has_its_own_labels_only() -> None:
    whole = np.arange(1, 1001, dtype="<u4").reshape(10, 10, 10)
    share = whole[2:4, 3:5, 6:8]
    assert unique_labels(share).tolist() == sorted(share.ravel().tolist())
    labels, counts = count_labels(share)
    assert labels.tolist() == sorted(share.ravel().tolist())
    assert counts.tolist() == [1] * 8


def test_nothing_has_no_labels() -> None:
    nothing = np.zeros((2, 2, 2), dtype="<u4")
    assert len(unique_labels(nothing)) == 0
    assert len(unique_labels(nothing[:0])) == 0
    assert [len(column) for column in count_labels(nothing)] == [0, 0]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 300])
def test_voxels_of_some_labels_are_found(count: int) -> None:
    voxels = np.random.default_rng(2).integers(0, 400, (4, 30, 30)).astype("<u4")
    wanted = as_labels(range(1, count + 1), voxels.dtype)
    assert np.array_equal(has_label(voxels, wanted), (voxels > 0) & (voxels <= count))


def test_numbers_that_a_type_cannot_hold_are_in_no_voxel() -> None:
    assert as_labels([5, 0, 1 << 32, 5, 2], np.dtype("<u4")).tolist() == [2, 5]


def test_labels_of_two_arrays_are_joined() -> None:
    some = np.array([2, 9], dtype="<u4")
    assert joined_labels(some, np.array([9, 1, 0], dtype="<u4")).tolist() == [1, 2, 9]
    assert joined_labels(some, np.empty(0, dtype="<u4")).tolist() == [2, 9]
