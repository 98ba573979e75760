"""A cluster from the YAML that describes it; ``conf/README.md`` lists every setting.

Paths may hold ``{cluster}``, ``{tier}``, ``{node}`` and ``{folder}`` (of the cluster). What stands
under ``defaults`` holds for every tier that does not say otherwise.
"""

import os
import re
import string
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ndcass.cluster.sections import Section, merged, put, read_yaml, refuse_unknown, typed
from ndcass.cluster.spec import (
    ClientTls,
    Cluster,
    Directories,
    Keyspace,
    Machine,
    Node,
    Ports,
    Role,
    Security,
    Tier,
)
from ndcass.errors import ConfigError

# What a section may hold.
TOP = "cluster ports security machine defaults tiers keyspaces".split()
CLUSTER = """
    name folder tokens_per_node starts_at_once start_timeout_s join_timeout_s stop_timeout_s
""".split()
PORTS = "storage native jmx".split()
SECURITY = "authentication superuser client_tls".split()
CLIENT_TLS = (
    "generate keystore ca_file check_names truststore required certificate_file key_file".split()
)
MACHINE = "user java jars files".split()
DEFAULTS = "heap_mib directories cassandra jvm rack".split()
DIRECTORIES = "commitlog data hints saved_caches system".split()
TIER = ["role", "nodes", *DEFAULTS]
NODE = "name address client_address rack seed jmx_port".split()
KEYSPACE = ["replication"]

DEFAULT_FOLDER = "~/.local/share/ndcass/{cluster}"
MACHINE_FOLDER = "/var/lib/ndcass-cassandra"
"""Where nodes are not of this machine, whose home folders are not theirs."""
DEFAULT_HEAP_MIB = 1024
NODE_FOLDER = "{folder}/{node}"
DEFAULT_DIRECTORIES: Mapping[str, Any] = {  # `Any`: as YAML would hold it
    "commitlog": NODE_FOLDER + "/commitlog",
    "data": [NODE_FOLDER + "/data"],
    "hints": NODE_FOLDER + "/hints",
    "saved_caches": NODE_FOLDER + "/saved_caches",
}
GENERATED_KEYSTORE = NODE_FOLDER + "/tls/keystore.p12"
GENERATED_CA = "{folder}/tls/ca.pem"

# Settings of cassandra.yaml that follow from the description: a patch would break what it promises.
OWN_SETTINGS = frozenset(
    """
    cluster_name partitioner listen_address rpc_address broadcast_address broadcast_rpc_address
    listen_interface rpc_interface seed_provider endpoint_snitch storage_port native_transport_port
    num_tokens initial_token auto_bootstrap allocate_tokens_for_keyspace
    data_file_directories commitlog_directory hints_directory saved_caches_directory
    local_system_data_file_directory
    authenticator authorizer role_manager client_encryption_options commitlog_sync_period
    """.split()
)
_WHERE_INSTEAD = "it follows from tiers, ports, security and directories"
_PLACEHOLDERS = ("cluster", "tier", "node", "folder")
_JVM_OPTION = re.compile(r"-\S+")


def load_cluster(path: Path, *, overrides: Mapping[str, Any] | None = None) -> Cluster:
    """A cluster from a file.

    Parameters
    ----------
    path : Path
        A YAML file.
    overrides : mapping, optional
        Settings that win over the file, by dotted name (``ports.native``); `Any` is what the
        setting may hold.

    Raises
    ------
    ConfigError
        If the file cannot be read, or what it describes is unknown or impossible.
    """
    content = read_yaml(path)
    for name, value in (overrides or {}).items():
        put(content, name.split("."), value, name)
    return cluster_from(content)


def cluster_from(content: Mapping[str, Any]) -> Cluster:
    """A cluster from what its YAML file holds, which `Any` stands for.

    Raises
    ------
    ConfigError
        If something is unknown, missing, of the wrong type or impossible.
    """
    top = Section(content, "", TOP)
    settings = top.section("cluster", CLUSTER)
    name = settings.required("name", str)
    usual = DEFAULT_FOLDER if _is_local(top) else MACHINE_FOLDER
    folder = _path(settings.get("folder", str, usual), {"cluster": name}, "cluster.folder")
    names = {"cluster": name, "folder": str(folder)}
    ports = Ports(**top.section("ports", PORTS).given(int))
    security = _security(top.section("security", SECURITY), names)
    tiers = _tiers(top, names, ports=ports, keystore=_keystore(top))
    return Cluster(
        name=name,
        folder=folder,
        tiers=tiers,
        keyspaces=_keyspaces(top.section("keyspaces", None)),
        ports=ports,
        security=security,
        machine=_machine(top.section("machine", MACHINE)),
        **settings.given(int, "tokens_per_node", "starts_at_once"),
        **settings.given(float, "start_timeout_s", "join_timeout_s", "stop_timeout_s"),
    )


def _security(section: Section, names: Mapping[str, str]) -> Security:
    tls = section.section("client_tls", CLIENT_TLS)
    return Security(
        **section.given(bool, "authentication"),
        **section.given(str, "superuser"),
        client_tls=_client_tls(tls, names) if "client_tls" in section.content else None,
    )


def _client_tls(tls: Section, names: Mapping[str, str]) -> ClientTls:
    generate = tls.get("generate", bool, False)
    if generate and ("keystore" in tls.content or "ca_file" in tls.content):
        raise ConfigError(
            f"{tls.path}: with generate there is nothing to say about keystore and ca_file"
        )
    if generate:
        ca_file = _path(GENERATED_CA, names, tls.path)
    else:
        tls.required("keystore", str)
        ca_file = _path(tls.required("ca_file", str), names, tls.name_of("ca_file"))

    def path(name: str) -> Path | None:
        given = tls.get(name, str, "")
        return _path(given, names, tls.name_of(name)) if given else None

    return ClientTls(
        ca_file=ca_file,
        is_required=tls.get("required", bool, True),
        is_generated=generate,
        truststore=path("truststore"),
        certificate=path("certificate_file"),
        key=path("key_file"),
        checks_names=tls.get("check_names", bool, True),
    )


def _keystore(top: Section) -> str | None:
    """The path of every node's keystore, with placeholders."""
    tls = top.section("security", SECURITY).section("client_tls", CLIENT_TLS)
    if tls.get("generate", bool, False):
        return GENERATED_KEYSTORE
    return tls.get("keystore", str, "") or None


def _tiers(
    top: Section, names: Mapping[str, str], *, ports: Ports, keystore: str | None
) -> tuple[Tier, ...]:
    defaults = top.section("defaults", DEFAULTS)
    described = top.section("tiers", None)
    tiers: list[Tier] = []
    for name in described.content:
        tier = described.section(name, TIER)
        layered = Section(
            _with_defaults(tier, defaults),
            tier.path,
            TIER,
        )
        before = sum(len(made.nodes) for made in tiers)
        tiers.append(
            _tier(
                name,
                layered,
                {**names, "tier": name},
                ports=ports,
                keystore=keystore,
                before=before,
            )
        )
    return tuple(tiers)


def _with_defaults(tier: Section, defaults: Section) -> dict[str, Any]:
    """Settings of a tier over those of all tiers; JVM options of both."""
    jvm = [
        *defaults.get("jvm", list, []),
        *tier.get("jvm", list, []),
    ]
    for section in (defaults, tier):  # so that a mistake is told with the name of its section
        for name, kind in (("cassandra", dict), ("directories", dict), ("heap_mib", int)):
            section.get(name, kind, kind())
    # A None in a patch means something only when the patch is laid over Cassandra's settings.
    patch = _overlaid(defaults.get("cassandra", dict, {}), tier.get("cassandra", dict, {}))
    return {**merged(defaults.content, tier.content), "jvm": jvm, "cassandra": patch}


def _overlaid(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """As `merged`, but None stays."""
    result = dict(base)
    for name, value in patch.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _overlaid(result[name], value) if both else value
    return result


def _tier(
    name: str,
    tier: Section,
    names: Mapping[str, str],
    *,
    ports: Ports,
    keystore: str | None,
    before: int,
) -> Tier:
    """One tier; `before` nodes of other tiers have been described before it."""
    role = tier.required("role", str)
    if role not in {known.value for known in Role}:
        raise ConfigError(f"{tier.name_of('role')} must be ingest or archive, not {role!r}")
    listed = [_node_section(tier, n, one) for n, one in enumerate(tier.required("nodes", list))]
    no_seed_named = not any("seed" in node.content for node in listed)
    local = any(_is_loopback(node) for node in listed)
    nodes = []
    for n, node in enumerate(listed):
        own_name = node.get("name", str, f"{name}{n + 1}")
        own_names = {**names, "node": own_name}
        address = node.required("address", str)
        nodes.append(
            Node(
                name=own_name,
                address=address,
                client_address=node.get("client_address", str, address),
                rack=node.get("rack", str, tier.get("rack", str, "rack1")),
                is_seed=node.get("seed", bool, no_seed_named and n == 0),
                jmx_port=node.get("jmx_port", int, ports.jmx + (before + n if local else 0)),
                folder=_path(NODE_FOLDER, own_names, "cluster.folder"),
                directories=_directories(tier, own_names),
                keystore=_path(keystore, own_names, "security.client_tls.keystore")
                if keystore
                else None,
            )
        )
    return Tier(
        name=name,
        role=Role(role),
        nodes=tuple(nodes),
        heap_mib=tier.get("heap_mib", int, DEFAULT_HEAP_MIB),
        cassandra=_patch(tier),
        jvm=_jvm(tier),
    )


def _node_section(tier: Section, n: int, described: Any) -> Section:
    """A node is an address, or settings with one; `Any` is what YAML holds."""
    path = f"{tier.path}.nodes[{n}]"
    if isinstance(described, str):
        described = {"address": described}
    return Section(described, path, NODE)


def _is_local(top: Section) -> bool:
    """Whether nodes are of this machine; that either all are or none is found out later."""
    tiers = top.section("tiers", None)
    return any(
        _is_loopback(_node_section(tier, n, one))
        for tier in (tiers.section(name, TIER) for name in tiers.content)
        for n, one in enumerate(tier.get("nodes", list, []))
    )


def _is_loopback(node: Section) -> bool:
    return str(node.content.get("address")).startswith("127.")


def _directories(tier: Section, names: Mapping[str, str]) -> Directories:
    section = tier.section("directories", DIRECTORIES)
    layered = Section({**DEFAULT_DIRECTORIES, **section.content}, section.path, DIRECTORIES)

    def path(name: str) -> Path:
        return _path(layered.required(name, str), names, layered.name_of(name))

    listed = layered.required("data", list)
    data = [_path(typed(one, str, layered.name_of("data")), names, "data") for one in listed]
    return Directories(
        commitlog=path("commitlog"),
        data=tuple(data),
        hints=path("hints"),
        saved_caches=path("saved_caches"),
        system=path("system") if "system" in layered.content else None,
    )


def _patch(tier: Section) -> dict[str, Any]:
    """The patch of cassandra.yaml (`Any`: what YAML holds), without what is not its business."""
    patch = tier.get("cassandra", dict, {})
    for name in patch:
        if name in OWN_SETTINGS:
            raise ConfigError(f"{tier.path}.cassandra may not set {name}: {_WHERE_INSTEAD}")
    refuse_unknown(patch, known_settings(), f"{tier.path}.cassandra.")
    if patch.get("commitlog_sync", "group") not in ("group", "batch"):
        raise ConfigError(
            f"{tier.path}.cassandra.commitlog_sync must be group or batch: with "
            f"{patch['commitlog_sync']!r} a killed node loses writes that it had acknowledged"
        )
    return dict(patch)


@cache
def known_settings() -> tuple[str, ...]:
    """What ``cassandra.yaml`` may hold: an unknown name would keep a node from starting."""
    text = resources.files("ndcass.conf").joinpath("cassandra/settings.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def _jvm(tier: Section) -> tuple[str, ...]:
    options = []
    for option in tier.get("jvm", list, []):
        text = typed(option, str, f"{tier.path}.jvm")
        if not _JVM_OPTION.fullmatch(text):
            raise ConfigError(f"{tier.path}.jvm: {text!r} is no JVM option")
        if text.startswith(("-Xms", "-Xmx")):
            raise ConfigError(f"{tier.path}.jvm: {text} is said by heap_mib")
        options.append(text)
    return tuple(options)


def _keyspaces(section: Section) -> tuple[Keyspace, ...]:
    keyspaces = []
    for name in section.content:
        keyspace = section.section(name, KEYSPACE)
        copies = keyspace.section("replication", None)
        if len(copies.content) != 1:
            tiers = ", ".join(copies.content) or "none"
            raise ConfigError(
                f"{copies.path} must name exactly one tier, not {tiers}: quorums and transactions "
                "of a keyspace are among the nodes of one data centre"
            )
        tier = next(iter(copies.content))
        keyspaces.append(Keyspace(name, tier, copies.required(tier, int)))
    return tuple(keyspaces)


def _machine(section: Section) -> Machine:
    settings: dict[str, Any] = section.given(str)  # unpacked into fields of two types
    for name in settings:
        if name != "user":
            settings[name] = _path(settings[name], {}, section.name_of(name))
    return Machine(**settings)


def _path(template: str, names: Mapping[str, str], setting: str) -> Path:
    """A path with its placeholders filled, absolute."""
    try:
        wanted = [
            field for _, field, _, _ in string.Formatter().parse(template) if field is not None
        ]
    except ValueError as error:
        raise ConfigError(f"{setting}: {template!r} is no path: {error}") from error
    for field in wanted:
        if field not in names:
            known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS if name in names) or "none"
            raise ConfigError(f"{setting}: there is no {{{field}}}; there is {known}")
    if not template:
        raise ConfigError(f"{setting} must not be empty")
    # Without `..`, so that two spellings of one directory are found to be one.
    return Path(os.path.abspath(Path(template.format(**names)).expanduser()))
