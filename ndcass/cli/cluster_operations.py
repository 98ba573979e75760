"""``ndcass cluster``, the part that works on nodes which serve: restart, repair, grow, back up."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ndcass.cli.failure import WrongCall
from ndcass.cli.site import add_action, described, site_of, tell, telling_logs
from ndcass.cluster import maintenance, membership, operations
from ndcass.cluster.backup import backup, backup_together
from ndcass.cluster.restore import Existing, restore
from ndcass.cluster.site import Site


def add_parsers(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    restarting = _add(
        actions, "restart", "restart nodes one after the other, while the rest serves", _restart
    )
    _add_nodes(restarting)
    _add_force(restarting, "kill a node that cannot be drained")
    stopping = _add(actions, "stop", "drain a node and stop it", _stop)
    _add_node(stopping)
    _add_force(stopping, "also if another node is away, or this one does not answer")
    _add_node(_add(actions, "start", "start a node that was stopped or killed", _start))
    _add_chores(actions)
    _add_changes(actions)
    _add_copies(actions)


def _add_chores(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text, run in (
        ("flush", "write what nodes hold in memory to their disks", _flush),
        ("compact", "make few large files of many", _compact),
        ("cleanup", "drop what nodes keep of ranges that others took over", _cleanup),
    ):
        chore = _add(actions, name, text, run)
        _add_nodes(chore)
        _add_keyspace(chore)
    _add_keyspace(_add(actions, "repair", "bring all copies to the same state", _repair))


def _add_changes(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    adding = _add(
        actions, "add-node", "let a node that was added to the description take part", _add_one
    )
    _add_node(adding)
    adding.add_argument(
        "--no-cleanup",
        action="store_true",
        help="leave it to `cleanup` to drop from the others what the new node has taken over",
    )
    leaving = _add(actions, "decommission", "give what a node has to the others", _decommission)
    _add_node(leaving)
    leaving.add_argument("--wipe", action="store_true", help="then remove what is on its disks")
    replacing = _add(
        actions,
        "replace",
        "wipe a dead node and let it fetch from the others what it had",
        _replace,
    )
    _add_node(replacing)
    replacing.add_argument(
        "--no-repair",
        action="store_true",
        help="do not repair the others first: until the cluster is repaired, reads may then miss "
        "writes that the dead node and one other had acknowledged, and no third had got",
    )
    replacing.add_argument(
        "--repair-after", action="store_true", help="repair the whole cluster at the end"
    )


def _add_copies(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    saving = _add(
        actions,
        "backup",
        "copy keyspaces into a folder; those of two tiers together, or what is drained meanwhile "
        "may be in neither copy",
        _backup,
    )
    _add_keyspaces(saving, "all but Cassandra's own")
    saving.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="a folder that is new or empty"
    )
    restoring = _add(
        actions,
        "restore",
        "bring keyspaces back from a folder, while no gateway runs: what gateways remember of the "
        "store would be wrong, and what they write would be mixed with what comes back",
        _restore,
    )
    _add_keyspaces(restoring, "all of a backup of several")
    restoring.add_argument("--from", type=Path, required=True, metavar="DIR", dest="source")
    restoring.add_argument(
        "--gateways-stopped",
        action="store_true",
        help="say that every gateway (`ndcass serve`) of the cluster is stopped: without it "
        "nothing is done",
    )
    restoring.add_argument(
        "--no-repair",
        action="store_true",
        help="do not repair what came back: the nodes' copies are of moments that differ by "
        "seconds, so until `ndcass cluster repair` a read may miss what one of them has",
    )
    there = restoring.add_mutually_exclusive_group()
    there.add_argument(
        "--replace", action="store_true", help="take rows that are there away, on all nodes"
    )
    there.add_argument("--merge", action="store_true", help="let rows that are there stay")


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[[Site, argparse.Namespace], None],
) -> argparse.ArgumentParser:
    """A command on the nodes of this machine."""

    def whole(args: argparse.Namespace) -> int:
        with telling_logs():
            run(site_of(described(args)), args)
        return 0

    return add_action(actions, name, text, whole)


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="its name in the description")


def _add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="by default all")


def _add_keyspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keyspace", metavar="NAME", help="by default all")


def _add_keyspaces(parser: argparse.ArgumentParser, all_of_them: str) -> None:
    parser.add_argument("keyspaces", nargs="*", metavar="KEYSPACE")
    parser.add_argument("--all", action="store_true", help=all_of_them)


def _add_force(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--force", action="store_true", help=text)


def _restart(site: Site, args: argparse.Namespace) -> None:
    operations.rolling_restart(site, args.nodes, force=args.force)


def _stop(site: Site, args: argparse.Namespace) -> None:
    operations.stop(site, args.node, force=args.force)


def _start(site: Site, args: argparse.Namespace) -> None:
    operations.start(site, args.node)


def _flush(site: Site, args: argparse.Namespace) -> None:
    maintenance.flush(site, args.nodes, keyspace=args.keyspace)


def _compact(site: Site, args: argparse.Namespace) -> None:
    maintenance.compact(site, args.nodes, keyspace=args.keyspace)


def _cleanup(site: Site, args: argparse.Namespace) -> None:
    maintenance.cleanup(site, args.nodes, keyspace=args.keyspace)


def _repair(site: Site, args: argparse.Namespace) -> None:
    maintenance.repair(site, keyspace=args.keyspace)


def _add_one(site: Site, args: argparse.Namespace) -> None:
    membership.add(site, args.node, with_cleanup=not args.no_cleanup)


def _decommission(site: Site, args: argparse.Namespace) -> None:
    membership.decommission(site, args.node, wipe=args.wipe)


def _replace(site: Site, args: argparse.Namespace) -> None:
    membership.replace(
        site, args.node, repair_before=not args.no_repair, repair_after=args.repair_after
    )


def _backup(site: Site, args: argparse.Namespace) -> None:
    _check_keyspaces(args)
    if len(args.keyspaces) == 1:
        made = [backup(site, args.keyspaces[0], args.to)]
    else:
        made = backup_together(site, args.keyspaces, args.to)
    for one in made:
        tell(f"{one.keyspace}: {one.file_count} files, {one.size_bytes / 1e6:.1f} MB in {args.to}")


def _restore(site: Site, args: argparse.Namespace) -> None:
    _check_keyspaces(args)
    if not args.gateways_stopped:
        raise WrongCall(
            "restore changes what running gateways rely on: stop every `ndcass serve` of this "
            "cluster, then say --gateways-stopped"
        )
    existing = Existing.REFUSE
    if args.replace or args.merge:
        existing = Existing.REPLACE if args.replace else Existing.MERGE
    restored = restore(
        site, args.source, args.keyspaces, existing=existing, with_repair=not args.no_repair
    )
    for one in restored:
        tell(f"{one.keyspace}: {one.file_count} files of {one.made_at} are back")
    tell("gateways may be started again")


def _check_keyspaces(args: argparse.Namespace) -> None:
    if bool(args.keyspaces) == args.all:
        raise WrongCall("name keyspaces, or say --all")
