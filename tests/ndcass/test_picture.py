import hashlib
import io
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from ndcass.errors import InvalidRequest
from ndcass.picture import (
    BLOCK_VOXELS,
    false_colour,
    palette,
    slice_picture,
    stretch,
    stretched_height,
    window,
)
from tests.recordings import recorded, recorded_array, scenario

Array = np.ndarray[Any, np.dtype[Any]]

INTEGERS = ["u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8"]


@st.composite
def windowed_integers(draw: st.DrawFn) -> tuple[Array, int, int]:
    """Voxels and a window that often, but not always, meets them."""
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    voxels = draw(npst.arrays(dtype, npst.array_shapes(max_dims=2, max_side=8)))
    near = [int(voxels.flat[0]) + shift for shift in (-300, -1, 0, 1, 300)]
    ends = st.one_of(
        st.sampled_from([n for n in near if abs(n) < 1 << 64]),
        st.integers(-(1 << 64) + 1, (1 << 64) - 1),
        st.integers(-70_000, 70_000),
    )
    low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    return voxels, low, high


@given(windowed_integers())
def test_integers_follow_the_formula_in_double_precision(case: tuple[Array, int, int]) -> None:
    voxels, low, high = case
    scale = 255.0 / (high - low)
    # Python's integers do not wrap and lose nothing.
    expected = [math.trunc(float(min(max(int(v), low), high) - low) * scale) for v in voxels.flat]
    out = window(voxels, low, high)
    assert out.dtype == np.uint8
    assert out.shape == voxels.shape
    assert out.ravel().tolist() == expected


@given(
    npst.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)),
    st.floats(-1000, 1000, width=32),
    st.floats(0.0009765625, 1000, width=32),
)
def test_float32_follows_the_formula_in_single_precision(
    voxels: Array, low: float, width: float
) -> None:
    high = low + width
    if np.float32(low) == np.float32(high):
        return
    scale = np.float32(255.0 / (high - low))
    low32, high32 = np.float32(low), np.float32(high)
    expected = [int((min(max(v, low32), high32) - low32) * scale) for v in voxels]
    assert window(voxels, low, high).tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "voxel", "ends", "pixel"),
    [
        ("<u2", 2000, (0, 500), 255),
        ("<u2", 2000, (0, 1500), 255),
        ("<u2", 750, (0, 1500), 127),
        ("<u2", 300, (0, 0), 44),
        ("<u2", 99, (100, 500), 0),
        ("<u2", 500, (100, 500), 254),  # 400 * 0.6375 is a hair below 255
        ("u1", 241, (0, 500), 122),
        ("i1", -1, (0, 0), 255),
        ("<i2", -50, (-100, 0), 127),
        ("<u8", 2**63 + 51, (2**63, 2**63 + 255), 51),
        ("<i8", 2**63 - 1, (-(2**63), 2**63), 255),
        ("u1", 9, (300, 500), 0),
        ("u1", 9, (-555, -300), 255),
        ("<f4", 0.999, (0, 0), 0),
        ("<f4", 1.0, (0, 0), 1),
        ("<f4", -7.0, (0, 0), 0),
        ("<f4", 1e30, (0, 0), 255),
        ("<f4", math.nan, (0, 0), 0),
        ("<f4", math.nan, (0, 1), 0),
        ("<f4", math.inf, (0, 1), 255),
        ("<f4", 0.5, (0, 1), 127),
        ("<f8", 0.5, (0, 1), 127),
        ("<f8", 1e300, (-1e19, 1e19), 255),
    ],
)
def test_known_pixels(dtype: str, voxel: float, ends: tuple[float, float], pixel: int) -> None:
    assert window(np.array([voxel], dtype=dtype), *ends).tolist() == [pixel]


@pytest.mark.parametrize("dtype", ["u1", "<u8", "<f4"])
@pytest.mark.parametrize(
    "ends", [(5, 5), (6, 5), (5, 0), (0, 2**80), (-(10**5000), 5), (0, math.inf), (math.nan, 1)]
)
def test_a_senseless_window_is_refused(dtype: str, ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidRequest, match="window"):
        window(np.zeros(3, dtype=dtype), *ends)


def test_integers_take_no_fractions_and_floats_do() -> None:
    with pytest.raises(InvalidRequest, match="whole numbers"):
        window(np.zeros(3, dtype="<u2"), 0.5, 7)
    assert window(np.array([3, 7], dtype="<u2"), 0.0, 7.0).tolist() == [109, 255]
    assert window(np.array([0.5], dtype="<f4"), 0.25, 0.75).tolist() == [127]
    with pytest.raises(InvalidRequest, match="too narrow"):
        window(np.zeros(3, dtype="<f4"), 0, 1e-300)


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_blocks_join_without_a_seam(dtype: str) -> None:
    voxels = np.arange(2 * BLOCK_VOXELS + 10).astype(dtype).reshape(-1, 2)
    whole = window(voxels, 0, 60_000)
    assert np.array_equal(whole[-8:], window(voxels[-8:], 0, 60_000))
    assert np.array_equal(window(voxels.T, 0, 60_000), whole.T)


def test_nothing_is_windowed_to_nothing() -> None:
    assert window(np.zeros((0, 4), dtype="<u2"), 0, 5).shape == (0, 4)


def test_the_source_is_left_alone() -> None:
    for dtype in ("u1", "<u2", "<f4"):
        voxels = np.array([[1, 2], [3, 200]], dtype=dtype)
        before = voxels.copy()
        window(voxels, 0, 2)
        slice_picture(voxels, "image", channel_window=(0, 2))
        assert np.array_equal(voxels, before)


def test_the_palette_is_the_original_s() -> None:
    colours = palette()
    assert colours[:3].tolist() == [[121, 243, 127], [163, 121, 243], [243, 198, 121]]
    assert colours[216].tolist() == [243, 121, 233]
    assert hashlib.sha256(colours.tobytes()).hexdigest() == (
        "cb08fd699aae7b303a21e6fa449d71e18bf2b9ea49beec23bf5da47198122a73"
    )


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_labels_have_the_colour_of_their_remainder(dtype: str) -> None:
    labels = np.array([[0, 1, 217], [434, 1000, np.iinfo(dtype).max]], dtype=dtype)
    picture = false_colour(labels)
    assert picture.shape == (2, 3, 4)
    colours = palette()
    assert picture[0].tolist() == [[0, 0, 0, 0], [*colours[1], 255], [*colours[0], 255]]
    assert picture[1, 0].tolist() == [121, 243, 127, 255]
    assert picture[1, 1].tolist() == [190, 121, 243, 255]
    assert picture[1, 2].tolist() == [*colours[int(labels[1, 2]) % 217], 255]


def test_each_datatype_has_its_picture() -> None:
    def pixels(voxel: int, dtype: str, ends: tuple[int, int] = (0, 0)) -> Any:
        plane = np.array([[voxel]], dtype=dtype)
        return slice_picture(plane, "image", channel_window=ends)[0, 0].tolist()

    assert pixels(200, "u1", (0, 100)) == 200
    assert pixels(-1, "i1") == 255
    assert pixels(0x04030201, "<u4") == [1, 2, 3, 4]
    for dtype in ("<u2", "<i2", "<i4", "<i8", "<u8", "<f4", "<f8"):
        assert pixels(50, dtype, (0, 100)) == 127
    for dtype in ("<u2", "<i2", "<i4", "<i8", "<u8"):
        assert pixels(300, dtype) == 44


def test_a_channel_window_without_an_end_is_none() -> None:
    plane = np.array([[300]], dtype="<u2")
    assert slice_picture(plane, "image", channel_window=(7, 0)).tolist() == [[44]]


def test_an_explicit_window_makes_any_type_grey() -> None:
    for dtype, channel_type in (("<u4", "annotation"), ("<u4", "image"), ("u1", "image")):
        plane = np.array([[50]], dtype=dtype)
        picture = slice_picture(
            plane, channel_type, channel_window=(0, 1), explicit_window=(0, 100)
        )
        assert picture.tolist() == [[127]]


def test_known_rows_are_taken() -> None:
    rows = stretch(np.arange(20, dtype=np.uint8)[:, None], 15)[:, 0]
    assert rows.tolist() == [0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19]


@given(st.integers(1, 400), st.integers(1, 700))
def test_rows_are_those_of_pillow(depth: int, height: int) -> None:
    numbers = np.arange(depth, dtype="<i4")[:, None]
    picture = Image.fromarray(numbers).resize((1, height), Image.Resampling.NEAREST)
    assert np.array_equal(stretch(numbers, height), np.asarray(picture))


def test_colours_are_stretched_whole() -> None:
    plane = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(stretch(plane, 4), plane[[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("rows", "aspect", "height"), [(20, 0.75, 15), (30, 0.09375, 2), (1, 0.1, 1), (3, 2.5, 7)]
)
def test_heights_are_cut_off_but_never_nothing(rows: int, aspect: float, height: int) -> None:
    assert stretched_height(rows, aspect) == height


class Player:
    """Plays the posts and slices of a recorded scenario on arrays in memory."""

    def __init__(self, shared: Path, name: str) -> None:
        self.shared = shared
        self.name = name
        self.blocks = {
            block["token"]["token_name"]: block for block in scenario(shared, name)["setup"]
        }
        self.volumes: dict[tuple[str, str], Array] = {}

    def volume(self, token: str, channel: str) -> Array:
        """A whole channel, counted from the dataset's offset."""
        dataset = self.blocks[token]["dataset"]
        shape = tuple(dataset[f"{axis}imagesize"] + dataset[f"{axis}offset"] for axis in "zyx")
        dtype = self.channel(token, channel)["channel_datatype"]
        return self.volumes.setdefault((token, channel), np.zeros(shape, dtype=dtype))

    def channel(self, token: str, name: str) -> dict[str, Any]:
        channels: list[dict[str, Any]] = self.blocks[token]["channels"]
        return next(channel for channel in channels if channel["channel_name"] == name)

    def take(self, exchange: dict[str, Any]) -> None:
        """Store what an exchange posts, or what the original answered to one that reads."""
        *_, token, channel, _, _, x, y, z, _ = exchange["path"].split("/")
        if exchange["method"] == "POST":
            body = zlib.decompress(recorded(self.shared, self.name, exchange["body"]))
            array = np.load(io.BytesIO(body), allow_pickle=False)
        else:
            array = recorded_array(self.shared, self.name, exchange["expected"])
        box = tuple(slice(*map(int, text.split(","))) for text in (z, y, x))
        self.volume(token, channel)[box] = array[0]

    def draw(self, token: str, channel: str, service: str, arguments: list[str]) -> Array:
        ranges = [text.split(",") for text in arguments[:3]]
        x, y, z = (slice(*map(int, r)) if len(r) == 2 else int(r[0]) for r in ranges)
        fields = self.channel(token, channel)
        explicit: tuple[float, float] | None = None
        if arguments[3:4] == ["window"] and len(arguments) > 5:
            low, high = map(float, arguments[4].split(","))
            explicit = (low, high)
        picture = slice_picture(
            self.volume(token, channel)[z, y, x],
            fields["channel_type"],
            channel_window=(fields.get("startwindow", 0), fields.get("endwindow", 0)),
            explicit_window=explicit,
        )
        if service == "xy":
            return picture
        dataset = self.blocks[token]["dataset"]
        across = {"xz": "y", "yz": "x"}[service]
        aspect = dataset["zvoxelres"] / dataset[f"{across}voxelres"]
        return stretch(picture, stretched_height(picture.shape[0], aspect))


PLAIN_CUTOUT = re.compile(r"/nd/sd/\w+/\w+/npz/0/(\d+,\d+/){3}\Z")


@pytest.mark.parametrize(("name", "pictures"), [("slices", 32), ("datatypes", 14)])
def test_recorded_slices_have_the_recorded_pixels(shared: Path, name: str, pictures: int) -> None:
    player = Player(shared, name)
    seen = 0
    for exchange in scenario(shared, name)["exchanges"]:
        _, _, _, token, channel, service, _, *arguments = exchange["path"].split("/")
        if PLAIN_CUTOUT.match(exchange["path"]):
            player.take(exchange)
        elif service in ("xy", "xz", "yz") and (token, channel) in player.volumes:
            expected = Image.open(io.BytesIO(recorded(shared, name, exchange["expected"])))
            drawn = player.draw(token, channel, service, arguments)
            assert np.array_equal(drawn, np.asarray(expected)), exchange["path"]
            seen += 1
    assert seen >= pictures


def test_recorded_labels_have_the_recorded_colours(shared: Path) -> None:
    name = "annotation-labels"
    dataset = scenario(shared, name)["setup"][0]["dataset"]
    # z from 9, y from 103, x from 113 on: the channel as it was when the pictures were taken.
    labels = recorded_array(shared, name, "011-overwrite-back.npy.gz")[0]

    def expected(file_name: str) -> Array:
        return np.asarray(Image.open(io.BytesIO(recorded(shared, name, file_name))))

    xy, xz, yz = labels[14 - 9], labels[:, 118 - 103], labels[:, :, 127 - 113]
    assert np.array_equal(false_colour(xy), expected("025-xy.png"))
    for plane, across, file_name in ((xz, "y", "026-xz.png"), (yz, "x", "027-yz.png")):
        aspect = dataset["zvoxelres"] / dataset[f"{across}voxelres"]
        height = stretched_height(len(plane), aspect)
        assert np.array_equal(stretch(false_colour(plane), height), expected(file_name))
    grey = slice_picture(xy, "annotation", channel_window=(0, 0), explicit_window=(0, 500))
    assert np.array_equal(grey, expected("032-xy-window.png"))
