"""The resource API: datasets, projects, channels and tokens as JSON."""

import json
from collections.abc import Sequence

from aiohttp import web

from ndcass import resources
from ndcass.model import Resource
from ndcass.server.access import caller
from ndcass.server.app_keys import STORES
from ndcass.server.match import Match
from ndcass.server.params import json_object
from ndcass.store.base import Catalog


def _catalog(request: web.Request) -> Catalog:
    return request.app[STORES].catalog


# -- datasets


async def list_datasets(request: web.Request, match: Match) -> web.Response:
    """GET the names of the datasets that the caller may see."""
    names = await resources.list_datasets(_catalog(request), caller=await caller(request))
    return _names(names)


async def public_datasets(request: web.Request, match: Match) -> web.Response:
    """GET the names of the public datasets."""
    return _names(await resources.public_datasets(_catalog(request)))


async def create_dataset(request: web.Request, match: Match) -> web.Response:
    """POST a new dataset."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    name = match.names["dataset"]
    await resources.create_dataset(_catalog(request), name, body, caller=user)
    return _created()


async def read_dataset(request: web.Request, match: Match) -> web.Response:
    """GET a dataset."""
    user = await caller(request)
    return _found(
        await resources.read_dataset(_catalog(request), match.names["dataset"], caller=user)
    )


async def update_dataset(request: web.Request, match: Match) -> web.Response:
    """PUT new values of some fields."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    stores = request.app[STORES]
    name = match.names["dataset"]
    return _found(await resources.update_dataset(stores, name, body, caller=user))


async def delete_dataset(request: web.Request, match: Match) -> web.Response:
    """DELETE a dataset and all that is in it."""
    user = await caller(request)
    await resources.delete_dataset(_catalog(request), match.names["dataset"], caller=user)
    return _deleted()


# -- projects


async def list_projects(request: web.Request, match: Match) -> web.Response:
    """GET the names of the dataset's projects that the caller may see."""
    user = await caller(request)
    dataset = match.names["dataset"]
    return _names(await resources.list_projects(_catalog(request), dataset, caller=user))


async def public_projects(request: web.Request, match: Match) -> web.Response:
    """GET the names of the dataset's public projects."""
    return _names(await resources.public_projects(_catalog(request), match.names["dataset"]))


async def create_project(request: web.Request, match: Match) -> web.Response:
    """POST a new project."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    await resources.create_project(_catalog(request), *_project(match), body, caller=user)
    return _created()


async def read_project(request: web.Request, match: Match) -> web.Response:
    """GET a project."""
    user = await caller(request)
    return _found(await resources.read_project(_catalog(request), *_project(match), caller=user))


async def update_project(request: web.Request, match: Match) -> web.Response:
    """PUT new values of some fields."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    path = _project(match)
    return _found(await resources.update_project(_catalog(request), *path, body, caller=user))


async def delete_project(request: web.Request, match: Match) -> web.Response:
    """DELETE a project with its tokens and channels."""
    user = await caller(request)
    await resources.delete_project(_catalog(request), *_project(match), caller=user)
    return _deleted()


# -- channels


async def list_channels(request: web.Request, match: Match) -> web.Response:
    """GET the names of a project's channels."""
    user = await caller(request)
    return _names(await resources.list_channels(_catalog(request), *_project(match), caller=user))


async def create_channel(request: web.Request, match: Match) -> web.Response:
    """POST a new channel."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    await resources.create_channel(_catalog(request), *_channel(match), body, caller=user)
    return _created()


async def read_channel(request: web.Request, match: Match) -> web.Response:
    """GET a channel."""
    user = await caller(request)
    return _found(await resources.read_channel(_catalog(request), *_channel(match), caller=user))


async def update_channel(request: web.Request, match: Match) -> web.Response:
    """PUT new values of some fields."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    path = _channel(match)
    return _found(await resources.update_channel(request.app[STORES], *path, body, caller=user))


async def delete_channel(request: web.Request, match: Match) -> web.Response:
    """DELETE a channel and its voxels."""
    user = await caller(request)
    await resources.delete_channel(_catalog(request), *_channel(match), caller=user)
    return _deleted()


# -- tokens


async def list_tokens(request: web.Request, match: Match) -> web.Response:
    """GET the names of a project's tokens that the caller may see."""
    user = await caller(request)
    return _names(await resources.list_tokens(_catalog(request), *_project(match), caller=user))


async def public_tokens(request: web.Request, match: Match) -> web.Response:
    """GET the names of all public tokens."""
    return _names(await resources.public_tokens(_catalog(request)))


async def create_token(request: web.Request, match: Match) -> web.Response:
    """POST a new token."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    await resources.create_token(_catalog(request), *_token(match), body, caller=user)
    return _created()


async def read_token(request: web.Request, match: Match) -> web.Response:
    """GET a token."""
    user = await caller(request)
    return _found(await resources.read_token(_catalog(request), *_token(match), caller=user))


async def update_token(request: web.Request, match: Match) -> web.Response:
    """PUT new values of some fields."""
    user = resources.known(await caller(request))
    body = await json_object(request)
    path = _token(match)
    return _found(await resources.update_token(_catalog(request), *path, body, caller=user))


async def delete_token(request: web.Request, match: Match) -> web.Response:
    """DELETE a token; what it led to stays."""
    user = await caller(request)
    await resources.delete_token(_catalog(request), *_token(match), caller=user)
    return _deleted()


# -- paths and answers


def _project(match: Match) -> tuple[str, str]:
    return match.names["dataset"], match.names["project"]


def _channel(match: Match) -> tuple[str, str, str]:
    return (*_project(match), match.names["channel_name"])


def _token(match: Match) -> tuple[str, str, str]:
    return (*_project(match), match.names["token_name"])


def _created() -> web.Response:
    # Empty: an old client takes any body for a failure.
    return web.Response(status=201)


def _deleted() -> web.Response:
    return web.Response(status=204)


def _found(resource: Resource) -> web.Response:
    return _json(resource.to_json())


def _names(names: Sequence[str]) -> web.Response:
    return _json(list(names))


def _json(content: object) -> web.Response:
    return web.Response(text=json.dumps(content), content_type="application/json")
