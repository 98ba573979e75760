"""``ndcass nodetool``: Cassandra's own tool, at a node of a described cluster."""

import argparse
import os
from pathlib import Path

import ndcass.conf
from ndcass.cli.failure import CommandFailed, WrongCall
from ndcass.cli.site import add_settings, described, site_of
from ndcass.cluster.nodetool import Tool, local_tool, machine_tool, pass_through
from ndcass.cluster.spec import Cluster

CLUSTER_VARIABLE = "NDCASS_CLUSTER"
SHIPPED = Path(ndcass.conf.__file__).parent / "cluster-local.yaml"


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = groups.add_parser(
        "nodetool",
        help="Cassandra's nodetool at a node of a cluster",
        description="Run Cassandra's nodetool at a node; its exit code is passed on.",
    )
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        dest="conf",
        help=f"the description of the cluster (default: {CLUSTER_VARIABLE}, else the shipped "
        f"{SHIPPED.name})",
    )
    add_settings(parser)
    parser.add_argument("node", metavar="NODE", help="its name in the description")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="as nodetool takes it; or help"
    )
    parser.set_defaults(run=_nodetool)


def _nodetool(args: argparse.Namespace) -> int:
    if not args.command:
        raise WrongCall(f"what shall nodetool do at {args.node}? `help` lists its commands")
    if args.conf is None:
        args.conf = Path(os.environ.get(CLUSTER_VARIABLE) or SHIPPED)
    return pass_through(_tool(described(args), args.node), args.command, environ=os.environ)


def _tool(cluster: Cluster, name: str) -> Tool:
    node = cluster.node(name)
    if not cluster.is_local:
        return machine_tool(cluster, node)
    tool = local_tool(site_of(cluster), node)
    if not tool.logging.is_file():
        raise CommandFailed(f"node {name} was never started here: `ndcass cluster up` does that")
    return tool
