"""A volume of channels of every kind with known voxels, and reading pictures of it."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import ClientResponse
from PIL import Image

from tests.server.running import Running

Voxels = npt.NDArray[Any]  # whatever type a channel has

# x, y, z of the dataset at level 0. One voxel is 4 x 4 x 8, so that a slice is two rows high in xz.
SIZE = (700, 620, 40)
OFFSET = (3, 5, 2)
# z, y, x of the posted box, in coordinates of the dataset.
CORNER = (4, 100, 450)
SHAPE = (20, 90, 130)

CHANNELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "u8": ("image", "uint8", {"default": True}),
    "u8w": ("image", "uint8", {"startwindow": 50, "endwindow": 250}),
    "u16": ("image", "uint16", {"startwindow": 1000, "endwindow": 50000}),
    "i16": ("image", "int16", {"startwindow": -20000, "endwindow": 20000}),
    "f32": ("image", "float32", {"endwindow": 1}),
    "rgba": ("image", "uint32", {}),
    "lab": ("annotation", "uint32", {}),
    "big": ("annotation", "uint64", {}),
    "series": ("timeseries", "uint8", {"starttime": 3, "endtime": 9}),
}


def voxels_of(name: str) -> Voxels:
    """The posted box of a channel, order z, y, x."""
    rng = np.random.default_rng(list(CHANNELS).index(name))
    _, datatype, _ = CHANNELS[name]
    dtype = np.dtype(datatype).newbyteorder("<")
    if dtype.kind == "f":
        return rng.random(SHAPE, dtype=np.float32)
    most = 500 if name in ("lab", "big") else np.iinfo(dtype).max
    return rng.integers(1, most, SHAPE).astype(dtype)


async def make_pictured(app: Running, name: str = "v", *, public: int = 1) -> None:
    """Dataset, project and token of one name with all of `CHANNELS`, filled."""
    sizes = {f"{axis}imagesize": size for axis, size in zip("xyz", SIZE, strict=True)}
    offsets = {f"{axis}offset": offset for axis, offset in zip("xyz", OFFSET, strict=True)}
    voxel = {"xvoxelres": 4.0, "yvoxelres": 4.0, "zvoxelres": 8.0, "scalinglevels": 1}
    body = {"dataset_name": name, "public": public, **sizes, **offsets, **voxel}
    await app.make(f"dataset/{name}/", body)
    project = f"dataset/{name}/project/{name}/"
    await app.make(project, {"project_name": name, "public": public})
    await app.make(f"{project}token/{name}/", {"token_name": name, "public": public})
    for channel, (kind, datatype, more) in CHANNELS.items():
        fields = {"channel_name": channel, "channel_type": kind, "channel_datatype": datatype}
        await app.make(f"{project}channel/{channel}/", {**fields, **more})
        await post(app, f"{name}/{channel}", voxels_of(channel))


async def post(
    app: Running,
    channel: str,
    voxels: Voxels,
    corner: tuple[int, int, int] = CORNER,
    *,
    t: int | None = None,
    query: str = "",
) -> None:
    """Write a box; `channel` is TOKEN/CHANNEL."""
    pairs = [f"{a},{a + n}" for a, n in zip(corner, voxels.shape, strict=True)]
    time = "" if t is None else f"{t},{t + 1}/"
    answer = await app.request(
        "POST",
        f"/nd/sd/{channel}/raw/0/{'/'.join(reversed(pairs))}/{time}{query}",
        user="admin",
        data=io.BytesIO(voxels.tobytes()),
        headers={"X-Volume-Dtype": voxels.dtype.str},
    )
    assert answer.status == 200, await answer.text()


async def picture(app: Running, path: str, *, user: str | None = None) -> Voxels:
    """The pixels of an answer, as Pillow reads them."""
    answer = await app.get(path, user=user)
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "image/png"
    return await pixels(answer)


async def pixels(answer: ClientResponse) -> Voxels:
    with Image.open(io.BytesIO(await answer.read())) as image:
        assert image.mode in ("L", "RGBA")
        return np.asarray(image)


def inside(z: slice | int, y: slice | int, x: slice | int, name: str) -> Voxels:
    """Voxels of the posted box by coordinates of the dataset."""
    index = tuple(
        slice(part.start - first, part.stop - first) if isinstance(part, slice) else part - first
        for part, first in zip((z, y, x), CORNER, strict=True)
    )
    found: Voxels = voxels_of(name)[index]
    return found
