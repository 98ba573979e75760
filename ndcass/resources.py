"""The resource API: datasets, projects, channels and tokens, made, read, listed, changed, deleted.

Who may do what stands here (control plane 2.5); what the fields may hold is the model's, that names
are unique and that what hangs on a thing goes with it is the catalogue's. A path is the names as a
URL has them, from the dataset down; every function checks that the chain of it holds.
"""

import contextlib
import math
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, PermissionDenied
from ndcass.geometry import MAX_GRID, level_of, levels_of
from ndcass.model import Channel, Dataset, Project, Resource, Token, User
from ndcass.store.base import Catalog, Stores

Body = Mapping[str, Any]  # whatever JSON holds

# What may not change once there is data: its addresses and sizes follow from it.
FIXED_GEOMETRY = (
    "ximagesize yimagesize zimagesize xvoxelres yvoxelres zvoxelres scalingoption scalinglevels"
).split()
# Whether a merge heeds exceptions is decided when it is written.
FIXED_TYPE = ("channel_type", "channel_datatype", "exceptions", "downsampling")
# Levels would be said to be there that were never built, or to be made from another one than they
# are; `setPropagate` changes the state of a channel with voxels.
FIXED_PYRAMID = ("propagate", "resolution")


@dataclass(frozen=True, slots=True)
class Chain:
    """A project and the dataset it is in, as a path names them."""

    dataset: Dataset
    project: Project


async def open_chain(catalog: Catalog, dataset: str, project: str) -> Chain:
    """The two things above a channel or a token; NotFound unless both exist and belong together."""
    found = Chain(await catalog.dataset(dataset), await catalog.project(project))
    if found.project.dataset != dataset:
        raise NotFound(f"dataset {dataset} has no project {project[:80]}")
    return found


# -- datasets


async def create_dataset(catalog: Catalog, name: str, body: Body, *, caller: User | None) -> None:
    """A new dataset of the caller's."""
    user = known(caller)
    dataset = Dataset.from_json(body, user=user.id)
    _check_name(dataset, name)
    _check_levels(dataset)
    try:
        await catalog.create_dataset(dataset)
    except AlreadyExists as error:
        raise await _taken("dataset", name, catalog.dataset(name), user, catalog) from error


async def read_dataset(catalog: Catalog, name: str, *, caller: User | None) -> Dataset:
    """A dataset that the caller may see."""
    dataset = await catalog.dataset(name)
    _check_visible(dataset.public, dataset.user, caller)
    return dataset


async def update_dataset(stores: Stores, name: str, body: Body, *, caller: User | None) -> Dataset:
    """A dataset with some fields changed; Conflict if its geometry would change under data."""
    dataset = await stores.catalog.dataset(name)
    _check_owner(caller, dataset.user)
    changed = dataset.changed(body)
    _check_levels(changed)
    is_other = _differ(dataset, changed, FIXED_GEOMETRY)
    if is_other:
        for project in await stores.catalog.projects(name):
            for channel in await stores.catalog.channels(project.name):
                await _check_empty(stores, channel, FIXED_GEOMETRY)
    # New ids, for a write may be under way that nobody sees yet: it must not end in these channels.
    await stores.catalog.update_dataset(changed, expected=dataset, new_channel_ids=is_other)
    return changed


async def delete_dataset(catalog: Catalog, name: str, *, caller: User | None) -> None:
    """Delete a dataset with all that is in it; the voxels go in the background."""
    known(caller)
    dataset = await catalog.dataset(name)
    _check_owner(caller, dataset.user)
    await catalog.delete_dataset(name)


async def list_datasets(catalog: Catalog, *, caller: User | None) -> list[str]:
    """Names of the datasets that are public or the caller's own; of all for a superuser."""
    return [d.name for d in await catalog.datasets() if _visible(d.public, d.user, caller)]


async def public_datasets(catalog: Catalog) -> list[str]:
    """Names of the public datasets."""
    return await list_datasets(catalog, caller=None)


# -- projects


async def create_project(
    catalog: Catalog, dataset_name: str, name: str, body: Body, *, caller: User | None
) -> None:
    """A new project of the caller's, in a dataset that is public or the caller's."""
    user = known(caller)
    with _parents_of(f"project {name[:80]}"):
        dataset = await catalog.dataset(dataset_name)
    _check_visible(dataset.public, dataset.user, user)
    project = Project.from_json(body, user=user.id, dataset=dataset_name)
    _check_name(project, name)
    try:
        await catalog.create_project(project)
    except AlreadyExists as error:
        raise await _taken("project", name, catalog.project(name), user, catalog) from error


async def read_project(
    catalog: Catalog, dataset: str, name: str, *, caller: User | None
) -> Project:
    """A project that the caller may see."""
    project = (await open_chain(catalog, dataset, name)).project
    _check_visible(project.public, project.user, caller)
    return project


async def update_project(
    catalog: Catalog, dataset: str, name: str, body: Body, *, caller: User | None
) -> Project:
    """A project with some fields changed."""
    project = (await open_chain(catalog, dataset, name)).project
    _check_owner(caller, project.user)
    changed = project.changed(body)
    await catalog.update_project(changed, expected=project)
    return changed


async def delete_project(catalog: Catalog, dataset: str, name: str, *, caller: User | None) -> None:
    """Delete a project with its tokens and channels; the voxels go in the background."""
    known(caller)
    project = (await open_chain(catalog, dataset, name)).project
    _check_owner(caller, project.user)
    await catalog.delete_project(name)


async def list_projects(catalog: Catalog, dataset: str, *, caller: User | None) -> list[str]:
    """Names of the dataset's projects that are public or the caller's; of all for a superuser."""
    await catalog.dataset(dataset)
    return [p.name for p in await catalog.projects(dataset) if _visible(p.public, p.user, caller)]


# -- channels


async def create_channel(
    catalog: Catalog, dataset: str, project: str, name: str, body: Body, *, caller: User | None
) -> Channel:
    """A new channel of a project that is the caller's."""
    user = known(caller)
    with _parents_of(f"channel {name[:80]}"):
        chain = await open_chain(catalog, dataset, project)
    _check_owner(user, chain.project.user)
    channel = Channel.from_json(body, id=0, project=project)
    _check_name(channel, name)
    if channel.resolution > chain.dataset.scalinglevels:
        raise InvalidRequest(
            f"resolution must be a level of the dataset, 0 to {chain.dataset.scalinglevels}"
        )
    return await catalog.create_channel(channel)


async def read_channel(
    catalog: Catalog, dataset: str, project: str, name: str, *, caller: User | None
) -> Channel:
    """A channel of a project that the caller may see."""
    await read_project(catalog, dataset, project, caller=caller)
    return await catalog.channel(project, name)


async def update_channel(
    stores: Stores, dataset: str, project: str, name: str, body: Body, *, caller: User | None
) -> Channel:
    """A channel with some fields changed; Conflict if its type would change under data."""
    chain = await open_chain(stores.catalog, dataset, project)
    channel = await stores.catalog.channel(project, name)
    _check_owner(caller, chain.project.user)
    changed = channel.changed(body)
    if changed.resolution > chain.dataset.scalinglevels:
        raise InvalidRequest(
            f"resolution must be a level of the dataset, 0 to {chain.dataset.scalinglevels}"
        )
    is_other = _differ(channel, changed, FIXED_TYPE)
    if is_other:
        await _check_empty(stores, channel, FIXED_TYPE)
    # A build from another base would take what is stored now for levels to be replaced.
    if _differ(channel, changed, FIXED_PYRAMID):
        await _check_empty(stores, channel, FIXED_PYRAMID)
    # As for a dataset: a write that is under way ends under the old id.
    return await stores.catalog.update_channel(changed, expected=channel, new_id=is_other)


async def delete_channel(
    catalog: Catalog, dataset: str, project: str, name: str, *, caller: User | None
) -> None:
    """Delete a channel; its voxels go in the background."""
    known(caller)
    chain = await open_chain(catalog, dataset, project)
    _check_owner(caller, chain.project.user)
    await catalog.delete_channel(project, name)


async def list_channels(
    catalog: Catalog, dataset: str, project: str, *, caller: User | None
) -> list[str]:
    """Names of the channels of a project that the caller may see."""
    await read_project(catalog, dataset, project, caller=caller)
    return [channel.name for channel in await catalog.channels(project)]


# -- tokens


async def create_token(
    catalog: Catalog, dataset: str, project: str, name: str, body: Body, *, caller: User | None
) -> None:
    """A new token of the caller's for a project that is the caller's."""
    user = known(caller)
    with _parents_of(f"token {name[:80]}"):
        chain = await open_chain(catalog, dataset, project)
    _check_owner(user, chain.project.user)
    token = Token.from_json(body, user=user.id, project=project)
    _check_name(token, name)
    try:
        await catalog.create_token(token)
    except AlreadyExists as error:
        raise await _taken("token", name, catalog.token(name), user, catalog) from error


async def read_token(
    catalog: Catalog, dataset: str, project: str, name: str, *, caller: User | None
) -> Token:
    """A token that the caller may see."""
    token = await _token_of(catalog, dataset, project, name)
    _check_visible(token.public, token.user, caller)
    return token


async def update_token(
    catalog: Catalog, dataset: str, project: str, name: str, body: Body, *, caller: User | None
) -> Token:
    """A token with some fields changed."""
    chain = await open_chain(catalog, dataset, project)
    token = await _token_of(catalog, dataset, project, name)
    _check_owner(caller, token.user, chain.project.user)
    changed = token.changed(body)
    await catalog.update_token(changed, expected=token)
    return changed


async def delete_token(
    catalog: Catalog, dataset: str, project: str, name: str, *, caller: User | None
) -> None:
    """Delete a token; what it led to stays."""
    known(caller)
    chain = await open_chain(catalog, dataset, project)
    token = await _token_of(catalog, dataset, project, name)
    _check_owner(caller, token.user, chain.project.user)
    await catalog.delete_token(name)


async def list_tokens(
    catalog: Catalog, dataset: str, project: str, *, caller: User | None
) -> list[str]:
    """Names of the tokens of a project that the caller may see, and use."""
    owner = (await read_project(catalog, dataset, project, caller=caller)).user
    tokens = await catalog.tokens(project)
    mine = caller is not None and caller.id == owner
    return [t.name for t in tokens if mine or _visible(t.public, t.user, caller)]


async def public_tokens(catalog: Catalog) -> list[str]:
    """Names of the public tokens."""
    return [token.name for token in await catalog.tokens() if token.public]


async def public_projects(catalog: Catalog, dataset: str) -> list[str]:
    """Names of the public projects of a dataset."""
    return await list_projects(catalog, dataset, caller=None)


async def _token_of(catalog: Catalog, dataset: str, project: str, name: str) -> Token:
    await open_chain(catalog, dataset, project)
    token = await catalog.token(name)
    if token.project != project:
        raise NotFound(f"project {project} has no token {name[:80]}")
    return token


# -- rules


def known(caller: User | None) -> User:
    """The caller, where an anonymous one may do nothing at all."""
    if caller is None:
        raise PermissionDenied("this needs an API key: Authorization: Token KEY")
    return caller


def _visible(public: int, owner: int, caller: User | None) -> bool:
    return bool(public) or (caller is not None and (caller.superuser or caller.id == owner))


def _check_visible(public: int, owner: int, caller: User | None) -> None:
    if not _visible(public, owner, caller):
        raise PermissionDenied("this is private and belongs to somebody else")


def _check_owner(caller: User | None, *owners: int) -> None:
    user = known(caller)
    if not user.superuser and user.id not in owners:
        raise PermissionDenied("this belongs to somebody else")


@contextlib.contextmanager
def _parents_of(what: str) -> Iterator[None]:
    """To make something below what is missing is a bad request (control plane 2.1)."""
    try:
        yield
    except NotFound as error:
        raise InvalidRequest(f"{what} cannot be made: {error}") from error


def _check_name(resource: Resource, name: str) -> None:
    if resource.name != name:
        raise InvalidRequest(
            f"{resource.NAME_FIELD} in the body must be the name in the URL, {name[:80]}"
        )


def _check_levels(dataset: Dataset) -> None:
    """Refuse a size that no grid holds, and voxel sizes that are no numbers at some level."""
    try:
        sizes = [
            size
            for level in levels_of(dataset.geometry)
            for size in (*level.voxelres_zyx, *level.neariso_voxelres_zyx)
        ]
    except ArithmeticError:
        sizes = [math.inf]
    if not all(map(math.isfinite, sizes)):
        raise InvalidRequest("the voxel sizes are too large, or too different from each other")
    geometry = dataset.geometry
    cuboid_zyx = level_of(geometry, 0).cuboid_zyx  # no coarser level has more of them
    for axis, size, cuboid in zip("zyx", geometry.size_zyx, cuboid_zyx, strict=True):
        if size > MAX_GRID * cuboid:
            raise InvalidRequest(
                f"{axis}imagesize is {size}, at most {MAX_GRID * cuboid} voxels are possible"
            )


def _differ(old: Resource, new: Resource, fields: Sequence[str]) -> bool:
    return any(getattr(old, field) != getattr(new, field) for field in fields)


async def _check_empty(stores: Stores, channel: Channel, fields: Sequence[str]) -> None:
    if await _holds_data(stores, channel):
        raise Conflict(
            f"channel {channel.name} holds data, so none of {', '.join(fields)} can change"
        )


async def _holds_data(stores: Stores, channel: Channel) -> bool:
    async for page in stores.cuboids.scan(channel.id):
        if page:
            return True
    return bool(await stores.objects.query(channel.id, [], limit=1))


async def _taken(
    kind: str, name: str, holder: Awaitable[Dataset | Project | Token], caller: User, users: Catalog
) -> AlreadyExists:
    """Say that a name is taken, and by whom if the caller may know."""
    whose = ""
    with contextlib.suppress(NotFound):
        found = await holder
        if _visible(found.public, found.user, caller):
            whose = f" and belongs to {(await users.user_of_id(found.user)).name}"
    return AlreadyExists(f"{kind} {name} exists{whose}")


# -- the overview

# A page with more is no overview.
MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class PublicProject:
    """A public project as a visitor finds it; only a public token gives access to its voxels."""

    dataset: Dataset
    project: Project
    channels: Sequence[Channel]
    token: str | None


async def public_views(catalog: Catalog) -> tuple[list[PublicProject], int]:
    """The public projects of public datasets, at most `MOST_SHOWN`; and how many are left out."""
    found = [
        (dataset, project)
        for dataset in await catalog.datasets()
        if dataset.public
        for project in await catalog.projects(dataset.name)
        if project.public
    ]
    shown = []
    for dataset, project in found[:MOST_SHOWN]:
        tokens = [token.name for token in await catalog.tokens(project.name) if token.public]
        with contextlib.suppress(NotFound):  # it may be deleted meanwhile
            channels = await catalog.channels(project.name)
            shown.append(PublicProject(dataset, project, channels, tokens[0] if tokens else None))
    return shown, len(found[MOST_SHOWN:])
