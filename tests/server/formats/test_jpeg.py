import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ndcass.errors import InvalidRequest, TooLarge
from ndcass.server.formats.jpeg import MAX_EDGE, check_jpeg, encode_jpeg


def decoded(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    image = Image.open(io.BytesIO(encode_jpeg(voxels)))
    assert image.format == "JPEG"
    return np.asarray(image)


def test_planes_are_stacked_downwards_timestep_after_timestep() -> None:
    voxels = np.zeros((2, 3, 8, 16), "u1")
    voxels += np.arange(6, dtype="u1").reshape(2, 3, 1, 1) * 40
    found = decoded(voxels)
    assert found.shape == (48, 16)
    assert found[::8, 0].tolist() == [0, 40, 80, 120, 160, 200]


@pytest.mark.parametrize(
    ("value", "dtype", "shown"), [(137, "u1", 137), (-1, "i1", 255), (0x8912, "<u2", 0x89)]
)
def test_grey_is_the_byte_or_the_high_one(value: int, dtype: str, shown: int) -> None:
    assert (decoded(np.full((1, 8, 8), value, dtype)) == shown).all()


def test_numbers_of_four_bytes_are_red_green_and_blue() -> None:
    found = decoded(np.full((1, 16, 16), 0x11_80_40_C8, "<u4"))
    assert found.shape == (16, 16, 3)
    assert np.abs(found[8, 8].astype(int) - (0xC8, 0x40, 0x80)).max() <= 2


@pytest.mark.parametrize("dtype", ["<f4", "<i2", "<u8"])
def test_types_without_a_picture_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidRequest):
        check_jpeg(8, 8, np.dtype(dtype))


@pytest.mark.parametrize(("rows", "columns"), [(MAX_EDGE + 1, 1), (1, MAX_EDGE + 1)])
def test_edges_that_no_jpeg_has_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(TooLarge, match="65500 pixels"):
        check_jpeg(rows, columns, np.dtype("u1"))


def test_the_longest_edge_is_possible() -> None:
    check_jpeg(MAX_EDGE, 1, np.dtype("u1"))
    assert decoded(np.zeros((1, MAX_EDGE, 1), "u1")).shape == (MAX_EDGE, 1)
