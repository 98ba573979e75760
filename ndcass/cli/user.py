"""``ndcass user``: who has an API key. Works on the store itself, also while a server runs."""

import argparse
import asyncio
import re

from ndcass.cli.arguments import add_json
from ndcass.cli.report import print_result
from ndcass.cli.store import add_store, existing_store, settings_of
from ndcass.keys import hash_key, new_key
from ndcass.model import User
from ndcass.store.base import Catalog

_NAME = re.compile(r"[A-Za-z0-9_]{1,150}")


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("user", help="users and their API keys")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="a new user; the API key is printed once")
    add.add_argument("name", type=_new_name, metavar="NAME")
    add.add_argument("--superuser", action="store_true", help="may do everything")
    add.set_defaults(run=_add)
    key = actions.add_parser("key", help="a new API key in the place of the former one")
    key.add_argument("name", metavar="NAME")
    key.set_defaults(run=_key)
    revoke = actions.add_parser("revoke", help="make the API key of a user worthless")
    revoke.add_argument("name", metavar="NAME")
    revoke.set_defaults(run=_revoke)
    listing = actions.add_parser("list", help="all users")
    listing.set_defaults(run=_list)
    for parser in (add, key, revoke, listing):
        add_store(parser)
        add_json(parser)


def _new_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "a name has 1 to 150 letters, digits and underscores, all of them ASCII"
        )
    return text


def _add(args: argparse.Namespace) -> int:
    async def add() -> tuple[User, str]:
        async with existing_store(settings_of(args)) as stores:
            user = await stores.catalog.add_user(args.name, superuser=args.superuser)
            return user, await _give_key(stores.catalog, user)

    user, key = asyncio.run(add())
    _print_key(args, user, key)
    return 0


def _key(args: argparse.Namespace) -> int:
    async def change() -> tuple[User, str]:
        async with existing_store(settings_of(args)) as stores:
            user = await stores.catalog.user(args.name)
            await stores.catalog.revoke_keys(user.id)
            return user, await _give_key(stores.catalog, user)

    user, key = asyncio.run(change())
    _print_key(args, user, key)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    async def revoke() -> int:
        async with existing_store(settings_of(args)) as stores:
            user = await stores.catalog.user(args.name)
            return await stores.catalog.revoke_keys(user.id)

    count = asyncio.run(revoke())
    print_result(args, {"user": args.name, "revoked": count}, f"{count} API keys revoked")
    return 0


def _list(args: argparse.Namespace) -> int:
    async def users() -> list[User]:
        async with existing_store(settings_of(args)) as stores:
            return list(await stores.catalog.users())

    found = asyncio.run(users())
    rows = [{"id": user.id, "user": user.name, "superuser": user.superuser} for user in found]
    lines = [f"{user.id}\t{user.name}{'  superuser' * user.superuser}" for user in found]
    print_result(args, {"users": rows}, "\n".join(lines) or "no users")
    return 0


async def _give_key(catalog: Catalog, user: User) -> str:
    key = new_key()
    await catalog.add_key(user.id, hash_key(key))
    return key


def _print_key(args: argparse.Namespace, user: User, key: str) -> None:
    result = {"id": user.id, "user": user.name, "superuser": user.superuser, "key": key}
    print_result(args, result, f"API key of {user.name} (not shown again): {key}")
