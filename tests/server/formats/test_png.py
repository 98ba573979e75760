import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis.extra import numpy as npst
from PIL import Image

from ndcass.server.formats.png import encode_png

GREY = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=40))
RGBA = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda shape: (*shape, 4)),
)


def read(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    assert image.format == "PNG"
    image.load()
    return image


@given(GREY)
def test_grey_pictures_come_back(picture: npt.NDArray[np.uint8]) -> None:
    image = read(encode_png(picture))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), picture)


@given(RGBA)
def test_pictures_in_colour_come_back(picture: npt.NDArray[np.uint8]) -> None:
    image = read(encode_png(picture))
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image), picture)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (700, 1300), (512, 512, 4)])
def test_large_pictures_come_back(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    body = encode_png(picture)
    assert np.array_equal(np.asarray(read(body)), picture)
    Image.open(io.BytesIO(body)).verify()


def test_a_view_need_not_be_contiguous() -> None:
    picture = np.arange(200, dtype=np.uint8).reshape(10, 20)[::2, ::3]
    assert np.array_equal(np.asarray(read(encode_png(picture))), picture)


def test_plain_pictures_are_small() -> None:
    assert len(encode_png(np.full((512, 512), 7, dtype=np.uint8))) < 4096
