from typing import Any

import numpy as np
import pytest

from ndcass.server.formats.diff import differences


@pytest.mark.parametrize(
    ("dtype", "first", "second", "difference"),
    [
        ("u1", 3, 250, -247.0),
        ("<u2", 65_535, 0, 65_535.0),
        ("<u4", 4_000_000_000, 3_999_999_999, 1.0),
        ("<i8", -(1 << 40), 1 << 40, -float(1 << 41)),
        ("<f4", 0.25, 1.0, -0.75),
        ("<f4", 3e38, -3e38, float("inf")),
        ("<f8", 1.0 + 2.0**-40, 1.0, 2.0**-40),
    ],
)
def test_a_sample_loses_the_next(dtype: str, first: Any, second: Any, difference: float) -> None:
    voxels = np.array([first, second, first], dtype).reshape(3, 1, 1, 1)
    found = differences(voxels)
    assert found.dtype == np.dtype("<f4")
    assert found.reshape(-1).tolist() == [difference, -difference]


def test_one_sample_has_no_difference() -> None:
    assert differences(np.zeros((1, 4, 5), "u1")).shape == (0, 4, 5)
