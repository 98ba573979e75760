import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from tests.components import components, touches


def by_flood(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    found: npt.NDArray[np.uint32] = np.zeros(mask.shape, dtype="<u4")
    last = 0
    for start in map(tuple, np.argwhere(mask)):
        if found[start]:
            continue
        last += 1
        todo = [start]
        while todo:
            at = todo.pop()
            if any(i < 0 or i >= n for i, n in zip(at, mask.shape, strict=True)):
                continue
            if not mask[at] or found[at]:
                continue
            found[at] = last
            for axis in range(3):
                step = [int(i == axis) for i in range(3)]
                todo.append(tuple(a + b for a, b in zip(at, step, strict=True)))
                todo.append(tuple(a - b for a, b in zip(at, step, strict=True)))
    return found


@given(st.integers(0, 2**31), st.floats(0.2, 0.8))
def test_components_are_those_of_a_flood(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((3, 6, 7)) < share
    assert np.array_equal(components(mask), by_flood(mask))


def test_touches_count_faces_of_each_pair_once() -> None:
    labels = np.array([[[1, 2, 2], [1, 0, 3]]])
    assert touches(labels) == [[1, 2, 1], [2, 3, 1]]
