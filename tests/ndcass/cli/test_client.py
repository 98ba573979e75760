"""The client against a server that misbehaves on purpose."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ndcass.cli.arguments import Target
from ndcass.cli.client import Access, Gateway, access_from
from ndcass.cli.failure import CommandFailed
from ndcass.geometry import Box

INFO = {
    "channels": {"em": {"datatype": "uint16", "timerange": [3, 4], "readonly": 0, "resolution": 1}},
    "dataset": {
        "name": "d",
        "resolutions": [0, 1],
        "imagesize": {"0": [30, 20, 10], "1": [15, 10, 10]},
        "offset": {"0": [0, 4, 1], "1": [0, 2, 1]},
        "cube_dimension": {"0": [128, 128, 16], "1": [64, 64, 64]},
    },
    "project": {"name": "p"},
}
BOX = Box((1, 4, 0), (3, 7, 5))
TARGET = Target("t", "em")


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    length: int | None = None  # announced, if it is not that of the body


class FakeServer:
    """Gives the answers that a test lines up, for voxels; info and identity it knows itself."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[Seen] = []
        self.url = ""

    def answer(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        if seen.path == "/nd/sd/t/info/":
            return Answer(200, json.dumps(INFO).encode())
        if seen.path.startswith("/nd/resource/"):
            return Answer(200, b'{"id": 17}')
        return self.answers.pop(0)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = fake.answer(Seen(self.command, self.path, dict(self.headers), body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = length != len(answer.body)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def gateway(server: FakeServer, pauses: list[float]) -> Iterator[Gateway]:
    with Gateway(Access(server.url, "k" * 40), sleep=pauses.append) as opened:
        yield opened


def voxels() -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.arange(30, dtype="<u2").reshape(2, 3, 5)


def test_info_becomes_a_volume(gateway: Gateway) -> None:
    volume = gateway.volume(TARGET, 1)

    assert volume.dtype == np.dtype("<u2")
    assert volume.extent == Box((1, 2, 0), (11, 12, 15))
    assert volume.cuboid_zyx == (64, 64, 64)
    assert (volume.starttime, volume.readonly, volume.identity) == (3, False, 17)


def test_without_a_level_it_is_the_base_of_the_channel(gateway: Gateway) -> None:
    assert gateway.volume(TARGET, None) == gateway.volume(TARGET, 1)


def test_unknown_channel_is_refused_with_the_known_ones(gateway: Gateway) -> None:
    with pytest.raises(CommandFailed, match="no channel other; its channels: em"):
        gateway.volume(Target("t", "other"), 0)


def test_unknown_level_is_refused_with_the_known_ones(gateway: Gateway) -> None:
    with pytest.raises(CommandFailed, match=r"level 2 is outside 0\.\.1"):
        gateway.volume(TARGET, 2)


def test_key_goes_with_every_request(gateway: Gateway, server: FakeServer) -> None:
    gateway.volume(TARGET, 0)

    assert {seen.headers["Authorization"] for seen in server.seen} == {f"Token {'k' * 40}"}


def test_box_is_read_by_its_url(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(200, voxels().tobytes(), {"X-Volume-Dtype": "<u2"})] * 2
    volume = gateway.volume(TARGET, 0)

    np.testing.assert_array_equal(gateway.read_box(volume, BOX, None), voxels())
    gateway.read_box(volume, BOX, 7)

    assert [seen.path for seen in server.seen[-2:]] == [
        "/nd/sd/t/em/raw/0/0,5/4,7/1,3/",
        "/nd/sd/t/em/raw/0/0,5/4,7/1,3/7,8/",
    ]


def test_box_is_written_as_bytes_with_their_type(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(200, b"Success")]
    volume = gateway.volume(TARGET, 0)

    gateway.write_box(volume, BOX, None, voxels(), op="replace")

    seen = server.seen[-1]
    assert (seen.method, seen.path) == ("POST", "/nd/sd/t/em/raw/0/0,5/4,7/1,3/?write=replace")
    assert seen.headers["X-Volume-Dtype"] == "<u2"
    assert seen.body == voxels().tobytes()


def test_part_of_an_array_is_written_in_c_order(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(200, b"Success")]
    volume = gateway.volume(TARGET, 0)
    larger = np.zeros((4, 6, 10), dtype="<u2")
    larger[1:3, 2:5, 3:8] = voxels()

    gateway.write_box(volume, BOX, None, larger[1:3, 2:5, 3:8], op="merge")

    assert server.seen[-1].body == voxels().tobytes()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_busy_server_is_asked_again(
    gateway: Gateway, server: FakeServer, pauses: list[float], status: int
) -> None:
    server.answers = [Answer(status), Answer(status), Answer(200, b"Success")]
    volume = gateway.volume(TARGET, 0)

    gateway.write_box(volume, BOX, None, voxels(), op="merge")

    assert len(pauses) == 2
    assert server.seen[-1].body == voxels().tobytes()


def test_pause_that_the_server_asks_for_is_kept(
    gateway: Gateway, server: FakeServer, pauses: list[float]
) -> None:
    server.answers = [Answer(503, headers={"Retry-After": "4"}), Answer(200, b"Success")]
    volume = gateway.volume(TARGET, 0)

    gateway.write_box(volume, BOX, None, voxels(), op="merge")

    assert 3 <= pauses[0] <= 5


def test_tries_end(gateway: Gateway, server: FakeServer, pauses: list[float]) -> None:
    server.answers = [Answer(503, b"store is away")] * 100
    volume = gateway.volume(TARGET, 0)

    with pytest.raises(CommandFailed, match="503 store is away"):
        gateway.write_box(volume, BOX, None, voxels(), op="merge")

    assert len(pauses) < 10
    assert sum(pauses) < 120


def test_body_that_breaks_off_is_asked_for_again(gateway: Gateway, server: FakeServer) -> None:
    body = voxels().tobytes()
    server.answers = [Answer(200, body[:20], length=len(body)), Answer(200, body)]
    volume = gateway.volume(TARGET, 0)

    np.testing.assert_array_equal(gateway.read_box(volume, BOX, None), voxels())


def test_short_body_is_never_taken_for_a_whole_one(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(200, voxels().tobytes()[:20])]
    volume = gateway.volume(TARGET, 0)

    with pytest.raises(CommandFailed, match="20 bytes, not 60"):
        gateway.read_box(volume, BOX, None)


def test_voxels_of_another_type_are_refused(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(200, b"\0" * 120, {"X-Volume-Dtype": "<u4"})]
    volume = gateway.volume(TARGET, 0)

    with pytest.raises(CommandFailed, match="sent as uint32, not uint16"):
        gateway.read_box(volume, BOX, None)


def test_refusal_is_not_asked_again(
    gateway: Gateway, server: FakeServer, pauses: list[float]
) -> None:
    server.answers = [Answer(404, b"channel em\nis read-only")]
    volume = gateway.volume(TARGET, 0)

    with pytest.raises(CommandFailed, match=r"cannot write 0,5/4,7/1,3 of t/em: 404 .* read-only"):
        gateway.write_box(volume, BOX, None, voxels(), op="merge")

    assert pauses == []


def test_missing_key_is_called_by_its_name(server: FakeServer) -> None:
    server.answers = [Answer(403, b"no")]
    with Gateway(Access(server.url, None)) as gateway:
        volume = gateway.volume(TARGET, 0)

        with pytest.raises(CommandFailed, match="NDCASS_API_KEY is not set"):
            gateway.write_box(volume, BOX, None, voxels(), op="merge")


def test_redirect_is_not_followed(gateway: Gateway, server: FakeServer) -> None:
    server.answers = [Answer(301, b"elsewhere", {"Location": "/nd/sd/t/info/"})]
    volume = gateway.volume(TARGET, 0)

    with pytest.raises(CommandFailed, match="301"):
        gateway.write_box(volume, BOX, None, voxels(), op="merge")


def test_nobody_listening_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            Gateway(Access(url, None), sleep=lambda _: None) as gateway,
            pytest.raises(CommandFailed, match=f"no answer from {url}.*refused") as caught,
        ):
            gateway.volume(TARGET, 0)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:1", "http://", "nonsense"])
def test_what_is_no_url_is_said(url: str) -> None:
    with (
        Gateway(Access(url, None), sleep=lambda _: None) as gateway,
        pytest.raises(CommandFailed, match="not the URL of a server"),
    ):
        gateway.volume(TARGET, 0)


def test_other_servers_are_told_from_ndcass(server: FakeServer, gateway: Gateway) -> None:
    server.answers = [Answer(200, b"<html>hello"), Answer(200, b"[]"), Answer(200, b'{"a": 1}')]

    for _ in range(3):
        with pytest.raises(CommandFailed, match="does not answer like ndcass"):
            gateway.volume(Target("x", "em"), 0)


def test_address_and_key_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("filekey\n")
    from_file = {"NDCASS_API_KEY_FILE": str(tmp_path / "key")}

    assert access_from(None, {}) == Access("http://127.0.0.1:8000", None)
    assert access_from(None, {"NDCASS_URL": "http://h/"}) == Access("http://h", None)
    assert access_from("http://o", {"NDCASS_URL": "http://h"}).url == "http://o"
    assert access_from(None, from_file).key == "filekey"
    assert access_from(None, {**from_file, "NDCASS_API_KEY": "direct"}).key == "direct"


def test_missing_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="NDCASS_API_KEY_FILE"):
        access_from(None, {"NDCASS_API_KEY_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("key", ["two words", "a\nb", "tab\there", "caf\u00e9", "nul\0"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    for name, value in (
        ("NDCASS_API_KEY", key),
        ("NDCASS_API_KEY_FILE", str(tmp_path / "key")),
    ):
        with pytest.raises(CommandFailed, match=f"{name} gives is no API key") as caught:
            access_from(None, {name: value})
        assert key not in str(caught.value)


def test_space_around_a_key_does_not_count() -> None:
    assert access_from(None, {"NDCASS_API_KEY": " key\r\n"}).key == "key"


def test_key_does_not_show() -> None:
    assert "secret" not in repr(Access("http://h", "secret"))
