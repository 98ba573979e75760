"""The documents name what there is: every setting, every route."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path

import yaml

from ndcass.cluster import loader
from ndcass.config import ADMIN_TOKEN, CASSANDRA_PASSWORD, Settings, load
from ndcass.server.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent


def settings() -> dict[str, object]:
    """Every setting by its dotted name, with its default."""
    return {
        f"{section.name}.{setting.name}": getattr(getattr(Settings(), section.name), setting.name)
        for section in dataclasses.fields(Settings)
        if section.repr  # secrets are no settings
        for setting in dataclasses.fields(getattr(Settings(), section.name))
        if setting.repr
    }


def test_every_setting_is_described_with_its_default() -> None:
    text = (ROOT / "conf" / "README.md").read_text()
    described = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \|", text, flags=re.MULTILINE))
    assert set(described) == set(settings())
    for name, default in settings().items():
        value = yaml.safe_load(described[name])
        assert (tuple(value) if isinstance(value, list) else value) == default, name


def settings_of_clusters() -> set[str]:
    """Every setting of a description of a cluster, by its dotted name."""
    sections = {
        "cluster": loader.CLUSTER,
        "ports": loader.PORTS,
        "security": [name for name in loader.SECURITY if name != "client_tls"],
        "security.client_tls": loader.CLIENT_TLS,
        "machine": loader.MACHINE,
        "tiers.TIER": [name for name in loader.TIER if name != "directories"],
        "tiers.TIER.directories": loader.DIRECTORIES,
        "tiers.TIER.nodes[]": loader.NODE,
        "keyspaces.KEYSPACE": loader.KEYSPACE,
    }
    return {f"{section}.{name}" for section, names in sections.items() for name in names}


def test_every_setting_of_a_cluster_is_described() -> None:
    text = (ROOT / "conf" / "README.md").read_text().partition("# Clusters\n")[2]
    described = re.findall(r"^\| `([a-zA-Z_.\[\]]+)` \|", text, flags=re.MULTILINE)
    assert sorted(described) == sorted(settings_of_clusters())


def test_every_secret_is_described() -> None:
    text = (ROOT / "conf" / "README.md").read_text()
    for name in (ADMIN_TOKEN, CASSANDRA_PASSWORD):
        assert f"`{name}`" in text


def test_default_file_holds_every_setting_and_its_default() -> None:
    path = ROOT / "conf" / "default.yaml"
    assert load(path, {}) == Settings()
    content = yaml.safe_load(path.read_text())
    assert {f"{a}.{b}" for a, section in content.items() for b in section} == set(settings())


def test_every_default_has_a_reason() -> None:
    lines = (ROOT / "conf" / "default.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"  [a-z_]+:", line):
            assert before.strip().startswith("#"), line


def test_every_route_is_described_and_nothing_else() -> None:
    text = (ROOT / "server" / "README.md").read_text()
    rows = re.findall(r"^\| ([A-Z, ]+) \| `([^`]+)` \|", text, flags=re.MULTILINE)
    described = {(method, path) for methods, path in rows for method in methods.split(", ")}
    served = set()
    for route in ROUTES:
        if route.refuses:
            continue
        template = route.template.replace("{junk}", "/")
        choice = re.search(r"\{([^}]*\|[^}]*)\}", template)
        words = choice[1].split("|") if choice else [""]
        for word in words:
            path = template.replace(choice[0], word) if choice else template
            served.add((route.method, path))
    assert described == served
