"""Datasets, projects, tokens, channels and users: frozen, checked when built.

What lives here: the fields of control plane 1, their defaults and which values they may have. What
does not: who may do what (``server/access.py``) and where they are kept (``store``).
Field names are those of the wire, because clients read and write them as they are.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ndcass.errors import InvalidRequest
from ndcass.geometry import MAX_SCALING_LEVELS, Geometry, Level, level_of

MAX_NAME = 255
MAX_DESCRIPTION = 4096
MAX_HEADER = 8192
MAX_INT = (1 << 63) - 1

ND_VERSION = "1.2.0"
SCHEMA_VERSION = "1.1.0"

# Tokens and channels stand in voxel URLs, which know no hyphen; datasets and projects do not.
WORD = re.compile(r"[A-Za-z0-9_]{1,255}\Z")
NAME = re.compile(r"[A-Za-z0-9_-]{1,255}\Z")

RESERVED_TOKENS = frozenset({"public_tokens", "public_datasets", "autoIngest", "catmaid"})
# Service words at the place of a channel in a URL (control plane 1.7), and the zero plane `0`.
RESERVED_CHANNELS = frozenset(
    "default info projinfo csv exceptions createChannel deleteChannel nii xy xz yz xyanno xzanno "
    "yzanno tiff hdf5 blosc blaze jpeg npz raw zip diff id ids 0".split()
)

IMAGE = "image"
ANNOTATION = "annotation"
TIMESERIES = "timeseries"
# Older spellings that clients still send, and what they mean.
CHANNEL_TYPE_ALIASES = {"oldchannel": IMAGE, "probmap": IMAGE}
DATATYPE_ALIASES = {"rgb32": "uint32", "rgba": "uint32"}

IMAGE_DATATYPES = frozenset(
    "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float32 float64".split()
)
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in IMAGE_DATATYPES}
ANNOTATION_DATATYPES = frozenset({"uint32", "uint64"})
# How a level of the pyramid is made of the one below: the original's rules, or for images the mean
# of all voxels, for labels the most frequent one.
DEFAULT_DOWNSAMPLING = "default"
DOWNSAMPLINGS = {IMAGE: "mean", TIMESERIES: "mean", ANNOTATION: "mode"}
# States of a pyramid (control plane 5.2).
NOT_PROPAGATED, UNDER_PROPAGATION, PROPAGATED = 0, 1, 2

KV_ENGINES = frozenset({"MySQL", "Redis", "Cassandra", "Embedded"})


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may own things and have API keys."""

    id: int
    name: str
    superuser: bool = False


@dataclass(frozen=True, slots=True)
class Resource:
    """What dataset, project, token and channel share: how they come from and go to JSON."""

    NAME_FIELD: ClassVar[str] = ""
    # Set by the server, never taken from a client.
    SERVER_FIELDS: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        return str(getattr(self, self.NAME_FIELD))

    @classmethod
    def from_json(cls, body: Mapping[str, Any], **server_fields: Any) -> Self:
        """A new resource from what a client posted; `Any` is whatever JSON holds.

        Raises
        ------
        InvalidRequest
            If a key is unknown or missing, or a value has the wrong type or makes no sense.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        allowed = sorted(set(known) - cls.SERVER_FIELDS)
        _refuse_unknown(body, allowed)
        required = {
            name
            for name, field in known.items()
            if field.default is dataclasses.MISSING and name not in cls.SERVER_FIELDS
        }
        missing = sorted(required - set(body))
        if missing:
            raise InvalidRequest(f"missing: {', '.join(missing)}")
        made = cls(**{**body, **server_fields})
        made.check_sent()
        return made

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """This resource with some fields changed by a client, checked as a new one is.

        Raises
        ------
        InvalidRequest
            If a key is unknown or the name would change.
        """
        allowed = sorted({f.name for f in dataclasses.fields(self)} - self.SERVER_FIELDS)
        _refuse_unknown(changes, allowed)
        if changes.get(self.NAME_FIELD, self.name) != self.name:
            raise InvalidRequest(f"{self.NAME_FIELD} cannot change")
        changed = dataclasses.replace(self, **changes)
        changed.check_sent()
        return changed

    def check_sent(self) -> None:
        """Refuse what a client may not ask for although a store may hold it: InvalidRequest."""

    def to_json(self) -> dict[str, Any]:
        """The fields as the wire has them; `Any` is what JSON can hold."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True)
class Dataset(Resource):
    """A coordinate space: its size, offset, voxel size and resolution levels."""

    NAME_FIELD: ClassVar[str] = "dataset_name"
    SERVER_FIELDS: ClassVar[frozenset[str]] = frozenset({"user"})

    dataset_name: str
    ximagesize: int
    yimagesize: int
    zimagesize: int
    user: int
    dataset_description: str = ""
    public: int = 0
    xoffset: int = 0
    yoffset: int = 0
    zoffset: int = 0
    xvoxelres: float = 1.0
    yvoxelres: float = 1.0
    zvoxelres: float = 1.0
    scalingoption: int = 0
    scalinglevels: int = 0

    def __post_init__(self) -> None:
        _name(self, NAME)
        _text(self, "dataset_description", MAX_DESCRIPTION)
        for axis in "xyz":
            _integer(self, f"{axis}imagesize", 1, MAX_INT)
            _integer(self, f"{axis}offset", 0, MAX_INT)
            _positive(self, f"{axis}voxelres")
        _integer(self, "public", 0, 1)
        _integer(self, "scalingoption", 0, 1)
        _integer(self, "scalinglevels", 0, MAX_SCALING_LEVELS)

    @property
    def geometry(self) -> Geometry:
        return Geometry(
            size_zyx=(self.zimagesize, self.yimagesize, self.ximagesize),
            offset_zyx=(self.zoffset, self.yoffset, self.xoffset),
            voxelres_zyx=(self.zvoxelres, self.yvoxelres, self.xvoxelres),
            isotropic=self.scalingoption == 1,
            scaling_levels=self.scalinglevels,
        )

    def level(self, level: int) -> Level:
        """The derived values of one resolution level; OutOfBounds if there is none."""
        return level_of(self.geometry, level)


@dataclass(frozen=True, slots=True)
class Project(Resource):
    """The channels over one dataset. All fields of engines and hosts are labels that are echoed."""

    NAME_FIELD: ClassVar[str] = "project_name"
    SERVER_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"user", "dataset", "nd_version", "schema_version"}
    )

    project_name: str
    user: int
    dataset: str
    project_description: str = ""
    public: int = 0
    host: str = "localhost"
    kvengine: str = "MySQL"
    kvserver: str = "localhost"
    mdengine: str = "MySQL"
    s3backend: int = 1
    nd_version: str = ND_VERSION
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _name(self, NAME)
        _text(self, "project_description", MAX_DESCRIPTION)
        for field in ("host", "kvserver", "mdengine"):
            _text(self, field, MAX_NAME)
        _one_of(self, "kvengine", KV_ENGINES)
        _integer(self, "public", 0, 1)
        _integer(self, "s3backend", 0, 1)


@dataclass(frozen=True, slots=True)
class Token(Resource):
    """The name clients use to reach a project, with its own owner and public flag."""

    NAME_FIELD: ClassVar[str] = "token_name"
    SERVER_FIELDS: ClassVar[frozenset[str]] = frozenset({"user", "project"})

    token_name: str
    user: int
    project: str
    token_description: str = ""
    public: int = 0

    def __post_init__(self) -> None:
        _name(self, WORD)
        if self.token_name in RESERVED_TOKENS:
            raise InvalidRequest(f"token_name {self.token_name} is the name of a service")
        _text(self, "token_description", MAX_DESCRIPTION)
        _integer(self, "public", 0, 1)


@dataclass(frozen=True, slots=True)
class Channel(Resource):
    """One array of a project: a 4-D volume of one type at several resolution levels."""

    NAME_FIELD: ClassVar[str] = "channel_name"
    SERVER_FIELDS: ClassVar[frozenset[str]] = frozenset({"id", "project"})

    id: int
    project: str
    channel_name: str
    channel_type: str
    channel_datatype: str
    channel_description: str = ""
    resolution: int = 0
    propagate: int = 0
    readonly: int = 0
    exceptions: int = 0
    starttime: int = 0
    endtime: int = 1
    startwindow: int = 0
    endwindow: int = 0
    default: bool = False
    header: str = ""
    downsampling: str = DEFAULT_DOWNSAMPLING

    def __post_init__(self) -> None:
        _name(self, WORD)
        if self.channel_name in RESERVED_CHANNELS:
            raise InvalidRequest(f"channel_name {self.channel_name} is the name of a service")
        _text(self, "channel_description", MAX_DESCRIPTION)
        _text(self, "header", MAX_HEADER)
        self._check_type()
        _integer(self, "resolution", 0, MAX_SCALING_LEVELS)
        _integer(self, "propagate", 0, 2)
        for flag in ("readonly", "exceptions"):
            _integer(self, flag, 0, 1)
        for field in ("starttime", "endtime"):
            _integer(self, field, 0, MAX_INT)
        for field in ("startwindow", "endwindow"):
            _integer(self, field, -MAX_INT, MAX_INT)
        if self.default in (0, 1):
            object.__setattr__(self, "default", bool(self.default))
        if not isinstance(self.default, bool):
            raise InvalidRequest("default must be true or false")

    def _check_type(self) -> None:
        for field, aliases in (
            ("channel_type", CHANNEL_TYPE_ALIASES),
            ("channel_datatype", DATATYPE_ALIASES),
        ):
            value = getattr(self, field)
            if isinstance(value, str) and value in aliases:
                object.__setattr__(self, field, aliases[value])
        types = (IMAGE, ANNOTATION, TIMESERIES)
        if self.channel_type not in types:
            raise InvalidRequest(f"channel_type must be one of {', '.join(types)}")
        annotation = self.channel_type == ANNOTATION
        allowed = ANNOTATION_DATATYPES if annotation else IMAGE_DATATYPES
        _one_of(self, "channel_datatype", allowed, of=f" of {self.channel_type} channels")
        ways = frozenset({DEFAULT_DOWNSAMPLING, DOWNSAMPLINGS[self.channel_type]})
        _one_of(self, "downsampling", ways, of=f" of {self.channel_type} channels")

    def check_sent(self) -> None:
        """Refuse ranges that end before they start, unless the end is what it is by itself."""
        for what, unset in (("time", (0, 1)), ("window", (0,))):
            start, end = getattr(self, f"start{what}"), getattr(self, f"end{what}")
            if end < start and end not in unset:
                raise InvalidRequest(f"end{what} is {end}, before start{what}, which is {start}")

    def to_json(self) -> dict[str, Any]:
        """As `Resource.to_json`; clients of the original never see what is ours alone."""
        fields = Resource.to_json(self)  # a class with slots is made anew: super() fails
        if self.downsampling == DEFAULT_DOWNSAMPLING:
            del fields["downsampling"]
        return fields

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's type of a voxel, little-endian; which one is only known at run time."""
        return _DTYPES[self.channel_datatype]

    @property
    def is_annotation(self) -> bool:
        return self.channel_type == ANNOTATION

    @property
    def time_range(self) -> tuple[int, int]:
        """The half-open range of timesteps; one timestep where the stored range is empty."""
        return (self.starttime, max(self.endtime, self.starttime + 1))


@dataclass(frozen=True, slots=True)
class TokenView:
    """All that a token leads to, as one consistent picture."""

    token: Token
    project: Project
    dataset: Dataset
    channels: tuple[Channel, ...]
    # By name and by number; kept, for every request asks for one of each.
    _by_name: dict[str, Channel] = dataclasses.field(init=False, repr=False, compare=False)
    _levels: dict[int, Level] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {channel.channel_name: channel for channel in self.channels}
        default = next((channel for channel in self.channels if channel.default), None)
        if default is not None:
            by_name["default"] = default  # no channel may have that name
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_levels", {})

    def channel(self, name: str) -> Channel | None:
        """The channel of that name; ``default`` means the one flagged default."""
        return self._by_name.get(name)

    def level(self, level: int) -> Level:
        """The derived values of one resolution level; OutOfBounds if there is none."""
        found = self._levels.get(level)
        if found is None:
            found = self._levels[level] = self.dataset.level(level)
        return found


def _refuse_unknown(body: Mapping[str, Any], allowed: list[str]) -> None:
    unknown = sorted(str(key)[:80] for key in set(body) - set(allowed))
    if unknown:
        raise InvalidRequest(f"unknown: {', '.join(unknown)}; known are {', '.join(allowed)}")


def _name(resource: Resource, pattern: re.Pattern[str]) -> None:
    name = getattr(resource, resource.NAME_FIELD)
    if not isinstance(name, str) or not pattern.match(name):
        raise InvalidRequest(
            f"{resource.NAME_FIELD} must be 1 to {MAX_NAME} letters, digits, underscores"
            + (", hyphens" if pattern is NAME else "")
        )


def _text(resource: Resource, field: str, limit: int) -> None:
    value = getattr(resource, field)
    if not isinstance(value, str) or len(value) > limit:
        raise InvalidRequest(f"{field} must be text of at most {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can say half of a surrogate pair
        raise InvalidRequest(f"{field} is no valid Unicode text") from error


def _one_of(resource: Resource, field: str, allowed: frozenset[str], of: str = "") -> None:
    value = getattr(resource, field)
    if not isinstance(value, str) or value not in allowed:  # a list has no hash to look up
        raise InvalidRequest(f"{field}{of} must be one of {', '.join(sorted(allowed))}")


def _integer(resource: Resource, field: str, low: int, high: int) -> None:
    """Check an integer; JSON's true and false and whole floats count, as clients send them."""
    value = getattr(resource, field)
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
        object.__setattr__(resource, field, value)
    if not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{field} must be an integer from {low} to {high}")


def _positive(resource: Resource, field: str) -> None:
    value = getattr(resource, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{field} must be a number above 0")
    value = float(value)
    if not math.isfinite(value) or value <= 0:
        raise InvalidRequest(f"{field} must be a number above 0")
    object.__setattr__(resource, field, value)
