"""``ndcass cluster``: Cassandra nodes from a YAML description, on this machine or for others."""

import argparse
import os
from pathlib import Path

from ndcass.cli import cluster_operations, cluster_status
from ndcass.cli.arguments import add_json
from ndcass.cli.failure import WrongCall
from ndcass.cli.report import print_result
from ndcass.cli.site import (
    KEYSTORE_VARIABLE,
    add_action,
    described,
    secret,
    site_of,
    tell,
    telling_logs,
)
from ndcass.cluster import lifecycle
from ndcass.cluster.distribution import pinned_version
from ndcass.cluster.lifecycle import Action, Change
from ndcass.cluster.render import render
from ndcass.cluster.state import load_state


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("cluster", help="Cassandra nodes, as a YAML file describes them")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    plan = add_action(actions, "plan", "what `up` would change; nothing is touched", _plan)
    add_json(plan)
    add_action(actions, "up", "start what is described and wait until it is up and normal", _up)
    cluster_status.add_parser(actions)
    add_action(actions, "down", "stop the nodes; what they store stays", _down)
    destroy = add_action(actions, "destroy", "stop the nodes and remove what they store", _destroy)
    destroy.add_argument("--yes", action="store_true", help="do it; otherwise it is only told")
    rendering = add_action(actions, "render", "write the files of nodes on other machines", _render)
    rendering.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that is not there yet"
    )
    rendering.add_argument(
        "--joining",
        action="append",
        default=[],
        metavar="NODE",
        help="a node that joins a cluster with data; may be repeated",
    )
    rendering.add_argument(
        "--joined",
        action="append",
        default=[],
        metavar="NODE",
        help="a node that joined earlier, so was none of the first ones; may be repeated",
    )
    cluster_operations.add_parsers(actions)


def _plan(args: argparse.Namespace) -> int:
    cluster = described(args)
    site = site_of(cluster, fetch=False)
    changes = lifecycle.plan_changes(site, load_state(cluster))
    is_fetched = site.distribution.jars.is_dir()
    rows = [
        {
            "node": change.node,
            "action": change.action.value,
            "differences": list(change.differences),
        }
        for change in changes
    ]
    text = [] if is_fetched else [f"fetch Cassandra {pinned_version()} from Maven Central"]
    text += [line for change in changes for line in _lines_of(change)]
    print_result(args, {"fetch": not is_fetched, "nodes": rows}, "\n".join(text))
    return 0


def _lines_of(change: Change) -> list[str]:
    lines = [f"{change.node}: {change.action.value}"]
    if change.action in (Action.START, Action.RESTART):  # of a new one every line would be new
        lines += [f"    {line}" for text in change.differences for line in text.splitlines()]
    return lines


def _up(args: argparse.Namespace) -> int:
    cluster = described(args)
    with telling_logs():
        lifecycle.up(site_of(cluster))
    addresses = ", ".join(node.client_address for node in cluster.nodes)
    tell(f"cluster {cluster.name} takes CQL on {addresses}, port {cluster.ports.native}")
    return 0


def _down(args: argparse.Namespace) -> int:
    stopped = lifecycle.down(described(args), tell)
    if not stopped:
        tell("no node runs")
    return 0


def _destroy(args: argparse.Namespace) -> int:
    cluster = described(args)
    paths = [path for path in lifecycle.stored_in(cluster) if path.exists()]
    if not args.yes:
        for path in paths:
            tell(f"would remove {path}")
        raise WrongCall("destroy removes all that the cluster stores; with --yes it does so")
    lifecycle.destroy(cluster, tell)
    return 0


def _render(args: argparse.Namespace) -> int:
    cluster = described(args)
    password = secret(KEYSTORE_VARIABLE, os.environ)
    written = render(
        cluster,
        args.output,
        joining=args.joining,
        joined=args.joined,
        keystore_password=password,
    )
    for path in written:
        print(path)
    return 0
