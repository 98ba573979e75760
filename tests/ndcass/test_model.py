import dataclasses
from typing import Any

import numpy as np
import pytest

from ndcass.errors import InvalidRequest, OutOfBounds
from ndcass.geometry import Geometry
from ndcass.model import (
    RESERVED_CHANNELS,
    RESERVED_TOKENS,
    Channel,
    Dataset,
    Project,
    Token,
    TokenView,
)

DATASET = {"dataset_name": "brain", "ximagesize": 100, "yimagesize": 200, "zimagesize": 300}
CHANNEL = {"channel_name": "em", "channel_type": "image", "channel_datatype": "uint8"}


def dataset(**fields: Any) -> Dataset:
    return Dataset.from_json({**DATASET, **fields}, user=1)


def channel(**fields: Any) -> Channel:
    return Channel.from_json({**CHANNEL, **fields}, id=5, project="proj")


def project(**fields: Any) -> Project:
    return Project.from_json({"project_name": "proj", **fields}, user=1, dataset="brain")


def token(**fields: Any) -> Token:
    return Token.from_json({"token_name": "tok", **fields}, user=1, project="proj")


# -- defaults


def test_a_dataset_has_the_defaults_of_the_contract() -> None:
    assert dataset().to_json() == {
        **DATASET,
        "user": 1,
        "dataset_description": "",
        "public": 0,
        "xoffset": 0,
        "yoffset": 0,
        "zoffset": 0,
        "xvoxelres": 1.0,
        "yvoxelres": 1.0,
        "zvoxelres": 1.0,
        "scalingoption": 0,
        "scalinglevels": 0,
    }


def test_a_channel_has_the_defaults_of_the_contract() -> None:
    made = channel()
    assert made.to_json() == {
        **CHANNEL,
        "id": 5,
        "project": "proj",
        "channel_description": "",
        "resolution": 0,
        "propagate": 0,
        "readonly": 0,
        "exceptions": 0,
        "starttime": 0,
        "endtime": 1,
        "startwindow": 0,
        "endwindow": 0,
        "default": False,
        "header": "",
    }
    assert made.name == "em"


def test_a_resource_comes_back_from_what_it_gave() -> None:
    made = dataset(zvoxelres=2.5, xoffset=7)
    body = made.to_json()
    owner = body.pop("user")
    assert Dataset.from_json(body, user=owner) == made


# -- what clients may send


@pytest.mark.parametrize("make", [dataset, channel, project, token])
def test_an_unknown_field_is_refused_by_name(make: Any) -> None:
    with pytest.raises(InvalidRequest, match="unknown: colour"):
        make(colour="red")


@pytest.mark.parametrize(
    ("make", "field"), [(dataset, "user"), (channel, "id"), (project, "nd_version")]
)
def test_what_the_server_sets_cannot_be_sent(make: Any, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"unknown: {field}"):
        make(**{field: 3})


def test_missing_fields_are_named() -> None:
    with pytest.raises(InvalidRequest, match="missing: yimagesize, zimagesize"):
        Dataset.from_json({"dataset_name": "a", "ximagesize": 1}, user=1)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a.b", "é", "a\n", "x" * 256, 5, None, ["a"]])
def test_bad_names_are_refused(name: Any) -> None:
    for make, field in (
        (dataset, "dataset_name"),
        (project, "project_name"),
        (token, "token_name"),
        (channel, "channel_name"),
    ):
        with pytest.raises(InvalidRequest, match=field):
            make(**{field: name})


def test_hyphens_are_for_datasets_and_projects_only() -> None:
    assert dataset(dataset_name="a-b").name == "a-b"
    assert project(project_name="a-b").name == "a-b"
    with pytest.raises(InvalidRequest, match="token_name"):
        token(token_name="a-b")
    with pytest.raises(InvalidRequest, match="channel_name"):
        channel(channel_name="a-b")


@pytest.mark.parametrize("name", sorted(RESERVED_TOKENS))
def test_names_of_services_are_no_tokens(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name of a service"):
        token(token_name=name)


@pytest.mark.parametrize("name", sorted(RESERVED_CHANNELS))
def test_names_of_services_are_no_channels(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name of a service"):
        channel(channel_name=name)


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (dataset, {"ximagesize": 0}),
        (dataset, {"ximagesize": -1}),
        (dataset, {"ximagesize": 1 << 63}),
        (dataset, {"ximagesize": 1.5}),
        (dataset, {"ximagesize": "100"}),
        (dataset, {"ximagesize": None}),
        (dataset, {"zoffset": -1}),
        (dataset, {"xvoxelres": 0}),
        (dataset, {"xvoxelres": -1.0}),
        (dataset, {"xvoxelres": float("nan")}),
        (dataset, {"xvoxelres": float("inf")}),
        (dataset, {"xvoxelres": True}),
        (dataset, {"xvoxelres": "1"}),
        (dataset, {"public": 2}),
        (dataset, {"scalingoption": 2}),
        (dataset, {"scalinglevels": 21}),
        (dataset, {"dataset_description": "x" * 4097}),
        (dataset, {"dataset_description": None}),
        (dataset, {"dataset_description": "half a pair \ud800"}),
        (project, {"kvengine": "Oracle"}),
        (project, {"kvengine": ["MySQL"]}),
        (project, {"s3backend": 2}),
        (project, {"host": "x" * 256}),
        (token, {"public": "yes"}),
        (channel, {"channel_type": "video"}),
        (channel, {"channel_type": ["image"]}),
        (channel, {"channel_datatype": "uint128"}),
        (channel, {"channel_datatype": {}}),
        (channel, {"channel_datatype": "uint8", "channel_type": "annotation"}),
        (channel, {"resolution": -1}),
        (channel, {"propagate": 3}),
        (channel, {"readonly": 2}),
        (channel, {"exceptions": -1}),
        (channel, {"starttime": -1}),
        (channel, {"endtime": "1"}),
        (channel, {"startwindow": 1 << 64}),
        (channel, {"default": "true"}),
        (channel, {"default": 2}),
        (channel, {"default": None}),
        (channel, {"default": [1]}),
        (channel, {"header": "x" * 8193}),
    ],
)
def test_values_that_make_no_sense_are_refused(make: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        make(**fields)


@pytest.mark.parametrize(
    "sent",
    [
        {"starttime": 5, "endtime": 4},
        {"startwindow": 9, "endwindow": 3},
        {"startwindow": -3, "endwindow": -9},
    ],
)
def test_ranges_that_end_before_they_start_are_refused(sent: dict[str, int]) -> None:
    plain = {"channel_name": "c", "channel_type": "image", "channel_datatype": "uint8"}
    end = "endtime" if "starttime" in sent else "endwindow"
    with pytest.raises(InvalidRequest, match=end):
        Channel.from_json({**plain, **sent}, id=1, project="p")
    with pytest.raises(InvalidRequest, match=end):
        channel().changed(sent)


@pytest.mark.parametrize(
    "sent",
    [
        {"starttime": 0, "endtime": 0},
        {"starttime": 5, "endtime": 5},
        {"starttime": 5, "endtime": 0},
        {"starttime": 5},  # the end that a channel has by itself
        {"startwindow": 7, "endwindow": 7},
        {"startwindow": 7, "endwindow": 0},
    ],
)
def test_empty_ranges_and_an_end_of_zero_are_kept(sent: dict[str, int]) -> None:
    changed = channel().changed(sent)
    assert {field: getattr(changed, field) for field in sent} == sent


def test_booleans_and_whole_floats_count_as_integers() -> None:
    made = dataset(public=True, ximagesize=100.0)
    assert (made.public, made.ximagesize) == (1, 100)
    assert type(made.public) is int
    assert type(made.ximagesize) is int
    assert channel(default=1).default is True


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"channel_type": "oldchannel"}, ("image", "uint8")),
        ({"channel_type": "probmap", "channel_datatype": "float32"}, ("image", "float32")),
        ({"channel_datatype": "rgb32"}, ("image", "uint32")),
        ({"channel_datatype": "rgba"}, ("image", "uint32")),
        ({"channel_type": "annotation", "channel_datatype": "rgba"}, ("annotation", "uint32")),
        ({"channel_type": "timeseries", "channel_datatype": "float64"}, ("timeseries", "float64")),
    ],
)
def test_older_spellings_are_understood(sent: dict[str, str], meant: tuple[str, str]) -> None:
    made = channel(**sent)
    assert (made.channel_type, made.channel_datatype) == meant


@pytest.mark.parametrize(
    "name", "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float32 float64".split()
)
def test_voxels_are_little_endian_of_the_named_type(name: str) -> None:
    dtype = channel(channel_datatype=name).dtype
    assert dtype == np.dtype(name).newbyteorder("<")
    assert dtype.byteorder in "<=|"


# -- changes


def test_a_change_is_checked_as_a_new_resource_is() -> None:
    made = dataset()
    changed = made.changed({"public": 1, "dataset_name": "brain"})
    assert changed == dataclasses.replace(made, public=1)
    with pytest.raises(InvalidRequest, match="public"):
        made.changed({"public": 7})
    with pytest.raises(InvalidRequest, match="unknown: user"):
        made.changed({"user": 2})


def test_a_name_cannot_change() -> None:
    with pytest.raises(InvalidRequest, match="dataset_name cannot change"):
        dataset().changed({"dataset_name": "other"})


# -- derived values


def test_the_geometry_is_in_the_order_z_y_x() -> None:
    made = dataset(xoffset=1, yoffset=2, zoffset=3, xvoxelres=4, yvoxelres=5, zvoxelres=6)
    made = made.changed({"scalingoption": 1, "scalinglevels": 2})
    assert made.geometry == Geometry((300, 200, 100), (3, 2, 1), (6, 5, 4), True, 2)
    assert made.level(1).size_zyx == (150, 100, 50)
    with pytest.raises(OutOfBounds):
        made.level(3)


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 1, (0, 1)), (3, 9, (3, 9)), (5, 5, (5, 6)), (7, 2, (7, 8))]
)
def test_an_empty_time_range_is_one_timestep(
    start: int, end: int, expected: tuple[int, int]
) -> None:
    made = dataclasses.replace(channel(), starttime=start, endtime=end)  # as a store may hold it
    assert made.time_range == expected


def test_a_token_view_finds_channels_by_name_and_the_default() -> None:
    one, two = channel(channel_name="one"), channel(channel_name="two", default=True)
    view = TokenView(token(), project(), dataset(), (one, two))
    assert view.channel("one") == one
    assert view.channel("default") == two
    assert view.channel("three") is None
    assert TokenView(token(), project(), dataset(), (one,)).channel("default") is None


def test_resources_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset().public = 1  # type: ignore[misc]  # that is the test
