"""The cluster that a command works on: the file that describes it, its software and its secrets."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ndcass.cli.failure import CommandFailed
from ndcass.cluster import lifecycle
from ndcass.cluster.access import PASSWORD_VARIABLE
from ndcass.cluster.distribution import find_distribution, locate_distribution
from ndcass.cluster.loader import load_cluster
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster
from ndcass.errors import ClusterError

KEYSTORE_VARIABLE = "NDCASS_KEYSTORE_PASSWORD"


def add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, run: Any
) -> argparse.ArgumentParser:
    """A command on a described cluster; `Any` because argparse takes whatever it shall run."""
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("conf", type=Path, metavar="FILE", help="the description of the cluster")
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """``--set``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        dest="settings",
        help="a setting that wins over the file, as ports.native=9142; may be repeated",
    )


def setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` with a value as YAML has it, which `Any` stands for."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no value") from error


def described(args: argparse.Namespace) -> Cluster:
    """The cluster that a command is about."""
    return load_cluster(args.conf, overrides=dict(args.settings))


def site_of(cluster: Cluster, *, fetch: bool = True) -> Site:
    """The cluster on this machine, with its software, fetched if need be, and its secrets."""
    find = find_distribution(os.environ, report=tell) if fetch else locate_distribution(os.environ)
    return lifecycle.open_site(
        cluster,
        find,
        os.environ,
        report=tell,
        superuser_password=secret(PASSWORD_VARIABLE, os.environ),
        keystore_password=secret(KEYSTORE_VARIABLE, os.environ),
    )


@contextmanager
def telling_logs() -> Iterator[None]:
    """When nodes fail, show what they said last."""
    try:
        yield
    except ClusterError as error:
        for line in getattr(error, "log", ()):
            tell(f"    {line}")
        raise


def tell(line: str) -> None:
    """One line of progress; results alone go to standard output."""
    print(line, file=sys.stderr, flush=True)


def secret(name: str, environ: Mapping[str, str]) -> str:
    """A secret from the environment, or from the file that ``NAME_FILE`` there names."""
    path = environ.get(f"{name}_FILE")
    if path is None or environ.get(name):
        return environ.get(name, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CommandFailed(f"cannot read {path}, which {name}_FILE names: {error}") from error
