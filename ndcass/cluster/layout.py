"""The files of a node: what its ``cassandra.yaml`` and the command line of its JVM say.

Nothing is written or started here; the files are texts by their names. What a file says depends on
the description and on where things are, and on nothing else, so that two layouts can be compared.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import yaml

from ndcass.cluster.sections import merged
from ndcass.cluster.spec import ClientTls, Cluster, Node, Tier

SETTINGS, RACK, LOGGING, TOOL_LOGGING, JVM_ARGUMENTS = (
    "cassandra.yaml",
    "cassandra-rackdc.properties",
    "logback.xml",
    "logback-tools.xml",
    "jvm.args",
)
MAIN_CLASS = "org.apache.cassandra.service.CassandraDaemon"
LOG_NAME = "system.log"
TEMPORARY_NAME = "tmp"
"""Of the node's folder: emptied whenever a node of this machine starts."""

# Cassandra reaches into parts of Java that are closed since 9; its tools need the same.
_EXPORTS = """
    java.base/jdk.internal.misc java.base/java.lang.ref
    java.management.rmi/com.sun.jmx.remote.internal.rmi
    java.management/com.sun.jmx.remote.security java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
    java.sql/java.sql jdk.unsupported/sun.misc jdk.attach/sun.tools.attach
    jdk.compiler/com.sun.tools.javac.file
""".split()
_OPENS = """
    java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref
    java.base/jdk.internal.reflect java.base/jdk.internal.math java.base/jdk.internal.module
    java.base/jdk.internal.util.jar java.base/sun.nio.ch java.base/java.io
    java.base/java.lang.reflect java.base/java.lang java.base/java.util java.base/java.nio
    jdk.management/com.sun.management.internal jdk.compiler/com.sun.tools.javac
""".split()
MODULE_OPTIONS = (
    *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTS),
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS),
)

_TOKEN_SPACE = 1 << 64
_FIRST_TOKEN = -(1 << 63)
# Far more than what rounding moves a token by, and nothing beside the distance of two.
_TIER_OFFSET = 100
# A collector treats what is larger than half a region as a special case; payloads are up to 1 MiB.
_SMALL_HEAP_MIB = 8192
_SMALL_REGION, _REGION = "4m", "16m"
_PATTERN = "%-5level [%thread] %date{ISO8601} %F:%L - %msg%n"
# Tools print their results; without this they print what they do, too.
_TOOL_LOGGING = f"""<configuration>
  <appender name="STDERR" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder>
      <pattern>{_PATTERN}</pattern>
    </encoder>
  </appender>
  <root level="WARN">
    <appender-ref ref="STDERR"/>
  </root>
</configuration>
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node finds its software and its files."""

    jars: Path
    agent: Path
    files: Path


def node_files(
    cluster: Cluster, node: Node, place: Place, *, keystore_password: str = ""
) -> dict[str, str]:
    """Every file that a node needs to start, by its name in `place.files`.

    Parameters
    ----------
    keystore_password : str
        For the keystore and the truststore, where clients use TLS.
    """
    tier = cluster.tier_of(node)
    settings = node_settings(cluster, node, keystore_password=keystore_password)
    head = f"# Of node {node.name}, written by ndcass: change the description of the cluster.\n"
    return {
        SETTINGS: head + yaml.safe_dump(settings, sort_keys=False, width=100),
        RACK: f"dc={tier.name}\nrack={node.rack}\n",
        LOGGING: _logging(node.folder / "logs" / LOG_NAME),
        TOOL_LOGGING: _TOOL_LOGGING,
        JVM_ARGUMENTS: "".join(
            f"{_quoted(option)}\n" for option in jvm_options(cluster, node, place)
        ),
    }


def node_settings(cluster: Cluster, node: Node, *, keystore_password: str = "") -> dict[str, Any]:
    """What ``cassandra.yaml`` holds (`Any`): our settings, with the tier's patch over them."""
    tier = cluster.tier_of(node)
    settings = {
        **_identity(cluster, node),
        **_storage(cluster, tier),
        **_limits(cluster, tier),
        **_security(cluster, node, keystore_password),
    }
    if tier.cassandra.get("commitlog_sync") == "batch":
        del settings["commitlog_sync_group_window"]  # only the one that fits is taken
    return merged(settings, tier.cassandra)


def initial_tokens(
    cluster: Cluster, *, without: Collection[Node] = ()
) -> dict[str, tuple[int, ...]]:
    """Tokens of every node of a new cluster: in equal steps, dealt to the nodes of a tier in turn.

    Neighbours on the ring are in different racks as far as there are several, so that replicas are
    spread evenly. The second tier's tokens are a little above the places where the first one's
    could be: a token belongs to one node of the whole cluster.

    Parameters
    ----------
    without : collection of Node
        Nodes that were no first ones: they get none, and those of the others are as if they were
        not there.
    """
    dealt: dict[str, tuple[int, ...]] = {}
    for place, tier in enumerate(cluster.tiers):
        nodes = _rack_by_rack([node for node in tier.nodes if node not in without])
        count = len(nodes) * cluster.tokens_per_node
        for n, node in enumerate(nodes):
            dealt[node.name] = tuple(
                _FIRST_TOKEN + _TOKEN_SPACE * step // count + place * _TIER_OFFSET
                for step in range(n, count, len(nodes))
            )
    return dealt


def token_option(tokens: Sequence[int]) -> str:
    """The JVM option that gives a node its first tokens; later it remembers them."""
    return f"-Dcassandra.initial_token={','.join(map(str, tokens))}"


def jvm_options(cluster: Cluster, node: Node, place: Place) -> list[str]:
    """The command line of a node's JVM up to its main class."""
    tier = cluster.tier_of(node)
    heap = tier.heap_mib
    region = _SMALL_REGION if heap < _SMALL_HEAP_MIB else _REGION
    options = [
        f"-javaagent:{place.agent}",
        f"-Xms{heap}m",
        f"-Xmx{heap}m",
        "-Xss256k",
        "-XX:+UseG1GC",
        f"-XX:G1HeapRegionSize={region}",
        "-XX:MaxGCPauseMillis=300",
        "-XX:InitiatingHeapOccupancyPercent=70",
        "-XX:+ParallelRefProcEnabled",
        # Without memory it may be half alive; the other replicas are better off when it ends.
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+PerfDisableSharedMem",
        "-Djdk.attach.allowAttachSelf=true",
        "-Dio.netty.tryReflectionSetAccessible=true",
        "-Djava.net.preferIPv4Stack=true",
        "-Dchronicle.analytics.disable=true",
        f"-Dcassandra.config={(place.files / SETTINGS).as_uri()}",
        f"-Dcassandra-rackdc.properties={(place.files / RACK).as_uri()}",
        f"-Dlogback.configurationFile={place.files / LOGGING}",
        f"-Dcassandra.storagedir={node.folder}",
        f"-Dcassandra.logdir={node.folder / 'logs'}",
        f"-Dcassandra.triggers_dir={node.folder}",
        f"-Dcassandra.jmx.local.port={node.jmx_port}",
        "-Dcassandra-foreground=yes",
    ]
    if cluster.is_local:
        # On one machine gossip is settled at once, and there is nobody to wait for.
        options += [
            "-Dcassandra.ring_delay_ms=5000",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
        ]
        options += ["-Dcassandra.superuser_setup_delay_ms=0"]
        options += [f"-Djava.io.tmpdir={node.folder / TEMPORARY_NAME}"]
    else:
        options += ["-XX:+AlwaysPreTouch", "-XX:+UseNUMA"]
    return [
        *patched_options(options, tier.jvm),
        *MODULE_OPTIONS,
        "-cp",
        f"{place.jars}/*",
    ]


def patched_options(options: Sequence[str], patch: Sequence[str]) -> list[str]:
    """JVM options, where those of a patch take the place of those that say the same thing."""
    replaced = {_what(option) for option in patch}
    kept = [option for option in options if _what(option) not in replaced]
    if "collector" in replaced:
        kept = [option for option in kept if not _is_of_g1(option)]
    return [*kept, *patch]


def _what(option: str) -> str:
    """What an option is about, without its value."""
    if re.fullmatch(r"-XX:\+Use\w*GC", option):
        return "collector"
    if option.startswith("-XX:"):
        return option.partition("=")[0].replace("-XX:+", "-XX:").replace("-XX:-", "-XX:")
    if option.startswith("-D"):
        return option.partition("=")[0]
    sized = re.match(r"-X[a-z]+", option)
    return sized[0] if sized else option


def _is_of_g1(option: str) -> bool:
    return option.startswith(("-XX:G1", "-XX:MaxGCPause", "-XX:InitiatingHeap"))


def _identity(cluster: Cluster, node: Node) -> dict[str, Any]:
    """Who a node is, whom it asks and where its things are; `Any` is what YAML holds."""
    seeds = ",".join(seed.address for seed in cluster.seeds)
    own = node.directories
    return {
        "cluster_name": cluster.name,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "GossipingPropertyFileSnitch",
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": seeds}],
            }
        ],
        "listen_address": node.address,
        "rpc_address": node.client_address,
        "storage_port": cluster.ports.storage,
        "native_transport_port": cluster.ports.native,
        "num_tokens": cluster.tokens_per_node,
        # For a node that joins later; the first ones are told their tokens.
        "allocate_tokens_for_local_replication_factor": _most_replicas(cluster, node),
        "commitlog_directory": str(own.commitlog),
        "data_file_directories": [str(path) for path in own.data],
        "hints_directory": str(own.hints),
        "saved_caches_directory": str(own.saved_caches),
        **({"local_system_data_file_directory": str(own.system)} if own.system else {}),
    }


def _most_replicas(cluster: Cluster, node: Node) -> int:
    tier = cluster.tier_of(node)
    return max((k.replicas for k in cluster.keyspaces if k.tier == tier.name), default=1)


def _storage(cluster: Cluster, tier: Tier) -> dict[str, Any]:
    """How data are kept; `Any` is what YAML holds."""
    return {
        # A write is acknowledged when it is on the disk: nothing is lost when processes are killed.
        "commitlog_sync": "group",
        "commitlog_sync_group_window": "5ms",
        # A node that meets damage in its files takes no more part. As long as it did, coordinators
        # that count it among the quorum would fail every read of that partition.
        "disk_failure_policy": "stop_paranoid",
        # What the sstables below need, and no older node has to read them.
        "storage_compatibility_mode": "NONE",
        "sstable": {"selected_format": "bti"},
        "uuid_sstable_identifiers_enabled": True,
        "default_compaction": {
            "class_name": "UnifiedCompactionStrategy",
            "parameters": {"scaling_parameters": "T4"},
        },
        "memtable": {
            "configurations": {
                "trie": {"class_name": "TrieMemtable"},
                "default": {"inherits": "trie"},
            }
        },
        "memtable_allocation_type": "offheap_objects",
        "key_cache_size": "0MiB",  # tries need none
        "trickle_fsync": True,
        "paxos_variant": "v2",
        # A dropped table is worth a copy, except where people try things out.
        "auto_snapshot": not cluster.is_local,
        # By default 1 MiB/s for all together: image data would take days.
        "max_hint_window": "3h",
        "hinted_handoff_throttle": "100MiB",
        "stream_throughput_outbound": "200MiB/s",
        "entire_sstable_stream_throughput_outbound": "200MiB/s",
    }


def _limits(cluster: Cluster, tier: Tier) -> dict[str, Any]:
    """What a node may use, by its heap; `Any` is what YAML holds."""
    heap = tier.heap_mib
    # All gateways of a machine share an address. By default an address gets a fortieth of the heap,
    # and what is beyond waits without a word.
    in_flight = f"{max(64, heap // 4)}MiB"
    limits: dict[str, Any] = {
        "memtable_heap_space": f"{heap // 8}MiB",
        "memtable_offheap_space": f"{heap // 4}MiB",
        "file_cache_size": f"{max(32, heap // 16)}MiB",
        "native_transport_max_request_data_in_flight_per_ip": in_flight,
        "native_transport_max_request_data_in_flight": in_flight,
        "read_request_timeout": "10s",
        "range_request_timeout": "20s",
        "write_request_timeout": "10s",
        "cas_contention_timeout": "5s",
        # Entries of the label index come as many small rows of many partitions in one message.
        "unlogged_batch_across_partitions_warn_threshold": 1000,
        "batch_size_warn_threshold": "32KiB",
    }
    if cluster.is_local:
        limits |= {
            "concurrent_reads": 8,
            "concurrent_writes": 16,
            "concurrent_compactors": 1,
            "memtable_flush_writers": 1,
            "commitlog_segment_size": "32MiB",
            "commitlog_total_space": "1024MiB",
        }
    return limits


def _security(cluster: Cluster, node: Node, keystore_password: str) -> dict[str, Any]:
    """Passwords and TLS, where they are asked for; `Any` is what YAML holds."""
    security = cluster.security
    settings: dict[str, Any] = {}
    if security.authentication:
        settings |= {
            "authenticator": {"class_name": "PasswordAuthenticator"},
            "authorizer": {"class_name": "CassandraAuthorizer"},
        }
    if security.client_tls is not None:
        settings["client_encryption_options"] = _tls(security.client_tls, node, keystore_password)
    return settings


def _tls(tls: ClientTls, node: Node, password: str) -> dict[str, Any]:
    assert node.keystore is not None, "the loader gives every node one"
    options: dict[str, Any] = {
        "enabled": True,
        "optional": not tls.is_required,
        "keystore": str(node.keystore),
        "keystore_password": password,
        "store_type": _store_type(node.keystore),
        "require_client_auth": tls.truststore is not None,
    }
    if tls.truststore is not None:
        options |= {"truststore": str(tls.truststore), "truststore_password": password}
    return options


def _store_type(keystore: Path) -> str:
    return "JKS" if keystore.suffix == ".jks" else "PKCS12"


def _rack_by_rack(nodes: Sequence[Node]) -> list[Node]:
    """The first of every rack, the second of every rack, and so on."""
    met: Mapping[str, list[Node]] = {node.rack: [] for node in nodes}
    order = []
    for node in nodes:
        order.append((len(met[node.rack]), node))
        met[node.rack].append(node)
    return [node for _, node in sorted(order, key=lambda one: one[0])]


def _quoted(option: str) -> str:
    """An option as a line of a file that the JVM takes arguments from."""
    if not re.search(r"[\s\"'\\#]", option):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _logging(log: Path) -> str:
    rolled = log.with_name(f"{log.name}.%i.gz")
    return f"""<configuration>
  <appender name="FILE" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>{_text(log)}</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy">
      <fileNamePattern>{_text(rolled)}</fileNamePattern>
      <minIndex>1</minIndex>
      <maxIndex>5</maxIndex>
    </rollingPolicy>
    <triggeringPolicy class="ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy">
      <maxFileSize>50MB</maxFileSize>
    </triggeringPolicy>
    <encoder>
      <pattern>{_PATTERN}</pattern>
    </encoder>
  </appender>
  <root level="INFO">
    <appender-ref ref="FILE"/>
  </root>
</configuration>
"""


def _text(path: Path) -> str:
    return quoteattr(str(path))[1:-1]
