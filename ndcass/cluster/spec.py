"""What a cluster is, as data: tiers of nodes, keyspaces, security. Its YAML is read in `loader`.

Everything here is checked when it is built, so a `Cluster` that exists can be started:

1. One tier, or two of which one takes writes (``ingest``) and one keeps (``archive``).
2. Names, addresses and JMX ports of nodes are unique; no two directories on a machine are the same
   or lie in each other.
3. A keyspace lives in exactly one data centre, with no more copies than that has nodes.
4. All nodes are on this machine (loopback addresses) or none is.
"""

import enum
import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndcass.errors import ConfigError

# What Cassandra and its tools take everywhere: in files, in CQL without quotes, in paths.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")
_KEYSPACE_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")

MAX_PORT = 65535
# Below, a node does not get through its own start.
MIN_HEAP_MIB = 192
# Of the distribution; more only costs time at each repair and each start.
MAX_TOKENS = 256


class Role(enum.Enum):
    """What a tier is for."""

    INGEST = "ingest"
    """Takes writes; solid state."""
    ARCHIVE = "archive"
    """Keeps what was folded; reads come from here. With one tier it takes writes, too."""


@dataclass(frozen=True, slots=True)
class Directories:
    """Where a node keeps what, each on the device that suits it."""

    commitlog: Path
    data: tuple[Path, ...]
    hints: Path
    saved_caches: Path
    system: Path | None = None
    """Of Cassandra's own tables; without it they are in the first data directory."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("directories.data must name at least one directory")

    def __iter__(self) -> Iterator[Path]:
        system = () if self.system is None else (self.system,)
        return iter((self.commitlog, *self.data, self.hints, self.saved_caches, *system))


@dataclass(frozen=True, slots=True)
class Node:
    """One Cassandra process: who it is and where its things are."""

    name: str
    address: str
    """Of the traffic between nodes."""
    client_address: str
    """Of CQL."""
    rack: str
    is_seed: bool
    jmx_port: int
    """On 127.0.0.1 of its machine, whatever its addresses are."""
    folder: Path
    """Of its files, logs and whatever the directories do not name."""
    directories: Directories
    keystore: Path | None = None
    """Key and certificate of this node, where clients use TLS."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a node: {_allowed()}")
        if not _NAME.fullmatch(self.rack):
            raise ConfigError(f"node {self.name}: {self.rack!r} is no name of a rack: {_allowed()}")
        for address in (self.address, self.client_address):
            _check_address(address, self.name)
        _check_port(self.jmx_port, f"the JMX port of node {self.name}")

    @property
    def is_local(self) -> bool:
        """Whether it can only run on this machine."""
        return ipaddress.IPv4Address(self.address).is_loopback


@dataclass(frozen=True, slots=True)
class Tier:
    """A data centre: nodes that are alike."""

    name: str
    role: Role
    nodes: tuple[Node, ...]
    heap_mib: int
    cassandra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What to change in the ``cassandra.yaml`` of its nodes; `Any` is what YAML holds."""
    jvm: tuple[str, ...] = ()
    """Options that join those of the JVM, or take their place."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a tier: {_allowed()}")
        if not self.nodes:
            raise ConfigError(f"tiers.{self.name}.nodes must name at least one node")
        if self.heap_mib < MIN_HEAP_MIB:
            raise ConfigError(f"tiers.{self.name}.heap_mib must be at least {MIN_HEAP_MIB}")
        if not any(node.is_seed for node in self.nodes):
            raise ConfigError(f"tiers.{self.name} needs a node that is a seed")


@dataclass(frozen=True, slots=True)
class Keyspace:
    """A keyspace and the only tier that holds it."""

    name: str
    tier: str
    replicas: int

    def __post_init__(self) -> None:
        if not _KEYSPACE_NAME.fullmatch(self.name) or self.name.startswith("system"):
            raise ConfigError(
                f"{self.name!r} is no name of a keyspace: up to 48 small letters, digits and "
                "underscores, a letter first, and not one of Cassandra's own (system...)"
            )
        if self.replicas < 1:
            raise ConfigError(f"keyspaces.{self.name}: {self.replicas} copies keep nothing")


@dataclass(frozen=True, slots=True)
class Ports:
    """The same on every node; JMX counts up from its port when all nodes share a machine."""

    storage: int = 7000
    native: int = 9042
    jmx: int = 7199

    def __post_init__(self) -> None:
        for name in ("storage", "native", "jmx"):
            _check_port(getattr(self, name), f"ports.{name}")
        if self.storage == self.native:
            raise ConfigError(f"ports.storage and ports.native are both {self.native}")


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS between clients and nodes; every node's own keystore is in `Node.keystore`."""

    ca_file: Path
    """PEM that clients check a node's certificate with."""
    is_required: bool = True
    """Whether clients without TLS are turned away."""
    is_generated: bool = False
    """Whether keys and certificates are made at the first start; on this machine only."""
    truststore: Path | None = None
    """If set, clients need a certificate that this one trusts."""
    certificate: Path | None = None
    """PEM that ndcass itself shows to nodes, and its key."""
    key: Path | None = None
    checks_names: bool = True
    """Whether ndcass wants a node's certificate to name the node's address."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("security.client_tls: certificate_file and key_file belong together")
        if self.truststore is not None and self.certificate is None:
            raise ConfigError(
                "security.client_tls: with a truststore every client needs a certificate, so does "
                "ndcass: name certificate_file and key_file"
            )


@dataclass(frozen=True, slots=True)
class Security:
    """Who may connect."""

    authentication: bool = False
    superuser: str = "ndcass"
    """Takes the place of Cassandra's own superuser, whose password everybody knows."""
    client_tls: ClientTls | None = None

    def __post_init__(self) -> None:
        if not _KEYSPACE_NAME.fullmatch(self.superuser) or self.superuser == "cassandra":
            raise ConfigError(
                f"security.superuser {self.superuser!r} must be a name of small letters, digits "
                "and underscores, and not cassandra, which is taken out of use"
            )


@dataclass(frozen=True, slots=True)
class Machine:
    """Where things are on the machines of a rendered cluster."""

    user: str = "cassandra"
    java: Path = Path("/usr/lib/jvm/java-17-openjdk-amd64/bin/java")
    jars: Path = Path("/opt/ndcass-cassandra/lib")
    files: Path = Path("/etc/ndcass-cassandra")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A whole cluster, ready to be laid out and started."""

    name: str
    folder: Path
    """Of what belongs to the cluster on one machine: state, and by default the nodes' folders."""
    tiers: tuple[Tier, ...]
    keyspaces: tuple[Keyspace, ...] = ()
    ports: Ports = field(default_factory=Ports)
    security: Security = field(default_factory=Security)
    machine: Machine = field(default_factory=Machine)
    tokens_per_node: int = 16
    starts_at_once: int = 2
    """Nodes that start side by side, after the seeds."""
    start_timeout_s: float = 180.0
    """How long one node may take to be up and normal."""
    join_timeout_s: float = 86400.0
    """How long a node that joins later may take to fetch its share of the data."""
    stop_timeout_s: float = 60.0
    """How long one node may take to end by itself, before it is killed."""

    def __post_init__(self) -> None:
        if not _CLUSTER_NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a cluster: letters, digits, - _ . only")
        if not 1 <= self.tokens_per_node <= MAX_TOKENS:
            raise ConfigError(f"cluster.tokens_per_node must be from 1 to {MAX_TOKENS}")
        if self.starts_at_once < 1:
            raise ConfigError("cluster.starts_at_once must be at least 1")
        for name in ("start_timeout_s", "join_timeout_s", "stop_timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"cluster.{name} must be above 0")
        self._check_tiers()
        self._check_nodes()
        self._check_keyspaces()
        tls = self.security.client_tls
        if tls is not None and tls.is_generated and not self.is_local:
            raise ConfigError(
                "security.client_tls.generate is for nodes on this machine; give a keystore"
            )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, tier by tier."""
        return tuple(node for tier in self.tiers for node in tier.nodes)

    @property
    def seeds(self) -> tuple[Node, ...]:
        """The nodes that others ask first."""
        return tuple(node for node in self.nodes if node.is_seed)

    @property
    def is_local(self) -> bool:
        """Whether all its nodes run on this machine."""
        return all(node.is_local for node in self.nodes)

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises
        ------
        ConfigError
            If there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise ConfigError(f"cluster {self.name} has no node {name!r}; it has {known}")

    def tier_of(self, node: Node) -> Tier:
        """The tier that a node is in."""
        return next(tier for tier in self.tiers if node in tier.nodes)

    def tier_for(self, role: Role) -> Tier:
        """The tier that does this; the only one does both."""
        return next((tier for tier in self.tiers if tier.role is role), self.tiers[0])

    def _check_tiers(self) -> None:
        if not self.tiers:
            raise ConfigError("tiers must hold at least one tier")
        _refuse_repeated((tier.name for tier in self.tiers), "tier")
        if len(self.tiers) > 1 and sorted(tier.role.value for tier in self.tiers) != [
            "archive",
            "ingest",
        ]:
            raise ConfigError(
                "a cluster has one tier, or two of which one has the role ingest and one archive; "
                f"here are {', '.join(f'{tier.name} ({tier.role.value})' for tier in self.tiers)}"
            )

    def _check_nodes(self) -> None:
        nodes = self.nodes
        _refuse_repeated((node.name for node in nodes), "node")
        _refuse_shared(_sockets(nodes, self.ports))
        if len({node.is_local for node in nodes}) > 1:
            local, remote = (
                ", ".join(node.name for node in nodes if node.is_local is side)
                for side in (True, False)
            )
            raise ConfigError(
                f"loopback addresses ({local}) cannot be reached from other machines ({remote})"
            )
        if self.is_local:
            _check_directories(nodes)
        else:
            for node in nodes:
                _check_directories([node])

    def _check_keyspaces(self) -> None:
        _refuse_repeated((keyspace.name for keyspace in self.keyspaces), "keyspace")
        sizes = {tier.name: len(tier.nodes) for tier in self.tiers}
        for keyspace in self.keyspaces:
            if keyspace.tier not in sizes:
                raise ConfigError(
                    f"keyspaces.{keyspace.name}: there is no tier {keyspace.tier!r}; "
                    f"there is {', '.join(sizes)}"
                )
            if keyspace.replicas > sizes[keyspace.tier]:
                raise ConfigError(
                    f"keyspaces.{keyspace.name}: {keyspace.replicas} copies do not fit on the "
                    f"{sizes[keyspace.tier]} nodes of tier {keyspace.tier}"
                )


def _allowed() -> str:
    return "up to 48 letters, digits, - and _, a letter first"


def _check_port(port: int, what: str) -> None:
    if not 1 <= port <= MAX_PORT:
        raise ConfigError(f"{what} must be from 1 to {MAX_PORT}, not {port}")


def _check_address(address: str, name: str) -> None:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        raise ConfigError(f"node {name}: {address!r} is no IPv4 address") from None
    if parsed.is_unspecified or parsed.is_multicast:
        raise ConfigError(f"node {name}: {address} is no address that others could connect to")


def _refuse_repeated(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:  # folders may not tell a from A
            raise ConfigError(f"there are two {what}s named {name}")
        seen.add(name.lower())


def _sockets(nodes: Sequence[Node], ports: Ports) -> Iterator[tuple[str, str]]:
    """What every node listens on; JMX on the loopback address of its machine."""
    for node in nodes:
        yield node.name, f"address {node.address}, port {ports.storage}"
        yield node.name, f"address {node.client_address}, port {ports.native}"
        machine = "address 127.0.0.1" if node.is_local else f"machine {node.address}"
        yield node.name, f"{machine}, port {node.jmx_port}"


def _refuse_shared(owned: Iterable[tuple[str, str]]) -> None:
    """No two nodes own the same thing."""
    owners: dict[str, str] = {}
    for owner, thing in owned:
        if owners.get(thing) == owner:
            raise ConfigError(f"node {owner} would use {thing} twice")
        if thing in owners:
            raise ConfigError(f"nodes {owners[thing]} and {owner} may not share {thing}")
        owners[thing] = owner


def _check_directories(nodes: Sequence[Node]) -> None:
    """Directories on one machine are apart from each other, and so are the nodes' folders."""
    _refuse_shared((node.name, f"folder {node.folder}") for node in nodes)
    owned = [(node.name, path) for node in nodes for path in node.directories]
    for (one, here), (other, there) in itertools.combinations(owned, 2):
        if here == there or here in there.parents or there in here.parents:
            whose = f"node {one}" if one == other else f"nodes {one} and {other}"
            relation = f"directory {here}" if here == there else f"directories {here} and {there}"
            raise ConfigError(
                f"{whose} may not share {relation}: each needs a directory of its own"
            )
