"""What lives as long as the application, by the key it is found under."""

from aiohttp import web

from ndcass.concurrency import ByteLimiter
from ndcass.config import Settings
from ndcass.server.metrics import Metrics
from ndcass.server.routing import Router
from ndcass.store.base import Stores

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
# A protocol is no class that a key could be made for.
STORES: web.AppKey[Stores] = web.AppKey("stores")
# Voxels in flight, of all requests of this process.
MEMORY: web.AppKey[ByteLimiter] = web.AppKey("memory", ByteLimiter)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
ROUTER: web.AppKey[Router] = web.AppKey("router", Router)
