"""Annotation objects through a gateway, for tests: the channel `anno` of a volume `v`."""

import json
from typing import Any

from tests.annotated import contents
from tests.server.running import Running

ANNO = "/nd/sd/v/anno"


async def make_annotated(app: Running) -> None:
    """A volume `v` (300 x 200 x 20, z from 1 on) with channels for every case."""
    await app.make_volume("v", zoffset=1, scalinglevels=2)
    channels: dict[str, dict[str, Any]] = {
        "anno": {"exceptions": 1},
        "plain": {},
        "wide": {"channel_datatype": "uint64"},
        "ro": {"readonly": 1},
    }
    for name, fields in channels.items():
        body = {"channel_name": name, "channel_type": "annotation"}
        body |= {"channel_datatype": "uint32", **fields}
        await app.make(f"dataset/v/project/v/channel/{name}/", body)


async def post(app: Running, path: str, body: bytes | dict[str, Any]) -> tuple[int, str]:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    answer = await app.request("POST", f"{ANNO}/{path}", user="ann", data=data)
    return answer.status, await answer.text()


async def made(app: Running, body: bytes | dict[str, Any], path: str = "") -> str:
    path = path or ("json/" if isinstance(body, dict) else "")
    status, text = await post(app, path, body)
    assert status == 200, text
    return text


async def read(app: Running, path: str) -> dict[str, Any]:
    answer = await app.get(f"{ANNO}/{path}")
    assert answer.status == 200, await answer.text()
    return contents(await answer.read())


async def fields(app: Running, object_id: int | str) -> dict[str, Any]:
    answer = await app.get(f"{ANNO}/{object_id}/json/")
    assert answer.status == 200
    found: dict[str, Any] = (await answer.json())[str(object_id)]
    return found


async def points(app: Running, object_id: int | str, level: int = 0) -> list[list[int]]:
    found = await read(app, f"{object_id}/voxels/{level}/")
    return sorted(found.get(f"{object_id}/VOXELS", []))
