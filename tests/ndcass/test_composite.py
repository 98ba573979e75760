"""Pictures made of pictures, against Pillow and against single pixels."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ndcass.composite import COLOURS, as_rgba, blended, colours_of, mixed, on_tile
from ndcass.errors import InvalidRequest
from ndcass.geometry import Box
from ndcass.tile import Tile

Picture = npt.NDArray[np.uint8]

BOX = Box((0, 0, 0), (1, 1, 1))


def noise(*shape: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# -- channels in colours


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.sampled_from(sorted(COLOURS))), min_size=1, max_size=6
    )
)
def test_a_pixel_is_the_sum_of_its_channels_cut_off(channels: list[tuple[int, str]]) -> None:
    red = sum(v for v, colour in channels if colour in "MYR")
    green = sum(v for v, colour in channels if colour in "CYG")
    blue = sum(v for v, colour in channels if colour in "CMB")
    intensities = [np.full((2, 3), v, dtype=np.uint8) for v, _ in channels]
    out = mixed(intensities, [colour for _, colour in channels])
    assert out.shape == (2, 3, 4)
    parts = [min(v, 255) for v in (red, green, blue)]
    assert out[1, 2].tolist() == [*parts, 255 if any(parts) else 0]


def test_sums_that_fill_a_byte_exactly_do_not_vanish() -> None:
    """Two hundred and fifty-six is no zero."""
    half = np.full((1, 1), 128, dtype=np.uint8)
    assert mixed([half, half], ["R", "R"]).tolist() == [[[255, 0, 0, 255]]]


def test_colours_go_by_place_unless_a_letter_says_another() -> None:
    assert colours_of([None] * 6) == ("C", "M", "Y", "R", "G", "B")
    assert colours_of([None, "B", None]) == ("C", "B", "Y")


@pytest.mark.parametrize("letters", [[None] * 7, ["K"], ["c"], [""], ["RG"]])
def test_unknown_and_too_many_colours_are_refused(letters: list[str | None]) -> None:
    with pytest.raises(InvalidRequest):
        colours_of(letters)


# -- overlays


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.25, 0.33, 0.5, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("channels", [(), (4,)])
def test_overlays_are_those_of_pillow(alpha: float, channels: tuple[int, ...]) -> None:
    first, second = noise(40, 50, 4, seed=1), noise(40, 50, *channels, seed=2)
    over, under = Image.fromarray(first), Image.fromarray(second).convert("RGBA")
    expected = Image.blend(under, Image.composite(over, under, over), alpha)
    assert np.array_equal(blended(first, second, alpha), np.asarray(expected))


def test_known_overlays() -> None:
    label = np.array([[[163, 121, 243, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    grey = np.array([[10, 200]], dtype=np.uint8)
    assert blended(label, grey, 0.5).tolist() == [[[86, 65, 126, 255], [200, 200, 200, 255]]]


def test_layers_of_two_sizes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="3x2 and 2x3"):
        blended(noise(2, 3), noise(3, 2), 0.5)


def test_grey_becomes_opaque() -> None:
    assert as_rgba(np.array([[7]], dtype=np.uint8)).tolist() == [[[7, 7, 7, 255]]]


# -- tiles


@pytest.mark.parametrize("channels", [(), (4,)])
def test_a_picture_lies_where_the_tile_says(channels: tuple[int, ...]) -> None:
    small = noise(5, 7, *channels)
    out = on_tile(small, Tile(BOX, left=500, top=30))
    assert out.shape == (512, 512, *channels)
    assert np.array_equal(out[30:35, 500:507], small)
    out[30:35, 500:507] = 0
    assert not out.any()


def test_rows_of_a_tile_repeat_and_end() -> None:
    small = noise(3, 4)
    out = on_tile(small, Tile(BOX, left=2, top=0, rows=(0, 0, 2)))
    assert np.array_equal(out[:3, 2:6], small[[0, 0, 2]])
    assert not out[3:].any()
    assert not out[:, :2].any()


def test_a_full_tile_is_not_copied() -> None:
    whole = noise(512, 512)
    assert on_tile(whole, Tile(BOX, 0, 0)) is whole
