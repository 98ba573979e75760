"""Where the tables are, and the times that the promises of the store hang on.

With two tiers writes land in ``ingest`` (solid state) and are drained to ``archive`` (disk arrays),
each a keyspace in one data centre; with one tier both are the same. Names, objects and occupancy
are in ``meta``, the keyspace of the archive.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ndcass.errors import ConfigError


class Tier(NamedTuple):
    """A keyspace and the one data centre that it lives in."""

    keyspace: str
    data_centre: str


@dataclass(frozen=True, slots=True)
class Tiers:
    """The tiers of one store."""

    ingest: Tier
    archive: Tier

    @property
    def meta(self) -> Tier:
        """Where everything is that is no voxel."""
        return self.archive

    @property
    def is_single(self) -> bool:
        return self.ingest == self.archive


@dataclass(frozen=True, slots=True)
class Windows:
    """See ``docs/architecture.md``, "Time".

    Attributes
    ----------
    max_clock_skew_ms : int
        How far apart the clocks of two gateways may be.
    write_window_s : float
        A write is neither acknowledged nor sent again later than this after it took its id.
    read_window_s : float
        A read of headers, with all its pages, ends within this or starts over.
    """

    max_clock_skew_ms: int = 10
    write_window_s: float = 30.0
    read_window_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_clock_skew_ms < 0 or self.write_window_s <= 0 or self.read_window_s <= 0:
            raise ConfigError("the windows of the store must be above 0")
