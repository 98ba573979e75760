"""Cutouts over HTTP on the embedded engine: every format and refusal, clients that misbehave."""

import asyncio
import gzip
import io
import pickle
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import blosc
import h5py
import lz4.frame
import numpy as np
import numpy.typing as npt
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ndcass import config
from ndcass.keys import hash_key, new_key
from ndcass.server.app import make_app, server_options
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded

Voxels = npt.NDArray[Any]

BOX = "0/103,148/97,139/13,20"
SHAPE = (7, 42, 45)


class Gateway:
    """A running application and a key of its admin."""

    def __init__(self, client: TestClient[Any, Any], stores: Stores, key: str) -> None:
        self.client = client
        self.stores = stores
        self.headers = {"Authorization": f"Token {key}"}

    async def create(self, path: str, body: dict[str, Any]) -> None:
        answer = await self.client.post(f"/nd/resource/{path}", json=body, headers=self.headers)
        assert answer.status == 201, await answer.text()

    async def get(self, path: str, **options: Any) -> tuple[int, bytes, aiohttp.ClientResponse]:
        answer = await self.client.get(f"/nd/sd/t/{path}", headers=self.headers, **options)
        return answer.status, await answer.read(), answer

    async def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        answer = await self.client.post(
            f"/nd/sd/t/{path}", data=body, headers={**self.headers, **(headers or {})}
        )
        return answer.status, await answer.text()

    async def post_raw(self, path: str, voxels: Voxels, **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("X-Volume-Dtype", voxels.dtype.str)
        return await self.post(path, io.BytesIO(voxels.tobytes()), named)

    async def voxels(self, channel: str, box: str = BOX, shape: Any = SHAPE) -> Voxels:
        status, body, answer = await self.get(f"{channel}/raw/{box}/")
        assert status == 200, body
        found: Voxels = np.frombuffer(body, answer.headers["X-Volume-Dtype"]).reshape(shape)
        return found


CHANNELS: list[dict[str, Any]] = [
    {"channel_name": "u8", "channel_type": "timeseries", "channel_datatype": "uint8"},
    {"channel_name": "em", "channel_type": "image", "channel_datatype": "uint8", "default": True},
    {"channel_name": "u16", "channel_type": "image", "channel_datatype": "uint16"},
    {"channel_name": "f32", "channel_type": "image", "channel_datatype": "float32"},
    {"channel_name": "seg", "channel_type": "annotation", "channel_datatype": "uint32"},
    {
        "channel_name": "exc",
        "channel_type": "annotation",
        "channel_datatype": "uint64",
        "exceptions": 1,
    },
    {"channel_name": "ro", "channel_type": "image", "channel_datatype": "uint8", "readonly": 1},
]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    stores = await open_embedded(tmp_path / "data")
    user = await stores.catalog.add_user("admin", superuser=True)
    key = new_key()
    await stores.catalog.add_key(user.id, hash_key(key))
    settings = config.load(None, {})
    server = TestServer(make_app(settings, stores))
    options = server_options(settings.server)
    del options["handler_cancellation"]  # the test server sets it itself
    await server.start_server(**options)
    async with TestClient(server) as client:
        made = Gateway(client, stores, key)
        await made.create(
            "dataset/d/",
            {
                "dataset_name": "d",
                "ximagesize": 1500,
                "yimagesize": 1300,
                "zimagesize": 60,
                "zoffset": 1,
                "xvoxelres": 4.0,
                "yvoxelres": 4.0,
                "zvoxelres": 3.0,
                "scalinglevels": 2,
            },
        )
        await made.create("dataset/d/project/p/", {"project_name": "p"})
        for channel in CHANNELS:
            await made.create(f"dataset/d/project/p/channel/{channel['channel_name']}/", channel)
        await made.create("dataset/d/project/p/token/t/", {"token_name": "t"})
        yield made
    await stores.close()


def random_voxels(shape: Any = SHAPE, dtype: str = "u1", seed: int = 0) -> Voxels:
    voxels: Voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    return voxels


def npz(array: Voxels) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return zlib.compress(stream.getvalue())


def hdf5(**channels: Voxels) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, voxels in channels.items():
            group = file.create_group(name)
            group["CUTOUT"] = voxels
            group["CHANNELTYPE"] = [b"image"]
            group["DATATYPE"] = [str(voxels.dtype).encode()]
    return stream.getvalue()


def blosc_frame(array: Voxels) -> bytes:
    return bytes(blosc.compress(pickle.dumps(array, protocol=2), typesize=array.itemsize))


# -- there and back


@pytest.mark.parametrize("service", ["npz", "raw", "blosc", "hdf5"])
async def test_what_is_posted_in_a_format_comes_back_in_every_format(
    gateway: Gateway, service: str
) -> None:
    voxels = random_voxels()
    bodies = {
        "npz": npz(voxels[None]),
        "raw": voxels.tobytes(),
        "blosc": blosc_frame(voxels[None]),
        "hdf5": hdf5(em=voxels),
    }
    headers = {"X-Volume-Dtype": "|u1"} if service == "raw" else {}
    assert await gateway.post(f"em/{service}/{BOX}/", bodies[service], headers) == (200, "Success")
    _, body, _ = await gateway.get(f"em/npz/{BOX}/")
    assert np.array_equal(np.load(io.BytesIO(zlib.decompress(body))), voxels[None])
    _, body, answer = await gateway.get(f"em/raw/{BOX}/")
    assert body == voxels.tobytes()
    assert answer.headers["X-Volume-Shape"] == "1,7,42,45"
    assert answer.headers["Content-Length"] == str(len(body))
    _, body, _ = await gateway.get(f"em/zip/{BOX}/")
    assert zlib.decompress(body) == voxels.tobytes()
    _, body, _ = await gateway.get(f"em/blosc/{BOX}/")
    assert np.array_equal(pickle.loads(blosc.decompress(body)), voxels[None])
    _, body, _ = await gateway.get(f"em/hdf5/{BOX}/")
    with h5py.File(io.BytesIO(body)) as file:
        assert np.array_equal(file["em/CUTOUT"][()], voxels)


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
async def test_raw_bodies_may_be_compressed_for_the_way(gateway: Gateway, encoding: str) -> None:
    voxels = random_voxels()
    pack = {"gzip": gzip.compress, "lz4": lz4.frame.compress}[encoding]
    unpack = {"gzip": gzip.decompress, "lz4": lz4.frame.decompress}[encoding]
    headers = {"X-Volume-Dtype": "|u1", "Content-Encoding": encoding}
    assert (await gateway.post(f"em/raw/{BOX}/", pack(voxels.tobytes()), headers))[0] == 200
    async with gateway.client.session.get(
        gateway.client.make_url(f"/nd/sd/t/em/raw/{BOX}/?encoding={encoding}"),
        headers=gateway.headers,
        auto_decompress=False,
    ) as answer:
        assert answer.headers["Content-Encoding"] == encoding
        assert unpack(await answer.read()) == voxels.tobytes()


async def test_the_default_channel_needs_no_name(gateway: Gateway) -> None:
    voxels = random_voxels()
    assert (await gateway.post(f"npz/{BOX}/", npz(voxels[None])))[0] == 200
    assert np.array_equal(await gateway.voxels("default"), voxels)
    assert np.array_equal(await gateway.voxels("em"), voxels)


async def test_several_channels_and_timesteps(gateway: Gateway) -> None:
    voxels = random_voxels((2, 3, *SHAPE))
    assert (await gateway.post(f"u8,em/npz/{BOX}/4,7/", npz(voxels)))[0] == 200
    status, body, _ = await gateway.get(f"em,0,u8/raw/{BOX}/4,7/")
    assert status == 200
    found = np.frombuffer(body, "u1").reshape(3, 3, *SHAPE)
    assert np.array_equal(found[0], voxels[1])
    assert not found[1].any()
    assert np.array_equal(found[2], voxels[0])


async def test_an_unclosed_time_range_is_none(gateway: Gateway) -> None:
    status, body, answer = await gateway.get(f"u8/raw/{BOX}/0,1")
    assert (status, answer.headers["X-Volume-Shape"]) == (200, "1,7,42,45")
    assert len(body) == np.prod(SHAPE)


async def test_posting_to_the_time_range_0_0_means_no_time(gateway: Gateway) -> None:
    voxels = random_voxels()
    assert (await gateway.post(f"u8/blosc/{BOX}/0,0/", blosc_frame(voxels[None])))[0] == 200
    assert np.array_equal(await gateway.voxels("u8"), voxels)


async def test_head_has_the_headers_and_no_body(gateway: Gateway) -> None:
    answer = await gateway.client.head(f"/nd/sd/t/em/raw/{BOX}/", headers=gateway.headers)
    assert answer.status == 200
    assert answer.headers["Content-Length"] == str(np.prod(SHAPE))
    assert await answer.read() == b""


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(("service", "end"), [("raw", "raw"), ("blosc", "blosc"), ("hdf5", "h5")])
async def test_the_file_name_is_the_path_of_the_request(
    gateway: Gateway, service: str, end: str, size: str
) -> None:
    box = BOX if size == "small" else "0/100,150/50,150/11,31"
    path = f"/nd/sd/t/u8/{service}/{box}/"
    name = f"t-u8-{service}-{box.replace(',', '_').replace('/', '-')}-ndcutout.{end}"
    for method in ("GET", "HEAD"):
        answer = await gateway.client.request(method, path, headers=gateway.headers)
        assert answer.headers["Content-Disposition"] == f"attachment; filename={name}"


async def test_a_window_makes_bytes(gateway: Gateway) -> None:
    voxels = random_voxels(dtype="<u2")
    await gateway.post_raw(f"u16/raw/{BOX}/", voxels)
    _, body, answer = await gateway.get(f"u16/raw/{BOX}/window/50,150/")
    assert answer.headers["X-Volume-Dtype"] == "|u1"
    expected = ((np.clip(voxels, 50, 150) - 50.0) * (255.0 / 100)).astype(np.uint8)
    assert body == expected.tobytes()


async def test_a_filter_keeps_labels(gateway: Gateway) -> None:
    labels = random_voxels(dtype="<u4")
    await gateway.post_raw(f"seg/raw/{BOX}/", labels)
    _, body, _ = await gateway.get(f"seg/raw/{BOX}/filter/7,9,99999999999/")
    assert body == np.where(np.isin(labels, [7, 9]), labels, 0).astype("<u4").tobytes()


# -- how posted voxels meet stored ones


async def test_zeros_leave_stored_voxels_alone_unless_asked_to_replace(gateway: Gateway) -> None:
    first, second = random_voxels(seed=1), random_voxels(seed=2) * (random_voxels(seed=3) > 100)
    await gateway.post_raw(f"em/raw/{BOX}/", first)
    await gateway.post_raw(f"em/raw/{BOX}/", second)
    merged = np.where(second, second, first)
    assert np.array_equal(await gateway.voxels("em"), merged)
    await gateway.post_raw(f"em/raw/{BOX}/?write=preserve", random_voxels(seed=4))
    preserved = np.where(merged, merged, random_voxels(seed=4))
    assert np.array_equal(await gateway.voxels("em"), preserved)
    await gateway.post_raw(f"em/raw/{BOX}/?write=replace", second)
    assert np.array_equal(await gateway.voxels("em"), second)


async def test_conflict_words_count_on_labels_only(gateway: Gateway) -> None:
    ones, twos = np.full(SHAPE, 1, dtype="<u4"), np.full(SHAPE, 2, dtype="<u4")
    await gateway.post_raw(f"seg/raw/{BOX}/", ones)
    await gateway.post_raw(f"seg/raw/{BOX}/preserve/", twos)
    assert (await gateway.voxels("seg") == 1).all()
    await gateway.post_raw(f"em/raw/{BOX}/", ones.astype("u1"))
    await gateway.post_raw(f"em/raw/{BOX}/preserve/", twos.astype("u1"))
    assert (await gateway.voxels("em") == 2).all()


async def test_exceptions_need_a_channel_that_keeps_them(gateway: Gateway) -> None:
    ones, twos = np.full(SHAPE, 1, dtype="<u8"), np.full(SHAPE, 2, dtype="<u8")
    await gateway.post_raw(f"exc/raw/{BOX}/", ones)
    assert (await gateway.post_raw(f"exc/raw/{BOX}/?write=exception", twos))[0] == 200
    assert (await gateway.voxels("exc") == 1).all()
    status, text = await gateway.post_raw(f"seg/raw/{BOX}/exception/", twos.astype("<u4"))
    assert (status, "exceptions" in text) == (404, True)


# -- refusals change nothing


async def refused(
    gateway: Gateway, channel: str, status: int, path: str, body: Any, **headers: str
) -> str:
    """Post something wrong to a channel that holds something; nothing may have changed."""
    before = random_voxels(seed=9).astype(
        next(c["channel_datatype"] for c in CHANNELS if c["channel_name"] == channel)
    )
    await gateway.post_raw(f"{channel}/raw/{BOX}/", before)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found, text = await gateway.post(path, body, named)
    assert found == status, text
    assert np.array_equal(await gateway.voxels(channel), before)
    return text


def evil_pickle() -> bytes:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("owned",))

    return bytes(blosc.compress(pickle.dumps(Evil()), typesize=1))


V = random_voxels()
BAD_BODIES: dict[str, tuple[str, Any]] = {
    "no zlib": (f"em/npz/{BOX}/", b"hello"),
    "empty": (f"em/npz/{BOX}/", b""),
    "truncated zlib": (f"em/npz/{BOX}/", npz(V[None])[:-9]),
    "trailing bytes": (f"em/npz/{BOX}/", npz(V[None]) + b"x"),
    "too few voxels": (f"em/npz/{BOX}/", npz(V[None, :-1])),
    "too many voxels": (f"em/npz/{BOX}/", npz(np.concatenate([V, V])[None])),
    "no channel axis": (f"em/npz/{BOX}/", npz(V)),
    "time axis without time": (f"em/npz/{BOX}/", npz(V[None, None])),
    "no time axis with time": (f"em/npz/{BOX}/0,1/", npz(V[None])),
    "two channels": (f"em/npz/{BOX}/", npz(np.stack([V, V]))),
    "uint16": (f"em/npz/{BOX}/", npz(V[None].astype("<u2"))),
    "int8": (f"em/npz/{BOX}/", npz(V[None].astype("i1"))),
    "bool": (f"em/npz/{BOX}/", npz(V[None] > 5)),
    "objects": (f"em/npz/{BOX}/", npz(np.array([[[[None]]]], dtype=object))),
    "zlib bomb": (f"em/npz/{BOX}/", zlib.compress(bytes(200 << 20))),
    "blosc garbage": (f"em/blosc/{BOX}/", b"\x02\x01\x21\x01" + bytes(60)),
    "blosc bomb": (f"em/blosc/{BOX}/", bytes(blosc.compress(bytes(200 << 20), typesize=1))),
    "blosc of another shape": (f"em/blosc/{BOX}/", blosc_frame(V[None, :, :, :-1])),
    "a pickle that calls": (f"em/blosc/{BOX}/", evil_pickle()),
    "a pickle that is no array": (
        f"em/blosc/{BOX}/",
        bytes(blosc.compress(pickle.dumps([1, 2]), typesize=1)),
    ),
    "no HDF5": (f"em/hdf5/{BOX}/", b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "HDF5 of another channel": (f"em/hdf5/{BOX}/", hdf5(other=V)),
    "HDF5 of float64": (f"em/hdf5/{BOX}/", hdf5(em=V.astype("f8"))),
    "HDF5 of another shape": (f"em/hdf5/{BOX}/", hdf5(em=V[:-1])),
    "truncated HDF5": (f"em/hdf5/{BOX}/", hdf5(em=V)[:-500]),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_changes_nothing(gateway: Gateway, case: str) -> None:
    path, body = BAD_BODIES[case]
    await refused(gateway, "em", 404, path, body)


@pytest.mark.parametrize(
    ("status", "path", "headers"),
    [
        (400, f"em/raw/{BOX}/", {}),
        (400, f"em/raw/{BOX}/", {"X_Volume_Dtype": "<u2"}),
        (400, f"em/raw/{BOX}/", {"X_Volume_Dtype": "O"}),
        (400, f"em/raw/{BOX}/?write=destroy", {"X_Volume_Dtype": "|u1"}),
        (400, f"em/raw/{BOX}/", {"X_Volume_Dtype": "|u1", "Content_Encoding": "br"}),
        (404, f"em/raw/{BOX}/", {"X_Volume_Dtype": "|u1", "Content_Encoding": "gzip"}),
        (404, "em/raw/0/103,148/97,139/13,21/", {"X_Volume_Dtype": "|u1"}),
        (404, "em/raw/0/103,148/97,139/13,19/", {"X_Volume_Dtype": "|u1"}),
        (404, f"em,em/raw/{BOX}/", {"X_Volume_Dtype": "|u1"}),
        (404, f"em,0/raw/{BOX}/", {"X_Volume_Dtype": "|u1"}),
        (404, f"em,u16/raw/{BOX}/", {"X_Volume_Dtype": "|u1"}),
        (404, f"nobody/raw/{BOX}/", {"X_Volume_Dtype": "|u1"}),
        (404, f"em/raw/{BOX}/5,5/", {"X_Volume_Dtype": "|u1"}),
        (400, f"em/zip/{BOX}/", {}),
    ],
)
async def test_a_raw_body_must_fit(
    gateway: Gateway, status: int, path: str, headers: dict[str, str]
) -> None:
    await refused(gateway, "em", status, path, random_voxels().tobytes(), **headers)


async def test_a_bad_second_channel_leaves_the_first_alone(gateway: Gateway) -> None:
    text = await refused(gateway, "em", 404, f"em,ro/npz/{BOX}/", npz(np.stack([V, V])))
    assert "read-only" in text


@pytest.mark.parametrize(
    "box",
    [
        "0/1490,1501/0,1/1,2",
        "0/0,1/0,1301/1,2",
        "0/0,1/0,1/0,1",
        "0/0,1/0,1/60,62",
        "0/5,5/0,1/1,2",
        "0/6,5/0,1/1,2",
        "3/0,1/0,1/1,2",
        "99999999999999/0,1/0,1/1,2",
        "0/0,99999999999999999999999999/0,1/1,2",
        "0/-1,1/0,1/1,2",
        "0/a,1/0,1/1,2",
        "0/0,1/0,1",
    ],
)
@pytest.mark.parametrize("service", ["raw", "npz", "hdf5", "blosc", "zip"])
async def test_boxes_outside_or_inverted_are_refused(
    gateway: Gateway, box: str, service: str
) -> None:
    assert (await gateway.get(f"em/{service}/{box}/"))[0] == 404
    if service != "zip":
        status, _ = await gateway.post(f"em/{service}/{box}/", b"x", {"X-Volume-Dtype": "|u1"})
        assert status == 404


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (404, f"nobody/npz/{BOX}/"),
        (404, f"0/npz/{BOX}/"),
        (404, f"em,u16/npz/{BOX}/"),
        (404, f"em,0/hdf5/{BOX}/"),
        (404, f"em/npz/{BOX}/5,5/"),
        (404, f"em/npz/{BOX}/6,5/"),
        (404, f"em/npz/{BOX}/filter/1,2/"),
        (404, f"em/npz/{BOX}/window/5,5/"),
        (404, f"em/npz/{BOX}/window/9,5/"),
        (404, f"em/npz/{BOX}/window/0.5,5/"),
        (400, f"em/raw/{BOX}/?encoding=br"),
        (413, "u8/raw/0/0,1500/0,1300/1,61/0,100000/"),
        (413, "u8/hdf5/0/0,1500/0,1300/1,61/0,100/"),
        (413, f"u8/raw/{BOX}/0,99999999999/"),
        (413, "u8,u8,u8/raw/0/0,1/0,1/1,2/0,40000/"),
        (413, ",".join(["u8"] * 20_000) + "/raw/0/0,1/0,1/1,2/0,9/"),
    ],
)
async def test_reads_that_make_no_sense_are_refused(
    gateway: Gateway, status: int, path: str
) -> None:
    found, body, _ = await gateway.get(path)
    assert found == status, body


async def test_too_large_says_how_large_it_may_be(gateway: Gateway) -> None:
    _, body, _ = await gateway.get("u8/raw/0/0,1500/0,1300/1,61/0,60000/")
    assert b"4294967296" in body


# -- clients that misbehave


async def test_a_client_that_leaves_half_way_through_a_post_changes_nothing(
    gateway: Gateway,
) -> None:
    server = gateway.client.server
    _, writer = await asyncio.open_connection(server.host, server.port)
    head = "POST /nd/sd/t/em/raw/0/0,1000/0,1000/1,41/ HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: {gateway.headers['Authorization']}\r\n"
    head += f"X-Volume-Dtype: |u1\r\nContent-Length: {40_000_000}\r\n\r\n"
    writer.write(head.encode() + bytes([7]) * 30_000_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.2)
    assert not (await gateway.voxels("em", "0/0,100/0,100/1,21", (20, 100, 100))).any()


async def test_a_client_that_stops_reading_does_not_hold_the_others_up(gateway: Gateway) -> None:
    server = gateway.client.server
    await gateway.post_raw("em/raw/0/0,1500/0,1300/1,61/", random_voxels((60, 1300, 1500)))
    _, writer = await asyncio.open_connection(server.host, server.port)
    head = "GET /nd/sd/t/em/raw/0/0,1500/0,1300/1,61/ HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{head}Authorization: {gateway.headers['Authorization']}\r\n\r\n".encode())
    await writer.drain()
    async with asyncio.timeout(5):
        for _ in range(20):
            assert (await gateway.get(f"em/raw/{BOX}/"))[0] == 200
    writer.transport.abort()


async def test_a_damaged_cuboid_breaks_the_answer_and_is_never_zeros(
    gateway: Gateway, tmp_path: Path
) -> None:
    await gateway.post_raw(f"em/raw/{BOX}/", random_voxels())
    (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[5000] ^= 1
    with segment.open("r+b") as file:
        file.write(content)
    status, body, _ = await gateway.get(f"em/raw/{BOX}/")
    assert status == 500
    assert b"morton" in body


async def test_a_failure_after_the_first_byte_breaks_the_connection(
    gateway: Gateway, tmp_path: Path
) -> None:
    await gateway.post_raw("em/raw/0/0,1500/0,1300/1,61/", random_voxels((60, 1300, 1500)))
    (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
    with segment.open("r+b") as file:
        used = file.read().rstrip(b"\0")
        file.seek(len(used) - 40_000)
        file.write(b"damage" * 100)
    with pytest.raises(aiohttp.ClientPayloadError):
        await gateway.get("em/raw/0/0,1500/0,1300/1,61/")
