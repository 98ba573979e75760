"""The check against a serial model finds what it is there for."""

import numpy as np
import pytest

from tests.serial import SHAPE_ZYX, Voxels, Written, inconsistencies


def written(number: int, *, at: float, start: int = 0, op: str = "replace") -> Written:
    return Written(number, (0, 0, start), (20, 150, start + 150), op, at, at + 1)


def volume(*writes: Written) -> Voxels:
    found = np.zeros(SHAPE_ZYX, dtype="<u4")
    for write in writes:
        np.copyto(found[write.box], write.voxels(), where=write.mask(write.box))
    return found


FIRST, SECOND = written(1, at=0.0), written(2, at=2.0, start=70)
SIDE_BY_SIDE = written(3, at=0.5, start=30, op="merge")


def test_writes_in_their_order_are_consistent() -> None:
    assert inconsistencies(volume(FIRST, SECOND), [FIRST, SECOND]) == []


@pytest.mark.parametrize("order", [(FIRST, SIDE_BY_SIDE), (SIDE_BY_SIDE, FIRST)])
def test_writes_side_by_side_may_have_either_order(order: tuple[Written, Written]) -> None:
    assert inconsistencies(volume(*order), [FIRST, SIDE_BY_SIDE]) == []


def test_earlier_write_over_a_later_one_is_found() -> None:
    assert inconsistencies(volume(SECOND, FIRST), [FIRST, SECOND])


def test_acknowledged_write_that_is_gone_is_found() -> None:
    assert inconsistencies(volume(FIRST), [FIRST, SECOND])


def test_voxel_that_nobody_wrote_is_found() -> None:
    found = volume(FIRST, SECOND)
    found[3, 3, 3] += 1 << 20
    assert inconsistencies(found, [FIRST, SECOND]) == ["1 voxels that nobody wrote"]


def test_two_orders_in_one_cuboid_are_found() -> None:
    found = volume(FIRST, SIDE_BY_SIDE)
    found[0] = volume(SIDE_BY_SIDE, FIRST)[0]
    assert inconsistencies(found, [FIRST, SIDE_BY_SIDE])


def test_write_that_shows_outside_its_box_is_found() -> None:
    found = volume(FIRST)
    found[0, 0, 151] = volume(written(1, at=0.0, start=100))[0, 0, 151]
    assert inconsistencies(found, [FIRST])
