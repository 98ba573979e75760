"""The files of nodes on other machines, as trees that are copied there as they are.

``DIR/NODE/etc/...`` has the files that a node starts from, a systemd unit, and from what systemd
makes its user, its folders and the kernel's limits. ``DIR/README`` says what to do with them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ndcass.cluster.distribution import AGENT_NAME, pinned_version
from ndcass.cluster.layout import (
    JVM_ARGUMENTS,
    MAIN_CLASS,
    Place,
    initial_tokens,
    node_files,
    token_option,
)
from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError

UNIT = "ndcass-cassandra"
_PRIVATE = 0o600
_PRIVATE_NAMES = ("cassandra.yaml",)


def render(
    cluster: Cluster,
    output: Path,
    *,
    joining: Collection[str] = (),
    joined: Collection[str] = (),
    keystore_password: str = "",
) -> list[Path]:
    """Write the files of every node into a new folder.

    Parameters
    ----------
    joining : collection of str
        Names of nodes that join a cluster which is there already. They choose their tokens by what
        the others have; those of the first nodes are dealt here. In no file are they seeds: a node
        that finds itself among them takes itself for one of the first, and fetches nothing.
    joined : collection of str
        Names of nodes that joined earlier: they have tokens of their own choice, and may be seeds.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ClusterError
        If the nodes are of this machine, the folder is there already, the password of the keystores
        is missing, or a tier has no seed but those that join.
    """
    if cluster.is_local:
        raise ClusterError(
            f"the nodes of cluster {cluster.name} have loopback addresses: `ndcass cluster up` "
            "starts them here"
        )
    if cluster.security.client_tls is not None and not keystore_password:
        raise ClusterError("the password of the keystores is missing: NDCASS_KEYSTORE_PASSWORD")
    if output.exists():
        raise ClusterError(f"{output} is there already: name a folder that is not")
    cluster = _with_seeds_that_serve(cluster, [cluster.node(name) for name in joining])
    later = [*(cluster.node(name) for name in joining), *(cluster.node(name) for name in joined)]
    first = initial_tokens(cluster, without=later)
    texts: dict[Path, str] = {}
    for node in cluster.nodes:
        tokens = first.get(node.name, ())
        files = machine_files(cluster, node, tokens=tokens, keystore_password=keystore_password)
        texts |= {Path(node.name) / path: text for path, text in files.items()}
    texts[Path("pom.xml")] = _pom()
    texts[Path("README")] = "".join(f"{line}\n" for line in _steps(cluster, joining))
    written = []
    for relative, text in sorted(texts.items()):
        path = output / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=_PRIVATE if path.name in _PRIVATE_NAMES else 0o644)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _with_seeds_that_serve(cluster: Cluster, joining: Collection[Node]) -> Cluster:
    """The cluster in which no node that joins is a seed."""
    tiers = []
    for tier in cluster.tiers:
        if not any(node.is_seed and node not in joining for node in tier.nodes):
            raise ClusterError(
                f"tier {tier.name} has no seed but those that join, and a seed fetches nothing: "
                "let a node that is there already be one (`seed: true`) in the description"
            )
        nodes = (replace(one, is_seed=one.is_seed and one not in joining) for one in tier.nodes)
        tiers.append(replace(tier, nodes=tuple(nodes)))
    return replace(cluster, tiers=tuple(tiers))


def machine_files(
    cluster: Cluster, node: Node, *, tokens: Sequence[int] = (), keystore_password: str = ""
) -> dict[Path, str]:
    """Every file of a node's machine, by its path below the machine's root."""
    machine = cluster.machine
    place = Place(machine.jars, machine.jars / AGENT_NAME, machine.files)
    files = node_files(cluster, node, place, keystore_password=keystore_password)
    if tokens:  # of a first start: later the node remembers them
        files[JVM_ARGUMENTS] += f"{token_option(tokens)}\n"
    below_root = machine.files.relative_to("/")
    system = Path("etc")
    return {
        **{below_root / name: text for name, text in files.items()},
        system / "systemd/system" / f"{UNIT}.service": _unit(cluster, node),
        system / "sysusers.d" / f"{UNIT}.conf": f'u {machine.user} - "Apache Cassandra" -\n',
        system / "tmpfiles.d" / f"{UNIT}.conf": "".join(_folders(cluster, node)),
        # Every sstable is mapped into memory, and a node has many of them.
        system / "sysctl.d" / f"90-{UNIT}.conf": "vm.max_map_count = 1048575\nvm.swappiness = 1\n",
    }


def _unit(cluster: Cluster, node: Node) -> str:
    machine = cluster.machine
    mounts = " ".join(_escaped(path) for path in (node.folder, *node.directories))
    return f"""[Unit]
Description=Apache Cassandra, node {node.name} of {cluster.name}
Wants=network-online.target
After=network-online.target time-sync.target
RequiresMountsFor={mounts}

[Service]
User={machine.user}
Group={machine.user}
Environment=MALLOC_ARENA_MAX=4
ExecStart={_escaped(machine.java)} @{_escaped(machine.files / JVM_ARGUMENTS)} {MAIN_CLASS}
# A JVM that was asked to end and did ends with this.
SuccessExitStatus=143
# It writes down what it has in memory first.
TimeoutStopSec={max(120, round(cluster.stop_timeout_s))}
Restart=on-failure
RestartSec=10
LimitNOFILE=1048576
LimitNPROC=32768
LimitMEMLOCK=infinity
LimitAS=infinity
NoNewPrivileges=true
PrivateTmp=true
ProtectHome=true
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def _folders(cluster: Cluster, node: Node) -> Iterator[str]:
    user = cluster.machine.user
    for path in (node.folder, node.folder / "logs", *node.directories):
        yield f'd "{path}" 0750 {user} {user} -\n'
    # The settings may hold a password.
    yield f'z "{cluster.machine.files / "cassandra.yaml"}" 0600 {user} {user} -\n'


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(" ", "\\x20").replace("%", "%%")


def _steps(cluster: Cluster, joining: Collection[str]) -> Iterator[str]:
    machine = cluster.machine
    seeds = ", ".join(node.name for node in cluster.seeds)
    yield f"Nodes of the cluster {cluster.name}, Apache Cassandra {pinned_version()}."
    yield ""
    yield "On every machine, as root:"
    yield f"1. Java 17 at {machine.java}, and Cassandra's jars in {machine.jars}:"
    yield "       mvn -f pom.xml dependency:copy-dependencies -DincludeScope=runtime \\"
    yield f"           -DoutputDirectory={machine.jars}"
    yield "   (once; then copy the folder to the other machines)."
    yield "2. The files of its node: rsync -rp NODE/ root@MACHINE:/"
    if cluster.security.client_tls is not None:
        yield "   and its keystore, where cassandra.yaml says."
    yield "3. systemd-sysusers && systemd-tmpfiles --create && sysctl --system"
    yield f"4. systemctl daemon-reload && systemctl enable {UNIT}"
    yield ""
    if joining:
        names = ", ".join(joining)
        yield f"Then start what joins ({names}), one after the other; the next one when `nodetool"
        yield "status` shows UN for the one before, and at the end `nodetool cleanup` on the others"
        yield f"of its tier: systemctl start {UNIT}. The others need not restart. From then on say"
        yield "--joined, in the place of --joining, whenever files are rendered."
    else:
        yield f"Then start the seeds ({seeds}), one after the other, and after them the others,"
        yield f"one after the other: systemctl start {UNIT}. A node is ready when it takes CQL:"
    yield ""
    for node in cluster.nodes:
        kind = "seed" if node.is_seed else "node"
        tier = cluster.tier_of(node)
        yield (
            f"    {node.name}: {kind} of {tier.name} ({tier.role.value}), {node.rack}, "
            f"{node.client_address}:{cluster.ports.native}"
        )
    if cluster.security.authentication:
        yield ""
        yield "Passwords: log in as cassandra, make a superuser of your own, and take the login of"
        yield "cassandra away. Keep system_auth on three nodes of each data centre before that."


def _pom() -> str:
    return resources.files("ndcass.conf").joinpath("cassandra/pom.xml").read_text(encoding="utf-8")
