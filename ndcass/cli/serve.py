"""``ndcass serve``: the gateway over a store, ready for its first visitor."""

import argparse
import asyncio
import os

from ndcass.cli import demo
from ndcass.cli.arguments import at_least
from ndcass.cli.failure import CommandFailed
from ndcass.cli.store import add_store
from ndcass.config import Settings, load
from ndcass.errors import NotFound, StoreError
from ndcass.keys import hash_key, new_key
from ndcass.store.base import Catalog
from ndcass.store.engine import open_stores

ADMIN = "admin"


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = groups.add_parser(
        "serve",
        help="run the gateway",
        description="Run the gateway until it is told to stop. The first start on an empty folder "
        "makes the user admin and prints the API key once; NDCASS_ADMIN_TOKEN sets it instead.",
    )
    add_store(parser)
    parser.add_argument("--host", metavar="H", help="where to listen (default: 127.0.0.1)")
    parser.add_argument("--port", type=at_least(0), metavar="P", help="default: 8000")
    parser.add_argument(
        "--workers", type=at_least(0), metavar="N", help="processes (default: one a core)"
    )
    parser.add_argument(
        "--demo", action="store_true", help="put a small made-up volume into an empty store"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    overrides = {
        "store.folder": args.data,
        "server.host": args.host,
        "server.port": args.port,
        "server.workers": args.workers,
    }
    settings = load(args.conf, os.environ, overrides=overrides)
    asyncio.run(prepare(settings, demo_wanted=args.demo))
    # The gateway's libraries take longer to load than most of the other commands to run.
    from ndcass.server.app import serve

    serve(settings)
    return 0


async def prepare(settings: Settings, *, demo_wanted: bool) -> None:
    """Make what the first start makes, before any worker runs; print what the user needs to know.

    Raises
    ------
    CommandFailed
        If no store can be opened, or the admin's API key is somebody else's.
    """
    try:
        stores = await open_stores(settings)
    except StoreError as error:
        embedded = settings.store.engine == "embedded"
        where = f"in {settings.store.folder}" if embedded else "on the cluster"
        raise CommandFailed(f"no store can be opened {where}: {error}") from error
    try:
        key = await ensure_admin(stores.catalog, settings.admin_token)
        if key is not None:
            print(f"API key of {ADMIN} (not shown again): {key}", flush=True)
        if demo_wanted:
            await demo.ensure_demo(stores)
            for line in await demo.what_to_open(stores, settings.server):
                print(line, flush=True)
    finally:
        await stores.close()


async def ensure_admin(catalog: Catalog, wanted: str | None) -> str | None:
    """Make the user admin where it is missing.

    Parameters
    ----------
    catalog : Catalog
    wanted : str or None
        The API key that the admin is to have. None: on a store without users one is made up.

    Returns
    -------
    str or None
        The key that was made up.

    Raises
    ------
    CommandFailed
        If `wanted` is the key of another user.
    """
    if wanted is None:
        if await catalog.users():
            return None
        made = new_key()
        admin = await catalog.add_user(ADMIN, superuser=True)
        await catalog.add_key(admin.id, hash_key(made))
        return made
    owner = await catalog.user_of_key(hash_key(wanted))
    if owner is not None and owner.name == ADMIN:
        return None
    if owner is not None:
        raise CommandFailed("NDCASS_ADMIN_TOKEN is the API key of another user")
    try:
        admin = await catalog.user(ADMIN)
    except NotFound:
        admin = await catalog.add_user(ADMIN, superuser=True)
    await catalog.revoke_keys(admin.id)
    await catalog.add_key(admin.id, hash_key(wanted))
    return None
