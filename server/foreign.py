"""Pictures of other servers, for overlays: only of those that the settings name.

The caller's key is never passed on. What another server sends is taken as data of a stranger:
bounded in size and time, a PNG or nothing, no redirects.
"""

import io
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from PIL import Image

from ndcass.concurrency import run_cpu
from ndcass.errors import NotFound
from ndcass.geometry import text_xyz
from ndcass.picture import Picture
from ndcass.server.volume_params import VolumeParams

# A viewer waits for the picture meanwhile.
TIMEOUT_S = 10.0
CHUNK_BYTES = 64 << 10


def base_url(server: str, allowed: Sequence[str]) -> str:
    """Where a server is found, by its name (host or host:port) in a URL.

    Raises
    ------
    NotFound
        If it is none of the allowed ones.
    """
    for url in allowed:
        if urlsplit(url).netloc.lower() == server.lower():
            return url.rstrip("/")
    raise NotFound(f"{server[:80]!r} is neither this server nor one that it may ask")


async def fetch_slice(
    url: str, token: str, channel: str, plane: str, params: VolumeParams, *, limit_bytes: int
) -> Picture:
    """A slice as another server draws it.

    Parameters
    ----------
    url : str
        The server, as `base_url` gives it.
    token, channel, plane : str
    params : VolumeParams
    limit_bytes : int
        The most that the picture may take, packed and unpacked.

    Raises
    ------
    NotFound
        If the server sends no such picture.
    """
    where = f"{url}/ocp/ca/{token}/{channel}/{plane}/{slice_path(plane, params)}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    body = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(where, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise NotFound(f"{urlsplit(url).netloc} answers {answer.status} for its layer")
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > limit_bytes:
                    raise NotFound(f"{urlsplit(url).netloc} sends more than {limit_bytes} bytes")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotFound(f"{urlsplit(url).netloc} does not send its layer") from error
    return await run_cpu(_decoded, bytes(body), limit_bytes)


def slice_path(plane: str, params: VolumeParams) -> str:
    """The arguments of a slice as a URL has them; nothing else of what the client sent."""
    pairs = dict(zip("xyz", text_xyz(params.box).split("/"), strict=True))
    cut = {"xy": "z", "xz": "y", "yz": "x"}[plane]
    pairs[cut] = pairs[cut].partition(",")[0]
    words = [str(params.level), *pairs.values()]
    if params.times is not None:
        words.append(str(params.times[0]))
    if params.neariso:
        words.append("neariso")
    if params.window is not None:
        words += ["window", ",".join(params.window)]
    if params.filter_ids is not None:
        words += ["filter", ",".join(map(str, params.filter_ids))]
    return "/".join(words) + "/"


def _decoded(body: bytes, limit_bytes: int) -> Picture:
    """The pixels of a PNG: grey, or RGBA of whatever else it has."""
    try:
        with Image.open(io.BytesIO(body), formats=["PNG"]) as image:
            width, height = image.size
            if 4 * width * height > limit_bytes:
                raise NotFound(
                    f"a layer of {width}x{height} pixels takes more than {limit_bytes} bytes"
                )
            return np.array(image if image.mode == "L" else image.convert("RGBA"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotFound("a layer is no PNG") from error
