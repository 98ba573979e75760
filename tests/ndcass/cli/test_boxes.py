import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ndcass.cli.boxes import cuts, plan_bands
from ndcass.geometry import Box, Zyx

CUBOIDS = st.sampled_from([(16, 128, 128), (64, 64, 64), (2, 3, 5)])


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, Zyx]:
    """A box and an origin of the grid at or before its start."""
    start = draw(st.tuples(*[st.integers(0, 200)] * 3))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 300)))
    origin = tuple(draw(st.integers(0, at)) for at in start)
    stop = tuple(a + b for a, b in zip(start, shape, strict=True))
    return Box(start, (stop[0], stop[1], stop[2])), (origin[0], origin[1], origin[2])


@given(boxes(), CUBOIDS, st.integers(1, 1 << 22), st.integers(1, 1 << 22), st.sampled_from([1, 8]))
def test_every_voxel_is_in_one_box(
    placed: tuple[Box, Zyx], cuboid_zyx: Zyx, box_bytes: int, band_bytes: int, itemsize: int
) -> None:
    box, origin = placed
    seen = np.zeros(box.shape_zyx, dtype=np.uint8)
    z, y, x = box.start_zyx
    for band in plan_bands(
        box,
        origin_zyx=origin,
        cuboid_zyx=cuboid_zyx,
        itemsize=itemsize,
        box_bytes=box_bytes,
        band_bytes=band_bytes,
    ):
        for piece in band.boxes:
            assert band.box.contains(piece)
            seen[piece.shifted((-z, -y, -x)).slices()] += 1
    assert (seen == 1).all()


@given(boxes(), CUBOIDS, st.integers(1, 1 << 22))
def test_no_cuboid_is_in_two_boxes(
    placed: tuple[Box, Zyx], cuboid_zyx: Zyx, box_bytes: int
) -> None:
    box, origin = placed
    bands = plan_bands(
        box, origin_zyx=origin, cuboid_zyx=cuboid_zyx, itemsize=1, box_bytes=box_bytes
    )
    for piece in (piece for band in bands for piece in band.boxes):
        for axis in range(3):
            for edge, limit in (
                (piece.start_zyx[axis], box.start_zyx[axis]),
                (piece.stop_zyx[axis], box.stop_zyx[axis]),
            ):
                assert edge == limit or (edge - origin[axis]) % cuboid_zyx[axis] == 0


@given(boxes(), st.integers(1 << 18, 1 << 22))
def test_no_box_is_larger_than_allowed(placed: tuple[Box, Zyx], box_bytes: int) -> None:
    box, origin = placed
    bands = plan_bands(
        box, origin_zyx=origin, cuboid_zyx=(16, 128, 128), itemsize=1, box_bytes=box_bytes
    )
    assert max(piece.voxels for band in bands for piece in band.boxes) <= box_bytes


def test_small_volume_is_one_box_a_layer() -> None:
    box = Box((0, 0, 0), (20, 1024, 1024))

    bands = list(
        plan_bands(
            box, origin_zyx=(0, 0, 0), cuboid_zyx=(16, 128, 128), itemsize=1, box_bytes=32 << 20
        )
    )

    assert [band.boxes for band in bands] == [
        (Box((0, 0, 0), (16, 1024, 1024)),),
        (Box((16, 0, 0), (20, 1024, 1024)),),
    ]


def test_cuts_meet_the_grid_of_an_origin() -> None:
    assert list(cuts(5, 30, origin=3, step=10)) == [(5, 13), (13, 23), (23, 30)]
