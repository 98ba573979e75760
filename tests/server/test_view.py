"""What the slice browser shows: laws of its boxes, and every value of its query."""

from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import InvalidRequest
from ndcass.histogram import Histogram
from ndcass.model import Channel, Dataset, Project, Token, TokenView
from ndcass.server.routes import ROUTES
from ndcass.server.view import FORMATS, View, default_window, overview_level
from ndcass.server.volume_params import parse_plane, parse_volume


def opened(channel: dict[str, Any] | None = None, **dataset: Any) -> tuple[TokenView, Channel]:
    fields: dict[str, Any] = {
        "ximagesize": 3000,
        "yimagesize": 2000,
        "zimagesize": 100,
        "zoffset": 5,
    }
    fields |= {"zvoxelres": 10.0, "scalinglevels": 3, **dataset}
    described = Dataset("brain", user=1, **fields)
    made = Channel(
        **{
            "id": 1,
            "project": "proj",
            "channel_name": "em",
            "channel_type": "image",
            "channel_datatype": "uint8",
            **(channel or {}),
        }
    )
    project, token = Project("proj", 1, "brain"), Token("tok", 1, "proj")
    return TokenView(token, project, described, (made,)), made


def view(channel: dict[str, Any] | None = None, query: Any = None, **dataset: Any) -> View:
    return View.from_query(*opened(channel, **dataset), query or {})


SIZES = st.integers(1, 5000)


@given(
    st.sampled_from(["xy", "xz", "yz"]),
    st.tuples(SIZES, SIZES, SIZES),
    st.tuples(*[st.integers(0, 6000)] * 3),
    st.integers(0, 3),
    st.sampled_from([0.01, 0.5, 1.0, 7.0, 900.0]),
)
def test_a_picture_is_always_inside_the_volume_and_can_be_asked_for(
    plane: str, size: tuple[int, ...], at: tuple[int, ...], level: int, thick: float
) -> None:
    x, y, z = size
    query = dict(zip("xyz", map(str, at), strict=True)) | {"plane": plane, "level": str(level)}
    sizes: dict[str, Any] = {"ximagesize": x, "yimagesize": y, "zimagesize": z, "zvoxelres": thick}
    shown = view(query=query, xoffset=3, **sizes)
    assert shown.level.dataset_box().contains(shown.box)
    width, height = {"xy": (2, 1), "xz": (2, 0), "yz": (1, 0)}[plane]
    shape = shown.box.shape_zyx
    assert shape[3 - width - height] == 1
    assert shape[width] <= 768
    assert shape[height] == 1 or shape[height] * shown.aspect <= 576
    prefix, _, tail = shown.picture_path.partition(f"/{plane}/")
    assert prefix == "/nd/sd/tok/em"
    parsed = parse_plane(plane, tail)
    assert (parsed.level, parsed.box) == (level, shown.box)
    assert parse_volume(shown.box_path("npz").partition("/npz/")[2]).box == shown.box


def test_without_a_query_it_is_the_middle() -> None:
    shown = view()
    assert (shown.plane, shown.level.level, shown.t) == ("xy", 0, 0)
    assert shown.centre_zyx == (54, 999, 1499)
    assert shown.picture_path == "/nd/sd/tok/em/xy/0/1115,1883/711,1287/54/"


def test_a_series_has_timesteps_inside_its_range() -> None:
    series = {"channel_type": "timeseries", "starttime": 3, "endtime": 9}
    assert view(series).picture_path.endswith("/54/3/")
    assert view(series, {"t": "7"}).box_path("npz").endswith("/54,55/7,8/")
    assert view(series, {"t": "70"}).t == 8
    assert view(series, {"t": "-1"}).t == 3
    assert view(query={"t": "7"}).picture_path.endswith("/54/")


def test_coordinates_of_another_level_are_those_of_the_same_place() -> None:
    query = {"level": "2", "from": "0", "x": "1000", "y": "1999", "z": "60"}
    shown = view(query=query)
    assert shown.centre_zyx == (60, 499, 250)
    back = {"level": "0", "from": "2", "x": "250", "y": "499", "z": "60"}
    assert view(query=back).centre_zyx == (60, 1998, 1002)


def test_a_link_comes_back_to_the_same_view() -> None:
    series = {"channel_type": "timeseries", "channel_datatype": "uint16", "endtime": 9}
    query = {"plane": "xz", "level": "1", "x": "700", "y": "9", "z": "7", "t": "3"}
    query |= {"low": "5", "high": "900"}
    shown = view(series, query)
    again = {name: values[0] for name, values in parse_qs(shown.link()[1:]).items()}
    assert again == query
    assert view(series, again) == shown


def test_moving_stays_inside() -> None:
    shown = view()
    assert shown.moved(cut=1).centre_zyx == (55, 999, 1499)
    assert shown.moved(across=-1, down=2).centre_zyx == (54, 999 + 2 * 144, 1499 - 192)
    assert shown.moved(cut=-1000, across=1000).centre_zyx == (5, 999, 2999)


@pytest.mark.parametrize(
    "query",
    [
        {"plane": "zx"},
        {"level": "4"},
        {"level": "-1"},
        {"level": "x"},
        {"from": "9"},
        {"x": "1.5"},
        {"z": "1" * 40},
        {"t": "now"},
        {"low": "5"},
        {"high": "5"},
        {"low": "5", "high": "5"},
        {"low": "9", "high": "5"},
        {"low": "0.5", "high": "5.5"},
        {"low": "a", "high": "5"},
        {"low": "nan", "high": "inf"},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        view(query=query)


def test_the_first_look_is_at_a_level_that_fits_if_there_is_one() -> None:
    for fields, level in (
        ({}, 0),
        ({"resolution": 1}, 1),
        ({"propagate": 2}, 2),
        ({"propagate": 2, "resolution": 3}, 3),
        ({"propagate": 1}, 0),
    ):
        seen, channel = opened(fields)
        assert overview_level(seen.dataset, channel).level == level, fields


def histogram(*values: int) -> Histogram:
    return Histogram(np.bincount(values, minlength=1 << 16).astype(np.int64))


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"channel_datatype": "uint8"}, None),
        ({"channel_datatype": "uint16"}, ("0", "65535")),
        ({"channel_datatype": "uint16", "endwindow": 9}, None),
        ({"channel_datatype": "int16"}, ("0", "32767")),
        ({"channel_datatype": "uint64"}, ("0", "4294967295")),
        ({"channel_datatype": "float32"}, ("0", "1")),
        ({"channel_datatype": "uint32"}, None),
        ({"channel_datatype": "uint32", "channel_type": "annotation"}, None),
    ],
)
def test_what_has_no_window_gets_one_that_shows_something(
    fields: dict[str, Any], window: tuple[str, str] | None
) -> None:
    assert default_window(opened(fields)[1]) == window


def test_a_histogram_says_what_the_window_is() -> None:
    channel = opened({"channel_datatype": "uint16"})[1]
    assert default_window(channel, histogram(*range(100, 301))) == ("102", "299")
    assert default_window(channel, histogram(0)) == ("0", "65535")
    shown = View.from_query(*opened({"channel_datatype": "uint16"}), {}, window=("102", "299"))
    assert shown.picture_path.endswith("/54/window/102,299/")


@pytest.mark.parametrize(
    ("fields", "query", "missing"),
    [
        ({}, {}, set()),
        ({"channel_type": "timeseries"}, {}, set()),
        ({"channel_type": "timeseries", "endtime": 5}, {}, {"tiff"}),
        ({"channel_datatype": "float32"}, {}, {"jpeg"}),
        ({}, {"plane": "yz"}, set()),
    ],
)
def test_only_formats_that_hold_the_box_are_offered(
    fields: dict[str, Any], query: dict[str, str], missing: set[str]
) -> None:
    shown = view(fields, query)
    assert {name for name in FORMATS if not shown.fits(name)} == missing


def test_every_service_of_boxes_is_a_format_or_something_else() -> None:
    services = {
        word
        for route in ROUTES
        for path, word in route.expanded()
        if route.method == "GET" and path == f"/sd/{{token}}/{word}/{{box}}"
    }
    # Differences of sections, and which labels there are, are no copies of the voxels.
    assert services - {"diff", "ids"} == set(FORMATS)


def test_a_box_with_too_many_rows_is_no_jpeg() -> None:
    shown = view(query={"plane": "yz"}, zimagesize=3000, zvoxelres=0.01)
    assert shown.box.shape_zyx == (1024, 768, 1)
    assert not shown.fits("jpeg")
