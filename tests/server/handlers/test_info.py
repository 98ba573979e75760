"""What a token leads to, as JSON, HDF5 and XML; reserving ids."""

import io
import json
from typing import Any
from xml.etree import ElementTree

import h5py
import pytest

from tests.server.running import KEYS, Running


async def info(app: Running, token: str) -> Any:
    answer = await app.get(f"/nd/sd/{token}/info/")
    assert answer.status == 200
    assert answer.content_type == "application/json"
    return json.loads(await answer.text())


async def test_info_has_derived_values_of_every_level(app: Running) -> None:
    await app.make_volume(
        "k",
        ximagesize=21504,
        yimagesize=26624,
        zimagesize=1850,
        zoffset=1,
        zvoxelres=10.0,
        scalinglevels=7,
    )
    dataset = (await info(app, "k"))["dataset"]
    assert dataset["resolutions"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert dataset["scaling"] == "zslices"
    assert dataset["imagesize"]["5"] == [672, 832, 1850]
    assert dataset["offset"]["7"] == [0, 0, 1]
    assert dataset["voxelres"]["4"] == [16.0, 16.0, 10.0]
    assert dataset["cube_dimension"]["4"] == [128, 128, 16]
    assert dataset["cube_dimension"]["5"] == [64, 64, 64]
    assert dataset["supercube_dimension"]["5"] == [256, 256, 256]
    assert dataset["neariso_scaledown"]["7"] == 13
    assert dataset["neariso_imagesize"]["6"] == [336, 416, 308]
    assert dataset["neariso_offset"]["4"] == [0.0, 0.0, 0.5]
    assert dataset["neariso_voxelres"]["4"] == [16.0, 16.0, 20.0]


async def test_info_of_an_isotropic_dataset_has_neariso_values_too(app: Running) -> None:
    await app.make_volume("i", scalingoption=1, scalinglevels=1)
    dataset = (await info(app, "i"))["dataset"]
    assert dataset["scaling"] == "xyz"
    assert dataset["neariso_scaledown"] == {"0": 1, "1": 1}
    assert dataset["neariso_imagesize"] == dataset["imagesize"]


async def test_info_keys_are_sorted_and_indented_by_four(app: Running) -> None:
    await app.make_volume("v")
    text = await (await app.get("/nd/sd/v/info/")).text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=4)


async def test_info_tells_channels_project_and_time(app: Running) -> None:
    await app.make_volume("v")
    series = {
        "channel_name": "ts",
        "channel_type": "timeseries",
        "channel_datatype": "uint16",
        "starttime": 3,
        "endtime": 9,
        "endwindow": 500,
        "channel_description": "beats",
    }
    await app.make("dataset/v/project/v/channel/ts/", series)
    document = await info(app, "v")
    assert document["channels"]["ts"] == {
        "channel_type": "timeseries",
        "datatype": "uint16",
        "description": "beats",
        "exceptions": 0,
        "propagate": 0,
        "readonly": 0,
        "resolution": 0,
        "timerange": [3, 9],
        "windowrange": [0, 500],
    }
    assert document["dataset"]["timerange"] == [0, 9]
    assert document["metadata"] == {}
    assert document["project"] == {
        "name": "v",
        "description": "",
        "ndstore_version": "1.2.0",
        "schema_version": "1.1.0",
        "s3backend": 1,
    }


async def test_info_of_a_project_without_channels_has_an_empty_time_range(app: Running) -> None:
    await app.make_volume("v")
    for channel in ("img", "lab"):
        path = f"/nd/resource/dataset/v/project/v/channel/{channel}/"
        assert await app.status(path, user="admin", method="DELETE") == 204
    document = await info(app, "v")
    assert document["channels"] == {}
    assert document["dataset"]["timerange"] == [0, 0]


async def test_channel_information_is_that_part_of_info(app: Running) -> None:
    await app.make_volume("v")
    answer = await app.get("/nd/sd/v/chaninfo/")
    assert json.loads(await answer.text()) == (await info(app, "v"))["channels"]


@pytest.mark.parametrize(
    "path",
    [
        "/v/info/",
        "//v/info/",
        "/nd//sd/v/info/",
        "/ocp/ca/v/info/",
        "/ca/v/info",
        "/nd/sd/v/info/more,words/",
    ],
)
async def test_urls_of_old_clients_reach_info(app: Running, path: str) -> None:
    await app.make_volume("v")
    assert await app.status(path) == 200


async def test_projinfo_is_hdf5_of_the_documented_types(app: Running) -> None:
    await app.make_volume("v", zoffset=1, scalinglevels=1, zvoxelres=10.0)
    answer = await app.get("/nd/sd/v/projinfo/")
    assert answer.content_type == "product/hdf5"
    with h5py.File(io.BytesIO(await answer.read())) as file:
        name = file["PROJECT/NAME"]
        assert h5py.check_string_dtype(name.dtype).encoding == "ascii"
        assert name.asstr()[()].tolist() == ["v"]
        assert file["DATASET/RESOLUTIONS"][()].tolist() == [0, 1]
        assert file["DATASET/OFFSET/0"][()].tolist() == [0, 0, 1]
        assert file["DATASET/IMAGE_SIZE/1"].dtype == "<i8"
        assert file["DATASET/VOXELRES/1"][()].tolist() == [2.0, 2.0, 10.0]
        assert file["CHANNELS/lab/TYPE"].asstr()[0] == "annotation"
        assert file["CHANNELS/lab/READONLY"][()].tolist() == [False]
        assert file["CHANNELS/lab/PROPAGATE"].dtype == "u1"
        assert file["CHANNELS/lab/TIMERANGE"][()].tolist() == [0, 1]


async def test_projinfo_takes_texts_that_are_not_ascii(app: Running) -> None:
    await app.make("dataset/d/", {"dataset_name": "d", **_ONE, "public": 1})
    await app.make("dataset/d/project/p/", {"project_name": "p", "host": "höst\0"})
    await app.make("dataset/d/project/p/token/t/", {"token_name": "t", "public": 1})
    answer = await app.get("/nd/sd/t/projinfo/")
    with h5py.File(io.BytesIO(await answer.read())) as file:
        assert file["PROJECT/HOST"].asstr()[0] == "höst"


_ONE = {"ximagesize": 1, "yimagesize": 1, "zimagesize": 1}


async def test_viking_reads_values_by_their_place(app: Running) -> None:
    await app.make_volume("v", ximagesize=1025, yimagesize=1024, zoffset=7, scalinglevels=2)
    answer = await app.get("/nd/sd/v/volume.vikingxml", headers={"Host": "brains.example"})
    assert answer.content_type == "application/xml"
    text = await answer.text()
    assert text.startswith("<Volume ")
    root = ElementTree.fromstring(text)
    host = "http://brains.example/nd/tilecache/viking/"
    assert list(root.attrib.items()) == [
        ("InputChecksum", ""),
        ("host", host),
        ("name", "v"),
        ("num_sections", "20"),
        ("num_stos", "0"),
        ("path", host),
    ]
    tiles = root.find("OCPTileServer")
    assert tiles is not None
    assert tiles.get("GridXdim") == "2"
    assert tiles.get("GridYDim") == "2"
    assert tiles.get("MaxLevel") == "2"
    assert [c.get("Name") for c in tiles] == ["img", "lab"]
    assert [s.get("Number") for s in root.findall("Section")] == [str(z) for z in range(7, 27)]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (4.0, 4.0, "1.0"),
        (3.0, 5.0, "0.6"),
        (4.0, 3.0, "1.33333333333"),
        (0.1, 0.3, "0.333333333333"),
    ],
)
async def test_viking_hears_how_wide_voxels_are_in_twelve_digits(
    app: Running, x: float, y: float, expected: str
) -> None:
    await app.make_volume("v", xvoxelres=x, yvoxelres=y)
    root = ElementTree.fromstring(await (await app.get("/nd/sd/v/volume.vikingxml")).text())
    scale = root.find("Scale")
    assert scale is not None
    assert scale.get("UnitsPerPixel") == expected


async def test_viking_hears_of_the_scheme_of_a_proxy_and_of_no_other(app: Running) -> None:
    await app.make_volume("v")
    for sent, expected in (("https", "https://"), ("javascript", "http://")):
        answer = await app.get("/nd/sd/v/volume.vikingxml", headers={"X-Forwarded-Proto": sent})
        root = ElementTree.fromstring(await answer.text())
        assert root.attrib["host"].startswith(expected)


async def test_viking_shows_the_default_channel_first(app: Running) -> None:
    await app.make_volume("v")
    path = "/nd/resource/dataset/v/project/v/channel/lab/"
    assert (await app.request("PUT", path, user="admin", json={"default": True})).status == 200
    root = ElementTree.fromstring(await (await app.get("/nd/sd/v/volume.vikingxml")).text())
    assert [c.get("Name") for c in root.iter("Channel")] == ["lab", "img"]


async def test_absurd_number_of_sections_is_too_large_for_viking(app: Running) -> None:
    await app.make_volume("v", zimagesize=1 << 24)
    answer = await app.get("/nd/sd/v/volume.vikingxml")
    assert answer.status == 413
    assert "1000000 sections" in await answer.text()


async def test_public_names_are_listed_for_everybody(app: Running) -> None:
    await app.make_volume("open", user="ann")
    await app.make_volume("shut", user="ann", public=0)
    for path in (
        "/nd/sd/public_tokens/",
        "/public_tokens/",
        "//public_tokens",
        "/nd/sd/public_datasets/",
    ):
        answer = await app.get(path)
        assert answer.status == 200
        assert json.loads(await answer.text()) == ["open"]


# -- reserving ids


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_reserved_ids_follow_each_other(app: Running, method: str) -> None:
    await app.make_volume("v")
    for path, expected in (
        ("/nd/sd/v/lab/reserve/10/", [1, 10]),
        ("/nd/v/lab/reserve/5/", [11, 5]),
        ("/ocp/ca/v/lab/reserve/1", [16, 1]),
    ):
        answer = await app.request(method, path, user="ann")
        assert (answer.status, json.loads(await answer.text())) == (200, expected)


@pytest.mark.parametrize(
    "path",
    [
        "/nd/sd/v/img/reserve/10/",
        "/nd/sd/v/none/reserve/10/",
        "/nd/sd/v/lab/reserve/x/",
    ],
)
async def test_bad_reservation_is_refused(app: Running, path: str) -> None:
    await app.make_volume("v")
    assert await app.status(path, user="admin") == 404


@pytest.mark.parametrize("count", ["0", "-1", "99999999999999999999"])
async def test_a_number_of_ids_that_cannot_be_is_refused(app: Running, count: str) -> None:
    await app.make_volume("v")
    assert await app.status(f"/nd/sd/v/lab/reserve/{count}/", user="admin") == 400


async def test_head_reserves_nothing(app: Running) -> None:
    await app.make_volume("v")
    assert await app.status("/nd/sd/v/lab/reserve/5/", user="admin", method="HEAD") == 405
    answer = await app.get("/nd/sd/v/lab/reserve/1/", user="admin")
    assert json.loads(await answer.text()) == [1, 1]


@pytest.mark.parametrize("last", [(1 << 32) - 4, 1 << 32, 1 << 40])
async def test_ids_that_do_not_fit_the_voxels_are_refused_and_not_used_up(
    app: Running, last: int
) -> None:
    await app.make_volume("v")
    view = await app.stores.catalog.token_view("v")
    channel = view.channel("lab")
    assert channel is not None
    await app.stores.catalog.raise_ids(channel.id, last)
    answer = await app.get("/nd/sd/v/lab/reserve/5/", user="admin")
    assert answer.status == 404
    assert str((1 << 32) - 1) in await answer.text()
    assert await app.stores.catalog.reserve_ids(channel.id, 1) == last + 1


async def test_the_last_ids_that_fit_are_given(app: Running) -> None:
    await app.make_volume("v")
    answer = await app.get(f"/nd/sd/v/lab/reserve/{(1 << 32) - 1}/", user="admin")
    assert json.loads(await answer.text()) == [1, (1 << 32) - 1]
    assert await app.status("/nd/sd/v/lab/reserve/1/", user="admin") == 404


async def test_reserving_needs_a_key_because_it_changes_something(app: Running) -> None:
    await app.make_volume("v")
    assert await app.status("/nd/sd/v/lab/reserve/1/") == 403
    headers = {"Authorization": f"Token {KEYS['bob']}"}
    answer = await app.get("/nd/sd/v/lab/reserve/1/", headers=headers)
    assert json.loads(await answer.text()) == [1, 1]
