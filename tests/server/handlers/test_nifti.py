"""NIfTI over HTTP: a whole channel in and out, and channels made for a file."""

import gzip
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from aiohttp import ClientResponse

from ndcass.config import ServerSettings, Settings
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running

Array = npt.NDArray[Any]

SIZE = (20, 13, 6)
BOX = "0/0,20/0,13/1,7"
SERIES = np.random.default_rng(4).integers(1, 200, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
async def volume(app: Running) -> None:
    """A volume `v` with channels `img` (uint8), `lab`, `ser` (3 timesteps) and `rgb` (uint32)."""
    await app.make_volume(
        "v", ximagesize=20, yimagesize=13, zimagesize=6, zoffset=1, zvoxelres=3.0, scalinglevels=1
    )
    for name, datatype, fields in (
        ("ser", "uint8", {"starttime": 2, "endtime": 5}),
        ("rgb", "uint32", {}),
        ("u16", "uint16", {}),
    ):
        body = {"channel_name": name, "channel_type": "timeseries", "channel_datatype": datatype}
        await app.make(f"dataset/v/project/v/channel/{name}/", {**body, **fields})


def file_of(voxels_xyz: Array) -> bytes:
    image_type: Any = nibabel.Nifti1Image
    return bytes(image_type(voxels_xyz, np.diag([2.0, 3.0, 4.0, 1.0])).to_bytes())


async def post(
    app: Running, path: str, body: bytes, *, user: str | None = "admin"
) -> ClientResponse:
    return await app.request("POST", f"/nd/sd/{path}", user=user, data=body)


async def get(app: Running, path: str) -> Any:
    """What nibabel makes of the answer."""
    answer = await app.get(f"/nd/sd/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "product/nii"
    image_type: Any = nibabel.Nifti1Image
    return image_type.from_bytes(gzip.decompress(await answer.read()))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_a_series_comes_back_as_it_was(app: Running, pack: Any) -> None:
    answer = await post(app, "v/ser/nii/", pack(file_of(SERIES)))
    assert (answer.status, await answer.text()) == (200, "Success")
    image = await get(app, "v/ser/nii/")
    assert np.array_equal(np.asarray(image.dataobj), SERIES)
    assert np.array_equal(image.affine, np.diag([2.0, 3.0, 4.0, 1.0]))
    assert np.array_equal((await app.read(f"v/ser/raw/{BOX}/2,5/"))[0], SERIES.T)


async def test_the_file_is_named_by_its_path(app: Running) -> None:
    await post(app, "v/ser/nii", file_of(SERIES))
    answer = await app.get("/nd/sd/v/ser/nii")
    name = answer.headers["Content-Disposition"]
    assert name == "attachment; filename=v_ser_nii_.nii.gz"


async def test_a_file_of_three_axes_is_one_timestep(app: Running) -> None:
    assert (await post(app, "v/img/nii/", file_of(SERIES[..., 0]))).status == 200
    image = await get(app, "v/img/nii/")
    assert image.shape == SIZE
    assert np.array_equal(np.asarray(image.dataobj), SERIES[..., 0])
    assert (await post(app, "v/ser/nii/", file_of(SERIES[..., 0]))).status == 200
    assert (await get(app, "v/ser/nii/")).shape == SERIES.shape  # all timesteps of the channel


async def test_a_file_of_three_axes_becomes_all_of_a_series(app: Running) -> None:
    await post(app, "v/ser/nii/", file_of(SERIES))
    assert (await post(app, "v/ser/nii/", file_of(SERIES[..., 1]))).status == 200
    (steps,) = await app.read(f"v/ser/raw/{BOX}/2,5/")
    assert np.array_equal(steps[0], SERIES[..., 1].T)
    assert not steps[1:].any()


async def test_labels_of_three_axes_are_the_first_timestep_and_leave_the_others(
    app: Running,
) -> None:
    kind = {"channel_type": "annotation", "channel_datatype": "uint32", "endtime": 3}
    await app.make("dataset/v/project/v/channel/long/", {"channel_name": "long", **kind})
    await post(app, "v/long/nii/annotations/", file_of(SERIES.astype("<i4")))
    assert (await post(app, "v/long/nii/annotations/", file_of(SERIES[..., 1]))).status == 200
    (steps,) = await app.read(f"v/long/raw/{BOX}/0,3/")
    assert np.array_equal(steps[0], SERIES[..., 1].T)
    assert np.array_equal(steps[1:], SERIES.T[1:])


async def test_all_is_replaced_also_by_zeros(app: Running) -> None:
    await post(app, "v/img/nii/", file_of(SERIES[..., 0]))
    await post(app, "v/img/nii/", file_of(np.zeros(SIZE, "u1")))
    assert not np.asarray((await get(app, "v/img/nii/")).dataobj).any()


async def test_values_are_cast_and_go_out_as_the_header_has_them(app: Running) -> None:
    voxels = SERIES[..., 0].astype("<i2")
    assert (await post(app, "v/u16/nii/", file_of(voxels))).status == 200
    assert (await get(app, "v/u16/nii/")).get_data_dtype() == np.int16
    assert await app.write("v/u16/raw/0/0,1/0,1/1,2/", np.array([60_000], "<u2")) == 200
    image = await get(app, "v/u16/nii/")
    assert image.get_data_dtype() == np.uint16
    assert np.asarray(image.dataobj)[0, 0, 0] == 60_000


async def test_labels_stay_labels(app: Running) -> None:
    labels = SERIES[..., 0].astype("<f8")
    assert (await post(app, "v/lab/nii/annotations/", file_of(labels))).status == 200
    assert np.array_equal((await app.read(f"v/lab/raw/{BOX}/"))[0], labels.T)
    assert np.array_equal(np.asarray((await get(app, "v/lab/nii/")).dataobj), labels)


async def test_three_volumes_of_bytes_are_the_colours_of_a_picture(app: Running) -> None:
    assert (await post(app, "v/rgb/nii/", file_of(SERIES))).status == 200
    image = await get(app, "v/rgb/nii/")
    assert image.shape == SERIES.shape
    assert np.array_equal(np.asarray(image.dataobj), SERIES)
    (packed,) = await app.read(f"v/rgb/raw/{BOX}/")
    assert packed[0, 0, 0] == int.from_bytes([*SERIES[0, 0, 0].tolist(), 255], "little")


async def test_without_an_upload_there_is_no_file_unless_a_header_is_asked_for(
    app: Running,
) -> None:
    assert await app.status("/nd/sd/v/img/nii/") == 404
    assert await app.status("/nd/sd/v/img/nii/?header=other") == 400
    assert await app.status("/nd/sd/v/img/nii/junk") == 404
    image = await get(app, "v/img/nii/?header=dataset")
    assert image.shape == SIZE
    assert np.array_equal(image.affine, np.diag([1.0, 1.0, 3.0, 1.0]))


@pytest.mark.parametrize(
    ("path", "voxels"),
    [
        ("v/img/nii/", SERIES),  # three timesteps for one
        ("v/ser/nii/", SERIES[..., :2]),
        ("v/img/nii/", SERIES[:-1, ..., 0]),
        ("v/img/nii/", SERIES[..., 0].T),
        ("v/img/nii/", SERIES[..., 0].astype("<i2") - 300),
        ("v/img/nii/annotations/", SERIES[..., 0]),
        ("v/img/nii/other/", SERIES[..., 0]),
        ("v/img/nii/createannotations/", SERIES[..., 0]),
        ("v/none/nii/", SERIES[..., 0]),
        ("v/nii/", SERIES[..., 0]),  # no default channel
        ("v/img,lab/nii/", SERIES[..., 0]),
        ("v/img/nii/create/", SERIES[..., 0]),  # there is one
        ("v/info/nii/create/", SERIES[..., 0]),
    ],
)
async def test_what_does_not_fit_is_not_found_and_changes_nothing(
    app: Running, path: str, voxels: Array
) -> None:
    answer = await post(app, path, file_of(voxels))
    assert answer.status == 404, await answer.text()
    assert not (await app.read(f"v/img/raw/{BOX}/")).any()
    assert await app.status("/nd/sd/v/img/nii/") == 404


async def test_channels_that_cannot_be_written_stay_as_they_are(app: Running) -> None:
    for name, fields in (("ro", {"readonly": 1}), ("deep", {"resolution": 1})):
        body = {"channel_name": name, "channel_type": "image", "channel_datatype": "uint8"}
        await app.make(f"dataset/v/project/v/channel/{name}/", {**body, **fields})
        assert (await post(app, f"v/{name}/nii/", file_of(SERIES[..., 0]))).status == 404


@pytest.mark.parametrize(
    ("tail", "voxels", "expected"),
    [
        ("create/", SERIES, ("timeseries", "uint8", 3)),
        ("create/", SERIES[..., 0].astype("<f4"), ("timeseries", "float32", 1)),
        ("create/annotations/", SERIES[..., 0].astype("<i2"), ("annotation", "uint32", 1)),
        ("annotations/create/", SERIES[..., :2], ("annotation", "uint32", 2)),
    ],
)
async def test_a_channel_is_made_for_a_file(
    app: Running, tail: str, voxels: Array, expected: tuple[str, str, int]
) -> None:
    answer = await post(app, f"v/made/nii/{tail}", file_of(voxels))
    assert (answer.status, await answer.text()) == (200, "Success")
    channel = await app.stores.catalog.channel("v", "made")
    assert (channel.channel_type, channel.channel_datatype, channel.endtime) == expected
    assert (channel.starttime, channel.readonly, channel.channel_description) == (0, 0, "made")
    assert np.array_equal(np.asarray((await get(app, "v/made/nii/")).dataobj), voxels)


@pytest.mark.parametrize("body", [file_of(SERIES)[:-1], file_of(SERIES.T), b"no NIfTI"])
async def test_no_channel_is_left_of_a_file_that_is_no_good(app: Running, body: bytes) -> None:
    assert (await post(app, "v/made/nii/create/", body)).status == 404
    assert "made" not in [c.channel_name for c in await app.stores.catalog.channels("v")]
    assert (await post(app, "v/made/nii/create/", file_of(SERIES))).status == 200


async def test_only_an_owner_makes_channels(app: Running) -> None:
    body = file_of(SERIES)
    for user in ("bob", None):
        answer = await post(app, "v/made/nii/create/", body, user=user)
        assert answer.status == 403, await answer.text()
    assert (await post(app, "v/img/nii/", body, user=None)).status == 403


async def test_files_that_are_too_large_say_the_limit() -> None:
    limits = ServerSettings(max_body_bytes=1500, max_cutout_bytes=1500)
    async with running(MemoryStores(), Settings(server=limits)) as app:
        await app.make_volume("v", ximagesize=20, yimagesize=13, zimagesize=6)
        packed = gzip.compress(file_of(np.zeros(SIZE, "u1")))
        assert len(packed) < 1500
        for path in ("v/img/nii/", "v/made/nii/create/"):
            answer = await post(app, path, packed)
            assert answer.status == 413
            assert "1500" in await answer.text()
        answer = await app.get("/nd/sd/v/img/nii/?header=dataset")
        assert answer.status == 413
