"""The check of what writers were promised finds what it is there for."""

import numpy as np

from tests.witness import BOX_ZYX, Write, differences, permitted, voxels_of

KEPT, LOST, UNKNOWN = Write(1, True), Write(2, False), Write(3, False)


def test_only_the_last_acknowledged_write_and_later_unknown_ones_are_permitted() -> None:
    assert permitted([LOST, KEPT, UNKNOWN]) == [1, 3]
    assert permitted([KEPT, Write(4, True)]) == [4]
    assert permitted([LOST, UNKNOWN]) == [0, 2, 3]
    assert permitted([]) == [0]


def test_permitted_voxels_are_no_difference() -> None:
    for seed in (1, 3):
        assert differences(voxels_of(seed).tobytes(), 7, [LOST, KEPT, UNKNOWN]) == []
    assert differences(bytes(voxels_of(0).size), 7, [LOST]) == []


def test_cuboids_of_a_box_may_be_of_different_writes_where_one_is_unknown() -> None:
    voxels = voxels_of(1)
    voxels[..., 128:] = voxels_of(3)[..., 128:]
    assert differences(voxels.tobytes(), 7, [KEPT, UNKNOWN]) == []


def test_lost_outdated_torn_and_foreign_voxels_are_told_apart() -> None:
    newest = Write(4, True)
    torn = voxels_of(4)
    torn[8:, :, :128] = voxels_of(1)[8:, :, :128]
    both = "box 7, its left cuboid: {0}, not of [4]", "box 7, its right cuboid: {0}, not of [4]"
    outdated, empty = "voxels of the outdated write [1]", "voxels empty"
    writes = [KEPT, newest]
    found = differences(voxels_of(1).tobytes(), 7, writes)
    assert found == [line.format(outdated) for line in both]
    found = differences(bytes(np.prod(BOX_ZYX)), 7, writes)
    assert found == [line.format(empty) for line in both]
    foreign = "voxels that nobody wrote"
    assert differences(torn.tobytes(), 7, writes) == [both[0].format(foreign)]
    found = differences(voxels_of(9).tobytes(), 7, writes)
    assert found == [line.format(foreign) for line in both]
    assert differences(b"short", 7, writes) == ["box 7: 5 bytes"]
