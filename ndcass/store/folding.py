"""What an engine promises that appends writes and folds them later.

One that merges at once has nothing to do with this.
Folding is invisible to readers. With two tiers it is a drain: writes leave the fast tier for the
archive.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

# The kind of the job that folds or drains a channel.
FOLD_JOB = "fold"


@dataclass(frozen=True, slots=True)
class FoldedPart:
    """A part of a channel that was visited.

    Attributes
    ----------
    place : tuple of int
        Where to go on: a fold that is begun again behind this visits no more than is left.
    buckets, cuboids, rows, size_bytes : int
        How much was visited, and how many cuboids, writes and bytes of them were folded.
    damage : str
        Why it stays as it is: no replica has all of it whole. Empty if it was folded.
    """

    place: tuple[int, ...]
    buckets: int
    cuboids: int
    rows: int
    size_bytes: int
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Amount:
    """Some of what is stored."""

    cuboids: int = 0
    rows: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.cuboids + other.cuboids,
            self.rows + other.rows,
            self.size_bytes + other.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What of a channel is where.

    Attributes
    ----------
    has_tiers : bool
        Whether unfolded writes are in another tier than folded cuboids.
    unfolded : Amount
        Writes that are in no base.
    foldable_from_s : float
        When the last of them is old enough to be folded; seconds since 1970, 0 for none.
    folded : Amount
        Bases: one row a cuboid.
    to_sweep : Amount
        What is folded and not deleted yet; its rows include former bases.
    sweep_from_s : float
        When the last of it may be deleted, at the earliest; seconds since 1970, 0 for none.
    """

    has_tiers: bool
    unfolded: Amount
    foldable_from_s: float
    folded: Amount
    to_sweep: Amount
    sweep_from_s: float

    @property
    def is_clean(self) -> bool:
        """Whether all is folded and swept."""
        return not (self.unfolded.rows or self.to_sweep.rows)


class Folding(Protocol):
    """Turns many writes into one base, in the background and when told to."""

    async def count(self, channel_id: int) -> int:
        """How many buckets a channel has, for telling how far a fold is."""

    def fold_channel(
        self, channel_id: int, *, drain: bool, after: Sequence[int] = ()
    ) -> AsyncIterator[FoldedPart]:
        """Fold a channel, bucket by bucket, as far as its writes are old enough.

        Parameters
        ----------
        drain : bool
            Whether to fold all writes, or only cuboids that have more than a few.
        after : sequence of int
            The place of a part that was visited before.
        """

    async def whereabouts(self, channel_id: int) -> Whereabouts:
        """What of a channel is where."""

    async def step(self) -> None:
        """Some of what is due in the background, bounded in time."""


@runtime_checkable
class HasFolding(Protocol):
    """The stores of an engine that folds."""

    @property
    def folding(self) -> Folding: ...
