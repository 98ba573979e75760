"""How often each value occurs in voxels, and what follows from that.

Bins are one value wide and begin at 0: bin k counts the voxels of value k. Zeros are never counted,
being background. The formulas are those of the original service (control plane 6), except that a
percentile is the upper edge of the bin that it falls into, not of the one after.
"""

import json
import math
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ndcass.errors import CorruptValue, InvalidRequest

# Types that have histograms, and how many bins those have: one a value.
BINS = {"uint8": 1 << 8, "uint16": 1 << 16}
# `binned` adds up so many bins to one.
BINNED = 10

Counts = npt.NDArray[np.int64]


def bins_of(datatype: str) -> int:
    """How many bins a histogram of a type has.

    Raises
    ------
    InvalidRequest
        If voxels of that type are not counted.
    """
    if datatype not in BINS:
        raise InvalidRequest(f"there are histograms of {' and '.join(BINS)}, not of {datatype}")
    return BINS[datatype]


def count(voxels: npt.NDArray[Any], bins: int) -> Counts:
    """How often each value below `bins` occurs, zeros left out.

    Parameters
    ----------
    voxels : ndarray of an unsigned integer type
        Of whatever shape; no value reaches `bins`.
    bins : int
    """
    counts = np.bincount(voxels.ravel(), minlength=bins).astype(np.int64, copy=False)
    counts[0] = 0
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts by value: ``counts[k]`` voxels are k."""

    counts: Counts

    @property
    def voxels(self) -> int:
        """How many were counted."""
        return int(self.counts.sum(dtype=np.int64))

    @property
    def edges(self) -> list[float]:
        """Where bins begin, and where the last one ends."""
        return [float(edge) for edge in range(len(self.counts) + 1)]

    @property
    def mean(self) -> float:
        """Mean of the bins' middles, half above the mean of the voxels; NaN of no voxels."""
        voxels = self.voxels
        return float(np.dot(self.counts, self._middles)) / voxels if voxels else math.nan

    @property
    def stddev(self) -> float:
        """Standard deviation of the bins' middles; NaN of no voxels."""
        voxels = self.voxels
        if not voxels:
            return math.nan
        return math.sqrt(float(np.dot(self.counts, (self._middles - self.mean) ** 2)) / voxels)

    @property
    def _middles(self) -> npt.NDArray[np.float64]:
        return np.arange(len(self.counts), dtype=np.float64) + 0.5

    @property
    def minimum(self) -> float:
        """The lower edge of the first bin that is not empty; 0 of no voxels."""
        filled = np.flatnonzero(self.counts)
        return float(filled[0]) if filled.size else 0.0

    @property
    def maximum(self) -> float:
        """The lower edge of the last bin that is not empty; 0 of no voxels."""
        filled = np.flatnonzero(self.counts)
        return float(filled[-1]) if filled.size else 0.0

    def percentile(self, percent: Fraction) -> float:
        """The upper edge of the bin with which `percent` of all voxels are reached.

        0 for nothing and less, and of no voxels; the last edge for 100 and more. Computed exactly:
        a share that ends with a bin never spills into the next.
        """
        if percent <= 0:
            return 0.0
        if percent >= 100:
            return float(len(self.counts))
        voxels = self.voxels
        if not voxels:
            return 0.0
        wanted = math.ceil(percent * voxels / 100)
        reached = np.cumsum(self.counts, dtype=np.int64)
        return float(np.searchsorted(reached, wanted)) + 1.0

    def binned(self) -> tuple[list[int], list[int]]:
        """Counts of `BINNED` bins together, and their edges; bins that fill no group are left out.

        The original left them out as well: of 256 bins the last six.
        """
        groups = len(self.counts) // BINNED
        sums = self.counts[: groups * BINNED].reshape(groups, BINNED).sum(axis=1, dtype=np.int64)
        return sums.tolist(), [BINNED * edge for edge in range(groups + 1)]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts as they are kept: with how far they are, `place`, and in whose name, `owner`.

    `place` is a Morton code, or -1 before the first cuboid and None when all were counted.
    """

    owner: str
    place: int | None
    cuboids: int
    counts: Counts

    def to_bytes(self) -> bytes:
        """A line of JSON, then the counts as compressed little-endian numbers of 64 bits."""
        head = {"owner": self.owner, "place": self.place, "cuboids": self.cuboids}
        counts = zlib.compress(self.counts.astype("<i8", copy=False).tobytes(), level=1)
        return json.dumps(head).encode() + b"\n" + counts

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """What `to_bytes` made; CorruptValue of anything else."""
        head, _, counts = value.partition(b"\n")
        try:
            fields = json.loads(head)
            # Twice the largest: more was not written by us.
            plain = zlib.decompressobj().decompress(counts, 16 * max(BINS.values()))
            return cls(
                owner=str(fields["owner"]),
                place=fields["place"],
                cuboids=int(fields["cuboids"]),
                counts=np.frombuffer(plain, dtype="<i8").astype(np.int64),
            )
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise CorruptValue("a stored histogram is damaged") from error
