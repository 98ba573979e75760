"""An application on a test server, with users to act as."""

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from ndcass.config import Settings
from ndcass.keys import hash_key
from ndcass.server.app import make_app, server_options
from ndcass.server.metrics import Metrics
from ndcass.server.protocol import Runner
from ndcass.server.routes import ROUTES
from ndcass.server.routing import Route
from ndcass.store.base import Stores
from ndcass.store.picture_cache import PictureCache

# User -> API key. The first one is a superuser.
KEYS = {"admin": "a" * 40, "ann": "b" * 40, "bob": "c" * 40}

SMALL = {"ximagesize": 300, "yimagesize": 200, "zimagesize": 20}


class Running:
    """A running application."""

    def __init__(self, client: TestClient[Any, Any], stores: Stores) -> None:
        self.client = client
        self.stores = stores

    async def request(
        self, method: str, path: str, *, user: str | None = None, **options: Any
    ) -> ClientResponse:
        """The answer, with its body read. `Any` is whatever aiohttp's client takes."""
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Token {KEYS[user]}"
        # As it is written: the test client would take two slashes for a host.
        url = URL(f"http://{self.client.host}:{self.client.port}{path}", encoded=True)
        answer = await self.client.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        )
        await answer.read()
        return answer

    async def get(self, path: str, *, user: str | None = None, **options: Any) -> ClientResponse:
        return await self.request("GET", path, user=user, **options)

    async def status(self, path: str, *, user: str | None = None, method: str = "GET") -> int:
        return (await self.request(method, path, user=user)).status

    async def make(self, path: str, body: dict[str, Any], *, user: str = "admin") -> None:
        answer = await self.request("POST", f"/nd/resource/{path}", user=user, json=body)
        assert answer.status == 201, await answer.text()
        assert await answer.read() == b""

    async def make_volume(
        self, name: str, *, user: str = "admin", public: int = 1, **dataset: Any
    ) -> None:
        """Dataset, project and token of one name, with channels `img` (uint8) and `lab`."""
        fields = {"dataset_name": name, "public": public, **SMALL, **dataset}
        await self.make(f"dataset/{name}/", fields, user=user)
        project = f"dataset/{name}/project/{name}/"
        await self.make(project, {"project_name": name, "public": public}, user=user)
        for channel, kind, datatype in (
            ("img", "image", "uint8"),
            ("lab", "annotation", "uint32"),
        ):
            body = {
                "channel_name": channel,
                "channel_type": kind,
                "channel_datatype": datatype,
            }
            await self.make(f"{project}channel/{channel}/", body, user=user)
        await self.make(
            f"{project}token/{name}/", {"token_name": name, "public": public}, user=user
        )

    async def write(self, path: str, voxels: npt.NDArray[Any], *, user: str = "admin") -> int:
        """POST voxels to a path below `sd`, as they lie in memory; the status."""
        headers = {"X-Volume-Dtype": voxels.dtype.str}
        body = io.BytesIO(voxels.tobytes())  # aiohttp warns of large bytes
        answer = await self.request("POST", f"/nd/sd/{path}", user=user, data=body, headers=headers)
        return answer.status

    async def read(self, path: str) -> npt.NDArray[Any]:
        """The voxels of a `raw` path below `sd`, in their shape."""
        answer = await self.get(f"/nd/sd/{path}")
        assert answer.status == 200, await answer.text()
        shape = [int(n) for n in answer.headers["X-Volume-Shape"].split(",")]
        voxels = np.frombuffer(await answer.read(), answer.headers["X-Volume-Dtype"])
        return voxels.reshape(shape)

    async def post_ones(self, token: str, *, user: str | None = "admin") -> ClientResponse:
        """Write a small box of ones into the channel `img`."""
        headers = {"X-Volume-Dtype": "|u1"}
        path = f"/nd/sd/{token}/img/raw/0/0,4/0,3/0,2/"
        return await self.request("POST", path, user=user, data=b"\1" * 24, headers=headers)


class _Server(TestServer):
    """Runs the application as the command line does."""

    async def _make_runner(self, **options: Any) -> Runner:  # whatever aiohttp takes
        return Runner(self.app, **options)


@asynccontextmanager
async def running(
    stores: Stores,
    settings: Settings | None = None,
    *,
    metrics: Metrics | None = None,
    routes: Sequence[Route] = ROUTES,
    pictures: PictureCache | None = None,
) -> AsyncIterator[Running]:
    """Serve some stores, which get the users of `KEYS`."""
    settings = settings or Settings()
    for name, key in KEYS.items():
        user = await stores.catalog.add_user(name, superuser=name == "admin")
        await stores.catalog.add_key(user.id, hash_key(key))
    options = server_options(settings.server)
    del options["handler_cancellation"]  # the test server sets it itself
    server = _Server(make_app(settings, stores, metrics=metrics, routes=routes, pictures=pictures))
    await server.start_server(**options)
    async with TestClient(server) as client:
        yield Running(client, stores)
