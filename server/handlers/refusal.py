"""What is known and refused."""

from aiohttp import web

from ndcass.errors import InvalidOption, NotFound
from ndcass.server.match import Match


async def refuse_post(request: web.Request, match: Match) -> web.StreamResponse:
    """POST to a service that only reads: 400, as clients of the original know it."""
    raise InvalidOption(
        f"nothing can be posted to {match.service}; post to npz, raw, blosc or hdf5"
    )


async def refuse_blaze(request: web.Request, match: Match) -> web.StreamResponse:
    """GET of blaze, which only ever took: 400, as clients of the original know it."""
    raise InvalidOption("nothing can be read from blaze; read npz, raw, zip, blosc or hdf5")


async def refuse_unnamed(request: web.Request, match: Match) -> web.StreamResponse:
    """GET of what only takes objects: 404, as a word that names no service always was."""
    raise NotFound("this path names no object and no service; /openapi.json lists what can be read")
