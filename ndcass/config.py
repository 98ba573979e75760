"""Settings: what they are called, which values they may have, and reading them from a file.

`load` reads the one YAML file it is given and the secrets in the mapping it is given; no other
module reads either. Defaults stand here and, with their reasons, in ``conf/default.yaml``; a test
keeps the two equal. Nothing changes a setting at run time.
"""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ndcass.errors import ConfigError

S = TypeVar("S")

MIB = 1 << 20
GIB = 1 << 30

ENGINES = ("embedded", "cassandra")
LOG_LEVELS = ("debug", "info", "warning", "error")
ADMIN_TOKEN = "NDCASS_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
CASSANDRA_PASSWORD = "NDCASS_CASSANDRA_PASSWORD"  # noqa: S105 - the name of a variable
MAX_PORT = 65535
MAX_WORKERS = 256
# As `keys.new_key` makes them; a short one could be guessed.
_KEY = re.compile(r"[0-9A-Fa-f]{40}")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The gateway: where it listens and what a request may take. See ``conf/README.md``."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 0
    request_timeout_s: float = 60.0
    transfer_timeout_s: float = 3600.0
    send_timeout_s: float = 60.0
    receive_timeout_s: float = 60.0
    keepalive_timeout_s: float = 75.0
    shutdown_grace_s: float = 30.0
    max_body_bytes: int = 2 * GIB
    max_cutout_bytes: int = 4 * GIB
    max_whole_bytes: int = GIB
    max_slice_bytes: int = 256 * MIB
    max_source_bytes: int = 4 * GIB
    max_url_bytes: int = 64 << 10
    max_header_bytes: int = 16 << 10
    memory_bytes: int = 4 * GIB

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            if setting.name.endswith(("_s", "_bytes")):
                _positive(f"server.{setting.name}", getattr(self, setting.name))
        for name, most in (("port", MAX_PORT), ("workers", MAX_WORKERS)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"server.{name} must be from 0 to {most}")
        if not self.host:
            raise ConfigError("server.host must not be empty")


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may write to public tokens without a key."""

    public_write: bool = False
    public_write_channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.public_write_channels:
            token, slash, channel = name.partition("/")
            if not (token and slash and channel) or "/" in channel:
                raise ConfigError(f"access.public_write_channels: {name!r} is not TOKEN/CHANNEL")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where volumes are kept."""

    engine: str = "embedded"
    folder: str = "data"
    maintain_interval_s: float = 30.0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(
                f"store.engine {self.engine!r} is unknown; known are {', '.join(ENGINES)}"
            )
        if not self.folder:
            raise ConfigError("store.folder must not be empty")
        _positive("store.maintain_interval_s", self.maintain_interval_s)


_KEYSPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CHOSEN = -1
_MOST_BUCKET_BITS = 8
_PROTOCOLS = (4, 5)


@dataclass(frozen=True, slots=True)
class CassandraSettings:
    """How the engine on Cassandra reaches its cluster, and what it promises itself.

    With an `ingest_keyspace` there are two tiers: writes land there and are drained to the archive.
    """

    contact_points: tuple[str, ...] = ("127.0.0.1",)
    port: int = 9042
    username: str = ""
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_check_names: bool = True
    archive_keyspace: str = "ndcass"
    archive_data_centre: str = "local"
    archive_replicas: int = 3
    ingest_keyspace: str = ""
    ingest_data_centre: str = ""
    ingest_replicas: int = 3
    protocol_version: int = 4
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 20.0
    hedge_after_s: float = 2.0
    bytes_in_flight: int = 8 * MIB
    max_clock_skew_ms: int = 10
    write_window_s: float = 30.0
    read_window_s: float = 60.0
    bucket_bits: int = _CHOSEN
    fold_rows: int = 4
    drain_after_s: float = 300.0
    fold_bytes_per_s: int = 64 * MIB
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            if setting.name.endswith(("_s", "_replicas", "_rows", "_in_flight")):
                _positive(f"cassandra.{setting.name}", getattr(self, setting.name))
        if not self.contact_points or not all(self.contact_points):
            raise ConfigError("cassandra.contact_points must name at least one node")
        if not 1 <= self.port <= MAX_PORT:
            raise ConfigError(f"cassandra.port must be from 1 to {MAX_PORT}")
        self._check_tiers()
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            raise ConfigError(
                "cassandra.tls_certificate_file and cassandra.tls_key_file belong together"
            )
        if self.protocol_version not in _PROTOCOLS:
            raise ConfigError("cassandra.protocol_version must be 4 or 5")
        if self.max_clock_skew_ms < 0:
            raise ConfigError("cassandra.max_clock_skew_ms must be at least 0")
        if self.request_timeout_s > self.write_window_s:
            raise ConfigError(
                "cassandra.request_timeout_s must not be above cassandra.write_window_s: a write "
                "that is still being sent after its window could be lost to a fold"
            )
        if not _CHOSEN <= self.bucket_bits <= _MOST_BUCKET_BITS:
            raise ConfigError(
                f"cassandra.bucket_bits must be from 0 to {_MOST_BUCKET_BITS}, or {_CHOSEN} to "
                "have it chosen"
            )

    def _check_tiers(self) -> None:
        for name in ("archive_keyspace", "ingest_keyspace"):
            keyspace = getattr(self, name)
            if not _KEYSPACE.fullmatch(keyspace) and (name == "archive_keyspace" or keyspace):
                raise ConfigError(f"cassandra.{name} {keyspace!r} is no name of a keyspace")
        if not self.archive_data_centre:
            raise ConfigError("cassandra.archive_data_centre must not be empty")
        if bool(self.ingest_keyspace) != bool(self.ingest_data_centre):
            raise ConfigError(
                "cassandra.ingest_keyspace and cassandra.ingest_data_centre belong together"
            )
        if self.ingest_keyspace == self.archive_keyspace:
            raise ConfigError(
                "the two tiers must not share a keyspace; with one tier leave "
                "cassandra.ingest_keyspace empty"
            )


_SERVER_URL = re.compile(r"https?://[^/?#\s]+(?:/[^?#\s]*)?")


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """Whom pictures have to do with beside this server."""

    own_names: tuple[str, ...] = ()
    overlay_servers: tuple[str, ...] = ()
    viz_server: str = "http://viz.neurodata.io"

    def __post_init__(self) -> None:
        for name in self.own_names:
            if not name or "/" in name:
                raise ConfigError(f"pictures.own_names: {name!r} is no host or host:port")
        for url in (*self.overlay_servers, self.viz_server):
            if not _SERVER_URL.fullmatch(url):
                raise ConfigError(f"pictures: {url!r} is no http or https address of a server")


@dataclass(frozen=True, slots=True)
class TileCacheSettings:
    """Where slices and tiles are kept that were drawn before, and how many bytes of them."""

    max_bytes: int = GIB
    folder: str = ""

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ConfigError("tile_cache.max_bytes must be at least 0; 0 keeps nothing")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What goes to standard error."""

    level: str = "info"
    access: bool = True

    def __post_init__(self) -> None:
        if self.level not in LOG_LEVELS:
            raise ConfigError(
                f"log.level {self.level!r} is unknown; known are {', '.join(LOG_LEVELS)}"
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `admin_token` is a secret: it comes from the environment and is never shown."""

    server: ServerSettings = field(default_factory=ServerSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    cassandra: CassandraSettings = field(default_factory=CassandraSettings)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    tile_cache: TileCacheSettings = field(default_factory=TileCacheSettings)
    log: LogSettings = field(default_factory=LogSettings)
    admin_token: str | None = field(default=None, repr=False)


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from a file, with secrets from the environment.

    Parameters
    ----------
    path : Path or None
        A YAML file; None takes the defaults.
    environ : mapping
        Where the secrets are, by the names that ``conf/README.md`` lists.
    overrides : mapping, optional
        Settings that win over the file, by dotted name (``server.port``); a value of None counts as
        not given. `Any` is what a setting may hold.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a setting is unknown, has the wrong type or makes no sense.
    """
    sections = _read(path) if path is not None else {}
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, setting = name.partition(".")
            sections.setdefault(section, {})[setting] = value
    known = {f.name: f for f in dataclasses.fields(Settings) if f.name != "admin_token"}
    _refuse_unknown(sections, known, "")
    _refuse_secrets(sections.get("cassandra", {}))
    types = typing.get_type_hints(Settings)
    built = {name: _build(types[name], value, name) for name, value in sections.items()}
    password = environ.get(CASSANDRA_PASSWORD, "")
    if password:
        base = built.get("cassandra", CassandraSettings())
        built["cassandra"] = dataclasses.replace(base, password=password)
    return Settings(**built, admin_token=_admin_token(environ))


def _refuse_secrets(cassandra: Mapping[str, Any]) -> None:
    """A password in a file of settings would end up where such files do; `Any`: as YAML has it."""
    if "password" in cassandra:
        raise ConfigError(f"cassandra.password is a secret: it comes from {CASSANDRA_PASSWORD}")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a file; `Any` is whatever YAML holds."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {str(error).replace(chr(10), ' ')}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold sections with settings, as conf/default.yaml does")
    sections: dict[str, dict[str, Any]] = {}
    for name, section in content.items():
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{name} must hold settings, as conf/default.yaml shows")
        sections[str(name)] = dict(section or {})
    return sections


def _build(kind: type[S], values: Mapping[str, Any], section: str) -> S:
    """One section from what the file holds; `Any` is whatever YAML holds."""
    types = typing.get_type_hints(kind)
    _refuse_unknown(values, types, f"{section}.")
    return kind(**{name: _typed(values[name], types[name], f"{section}.{name}") for name in values})


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for name in given:
        if name in known:
            continue
        nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else "."
        names = ", ".join(f"{prefix}{known_name}" for known_name in sorted(known))
        raise ConfigError(f"unknown setting {prefix}{name}{hint} Known are {names}")


def _typed(value: Any, kind: Any, name: str) -> Any:
    """`value` as the type of the setting, without guessing; `Any` is whatever YAML holds."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if kind == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{name} must be a list of texts, not {value!r}")
        return tuple(value)
    if not isinstance(value, kind):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ConfigError(f"{name} must be {words[kind]}, not {value!r}")
    return value


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be above 0")


def _admin_token(environ: Mapping[str, str]) -> str | None:
    token = environ.get(ADMIN_TOKEN) or None
    if token is None:
        return None
    if not _KEY.fullmatch(token):
        raise ConfigError(f"{ADMIN_TOKEN} must be 40 hexadecimal digits, as all API keys are")
    return token
