"""What lives as long as the application, by the key it is found under."""

import asyncio

from aiohttp import web

from ndcass.concurrency import ByteLimiter
from ndcass.config import Settings
from ndcass.server.accounts import Accounts
from ndcass.server.metrics import Metrics
from ndcass.server.progress import Deadlines
from ndcass.server.routing import Router
from ndcass.server.traffic import Traffic
from ndcass.store.base import Stores
from ndcass.store.picture_cache import PictureCache

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
# A protocol is no class that a key could be made for.
STORES: web.AppKey[Stores] = web.AppKey("stores")
# Voxels in flight, of all requests of this process.
MEMORY: web.AppKey[ByteLimiter] = web.AppKey("memory", ByteLimiter)
# Pictures that were drawn before; None where none are kept.
PICTURES: web.AppKey[PictureCache | None] = web.AppKey("pictures")
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
DEADLINES: web.AppKey[Deadlines] = web.AppKey("deadlines", Deadlines)
ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts", Accounts)
TRAFFIC: web.AppKey[Traffic] = web.AppKey("traffic", Traffic)
ROUTER: web.AppKey[Router] = web.AppKey("router", Router)
# Set when no more requests are wanted.
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)
