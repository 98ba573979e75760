"""The pyramids of channels: their state, starting and giving them up, what of them is old."""

import json
import re

from aiohttp import web

from ndcass.errors import InvalidRequest
from ndcass.model import Channel, TokenView
from ndcass.propagation import geometry_of, level_states, set_propagation, trouble_of
from ndcass.server.access import open_token
from ndcass.server.app_keys import STORES
from ndcass.server.cutout import channel_of
from ndcass.server.match import Match

_VALUES = re.compile(r"[0-9]{1,3}(,[0-9]{1,3})*\Z", re.ASCII)


async def read_propagate(request: web.Request, match: Match) -> web.Response:
    """GET the states of some channels, joined by commas."""
    view = await open_token(request, match.token, write=False)
    states = ",".join(str(channel.propagate) for channel in _channels(view, match))
    return web.Response(text=states, content_type="text/html")


async def set_propagate(request: web.Request, match: Match) -> web.Response:
    """Start building some channels, or give their levels up; old clients GET what changes."""
    view = await open_token(request, match.token, write=True)
    channels, values = _channels(view, match), match.names["values"]
    if not _VALUES.match(values):
        raise InvalidRequest(f"propagate can be set to 0 and 1, not to {values[:40]}")
    numbers = [int(value) for value in values.split(",")]
    await set_propagation(request.app[STORES], channels, numbers)
    return web.Response(body=b"", content_type="text/html")


async def read_freshness(request: web.Request, match: Match) -> web.Response:
    """GET the state of a channel's pyramid, level by level."""
    view = await open_token(request, match.token, write=False)
    channel = channel_of(view, match.names["channel"])
    stores = request.app[STORES]
    levels = await level_states(stores, channel, await geometry_of(stores, channel))
    document = {
        "channel": channel.channel_name,
        "propagate": channel.propagate,
        "base": channel.resolution,
        "downsampling": channel.downsampling,
        "levels": [
            {
                "level": state.level,
                "neariso": state.neariso,
                "state": state.state,
                "stale_cuboids": state.stale_cuboids,
            }
            for state in levels
        ],
        "error": await trouble_of(stores, channel),
    }
    return web.Response(text=json.dumps(document), content_type="application/json")


def _channels(view: TokenView, match: Match) -> list[Channel]:
    return [channel_of(view, name) for name in match.channels or ("default",)]
