"""What a store promises: the protocols that every engine keeps.

Seven of them: `CuboidStore` (voxels), `StaleMarks` (what of the pyramids is old), `Catalog`
(names), `Jobs` (background work), `ObjectStore` and `LabelIndex` (annotations), `SideRecords` (what
else belongs to a channel); `Stores` holds one of each. ``tests/store_contract.py`` is the same
promise as tests, run on every engine.

What every engine promises
--------------------------
- *Absent is not failed.* A cuboid that was never written is missing from an answer; one that cannot
  be read raises a `StoreError`. Nothing turns a failure into a gap.
- *Durable when acknowledged.* When a write returns, a crash of any process or of the machine
  (embedded) or of a minority of nodes (Cassandra) does not lose it.
- *No lost update.* A cuboid is the merge of all its acknowledged writes in the order of their ids,
  from however many processes and whatever boxes they covered.
- *Seen when acknowledged.* Whoever begins to read after that has the write. One that is still under
  way is met whole or not at all, and on Cassandra by one reader and not by the next.
- *Nothing is read before a write.* Writers hand over what they want merged; whether an engine
  merges at once (embedded) or when reading (Cassandra) is its own affair.
"""

import dataclasses
import enum
from collections.abc import AsyncIterator, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from ndcass.bell import Bell
from ndcass.geometry import Zyx
from ndcass.merge import CuboidRow, WriteOp
from ndcass.model import Channel, Dataset, Project, Token, TokenView, User

PLAIN = 0
NEARISO = 1

# A digest of this length meets another by chance in no lifetime.
VERSIONS_BYTES = 16

# The kind of the job that removes what a deleted channel leaves behind.
DELETE_JOB = "delete"
# The job that rebuilds what an edit made old: one comes with nearly every edit, and once it went
# well nobody asks for it, so it is forgotten sooner than others.
REFRESH_JOB = "refresh"
KEEP_REFRESHED_S = 600.0
# How long a claimed id waits for its object: longer than any request may take.
CLAIM_S = 900.0
# The greatest id that a voxel of an annotation channel can hold.
MAX_OBJECT_ID = (1 << 64) - 1
# How long the voxels of an entry of the label index may be under way where no setting says so. No
# write takes longer unless its process is held up, and then it appends its entries again.
LABEL_WINDOW_S = 30.0
# What a side record is at most, by its kind and key and by its value.
MAX_RECORD_NAME = 200
MAX_RECORD_BYTES = 1 << 20
MOST_RECORD_KEYS = 10_000


class CuboidAddress(NamedTuple):
    """Where a cuboid is: ordered, so that a channel's cuboids sort along the Morton curve."""

    channel_id: int
    pyramid: int
    level: int
    t: int
    morton: int

    def __str__(self) -> str:
        pyramid = " neariso" if self.pyramid == NEARISO else ""
        return (
            f"channel {self.channel_id}{pyramid} level {self.level} timestep {self.t} "
            f"morton {self.morton}"
        )


@dataclass(frozen=True, slots=True)
class CuboidWrite:
    """Voxels to merge into one cuboid.

    Attributes
    ----------
    address : CuboidAddress
    op : WriteOp
        How the voxels meet what is stored.
    cuboid_zyx : tuple of int
        Shape of the whole cuboid.
    corner_zyx : tuple of int
        Where in the cuboid the voxels begin.
    voxels : ndarray, order z, y, x
        Little-endian, of the channel's type; not necessarily contiguous. The store reads it before
        ``CuboidBatch.add`` returns and does not keep it.
    keeps_exceptions : bool
        Whether the channel may hold exceptions, which outlive a merge.
    """

    address: CuboidAddress
    op: WriteOp
    cuboid_zyx: Zyx
    corner_zyx: Zyx
    voxels: npt.NDArray[Any]  # which type is only known at run time
    keeps_exceptions: bool = False

    def with_voxels(self, voxels: npt.NDArray[Any], corner_zyx: Zyx | None = None) -> Self:
        """The same write of other voxels, and from another corner on where one is given.

        ``dataclasses.replace`` takes five times as long, for every cuboid.
        """
        corner = self.corner_zyx if corner_zyx is None else corner_zyx
        return type(self)(
            self.address, self.op, self.cuboid_zyx, corner, voxels, self.keeps_exceptions
        )

    def in_one_piece(self) -> Self:
        """The same write with contiguous voxels, copied if they are not.

        What is done with them (which labels, any zero, do they compress, checksums) goes over them
        several times, and is several times as fast over memory that lies together.
        """
        if self.voxels.flags.c_contiguous:
            return self
        return self.with_voxels(np.ascontiguousarray(self.voxels))


StoredCuboid = tuple[CuboidAddress, Sequence[CuboidRow]]


class CuboidBatch(Protocol):
    """One write of many cuboids, handed over piece by piece.

    Used as ``async with store.batch() as batch``. Readers see none of it before `commit`; leaving
    the block without one gives it up and changes nothing. After `commit` returned, all of it is
    durable. A commit that raised is indeterminate cuboid by cuboid (embedded: all or nothing).
    """

    async def add(self, writes: Sequence[CuboidWrite]) -> None:
        """Take some cuboids; blocks no event loop; bounded in memory whatever the batch's size.

        Calls for different cuboids may overlap.
        """

    def mark_stale(self, addresses: Collection[CuboidAddress]) -> None:
        """Mark cuboids that derive from what this batch writes, with its commit; see `StaleMarks`.

        Nobody sees the voxels without the marks.
        """

    async def commit(self) -> None:
        """Make it durable and visible. `StoreFull` if the space does not suffice."""

    async def strand(self) -> None:
        """After a commit into a channel that is gone: have `Stores.maintain` find what it left."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class CuboidStore(Protocol):
    """Cuboids by address."""

    def batch(self) -> CuboidBatch:
        """A new write."""

    def read(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """The stored ones of some cuboids, in any order, a few at a time.

        Rows of one cuboid come together, in the order of their ids. Absent cuboids do not come at
        all. Payloads are read-only views, valid as long as somebody holds them; decoding them may
        block on a disk, so it belongs in `run_cpu`.
        """

    def reread(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `read`, after a payload of one of them turned out to be damaged.

        A store with replicas checks every byte and takes another replica's payload for a damaged
        one; CorruptValue if none has it whole. One without reads again.
        """

    def read_now(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid] | None:
        """As `read`, where neither this nor decoding the payloads would block; None elsewhere."""

    def scan(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: CuboidAddress | None = None,
    ) -> AsyncIterator[Sequence[CuboidAddress]]:
        """Addresses of all stored cuboids of a channel (or one of its levels), in order, in pages.

        Cuboids that come or go meanwhile may or may not be met. `after` resumes behind an address.
        """

    async def versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """A digest of what is stored of some cuboids, without looking at their voxels.

        While it is the same, so is what `read` gives of them. Every acknowledged write that changed
        one of them changes it; housekeeping may. Quick enough to be asked before each read.
        """

    async def verify(
        self, addresses: Sequence[CuboidAddress]
    ) -> Sequence[tuple[CuboidAddress, str]]:
        """Read whole values and check every checksum; the damaged ones, each with what is wrong."""

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every cuboid of a channel; how many there were. May be run again."""


# What an engine knows a mark by; only the engine that made one can read it.
MarkId = Any


class StaleMark(NamedTuple):
    """A derived cuboid that is older than what it derives from, and what says so."""

    address: CuboidAddress
    mark: MarkId


class StaleMarks(Protocol):
    """Which derived cuboids are older than their sources.

    A write marks all that derives from it (`CuboidBatch.mark_stale`), so that a cuboid without a
    mark is as new as every acknowledged write. Whoever rebuilds one clears the marks that were
    there *before* the sources were read, and only those: a write that came meanwhile leaves its
    own. So any number may rebuild at once, and die anywhere.
    """

    @property
    def bell(self) -> Bell[int]:
        """Rung with a channel's id when this process marked something in it."""

    async def mark(self, addresses: Collection[CuboidAddress]) -> None:
        """Mark some cuboids; durable when it returns."""

    async def marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        """The stale ones of some cuboids; exact for every write acknowledged before."""

    def scan(
        self, channel_id: int, *, pyramid: int, level: int
    ) -> AsyncIterator[Sequence[StaleMark]]:
        """The marks of a level that may be cleared now, in the order of their cuboids, in pages."""

    async def counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        """How many cuboids are stale, by (pyramid, level), where there are any."""

    async def channels(self) -> Sequence[int]:
        """Every channel that has marks, ascending."""

    def derivation(self, marks: Sequence[StaleMark]) -> CuboidBatch:
        """A write of what is derived, begun after `marks` were read and before the sources are.

        Its commit clears those marks. It drops the write of a cuboid whose mark is gone: somebody
        else rebuilt it, from sources that are as new.
        """

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every mark of a channel; how many there were."""


class JobState(enum.StrEnum):
    """The words that clients of the original see (control plane 12 #27)."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class Job:
    """Background work on one channel.

    `done_units` of `total_units` are finished (0 of 0: not yet known); `detail` is what the job
    needs to go on after a crash, JSON-able; `error` says why it failed or, as long as it has not
    ended, why it was put off last.
    """

    id: str
    kind: str
    channel_id: int
    detail: Mapping[str, Any]
    state: JobState
    done_units: int
    total_units: int
    error: str
    created_s: float


class Jobs(Protocol):
    """Background work, claimed with a lease by any worker of any gateway."""

    @property
    def bell(self) -> Bell[str]:
        """Rung with the kind of a job when this process submitted one."""

    async def submit(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """A new job, PENDING."""

    async def submit_once(self, kind: str, channel_id: int) -> Job:
        """The PENDING job of this kind for a channel, or a new one; now and then one too many."""

    async def claim(self, kinds: Sequence[str], *, owner: str, lease_s: float) -> Job | None:
        """Take the oldest job of these kinds that is PENDING, or STARTED with a lease run out."""

    async def heartbeat(
        self,
        job_id: str,
        *,
        owner: str,
        lease_s: float,
        done_units: int,
        total_units: int,
        detail: Mapping[str, Any],
    ) -> bool:
        """Prolong the lease and note progress; False if the job is no longer this owner's."""

    async def put_off(self, job_id: str, *, owner: str, reason: str) -> bool:
        """Note why the job is left until its lease runs out; False if it is not this owner's.

        The reason stays until the job ends.
        """

    async def finish(self, job_id: str, *, owner: str, error: str = "") -> bool:
        """End as SUCCESS, or FAILURE with an error; False if it is no longer this owner's."""

    async def cancel(self, job_id: str) -> bool:
        """REVOKED, if it had not ended; its worker notices at the next heartbeat.

        Why it was put off is forgotten.
        """

    async def job(self, job_id: str) -> Job:
        """One job; NotFound."""

    async def jobs(self, *, channel_id: int | None = None) -> Sequence[Job]:
        """All jobs or those of a channel, newest first, at most 1000."""


class Catalog(Protocol):
    """Names: datasets, projects, channels, tokens, users and their API keys.

    Every change is one transaction; a change that raises changed nothing. Names are unique:
    dataset, project and token in the whole store, channels in their project.
    """

    # -- datasets, projects, channels, tokens
    async def create_dataset(self, dataset: Dataset) -> None:
        """AlreadyExists if the name is taken."""

    async def dataset(self, name: str) -> Dataset:
        """NotFound if there is none."""

    async def datasets(self) -> Sequence[Dataset]:
        """All, by name."""

    async def update_dataset(
        self, dataset: Dataset, *, expected: Dataset | None = None, new_channel_ids: bool = False
    ) -> None:
        """Replace the one of that name; NotFound.

        With `expected` only if that is what is stored, else Conflict: so two who change different
        fields do not undo each other. The other updates likewise. With `new_channel_ids` all
        channels of all its projects get another id, see `update_channel`.
        """

    async def delete_dataset(self, name: str) -> None:
        """With its projects, tokens and channels; NotFound. See `delete_channel`."""

    async def create_project(self, project: Project) -> None:
        """NotFound if its dataset is missing, AlreadyExists if the name is taken."""

    async def project(self, name: str) -> Project: ...

    async def projects(self, dataset: str | None = None) -> Sequence[Project]: ...

    async def update_project(
        self, project: Project, *, expected: Project | None = None
    ) -> None: ...

    async def delete_project(self, name: str) -> None: ...

    async def create_channel(self, channel: Channel) -> Channel:
        """As stored, with its id: one never used before. A new default unflags the former one.

        NotFound if the project is missing, AlreadyExists if the name is taken.
        """

    async def channel(self, project: str, name: str) -> Channel: ...

    async def channels(self, project: str) -> Sequence[Channel]: ...

    async def update_channel(
        self, channel: Channel, *, expected: Channel | None = None, new_id: bool = False
    ) -> Channel:
        """Replace the one of that id; as stored. A new default unflags the former one.

        With `new_id` it gets an id never used before and keeps its counter of object ids; what is
        stored under the old id goes as if the channel had been deleted. So a write that is under
        way, with cuboids as the channel had them, does not end in the channel as it is now.
        """

    async def delete_channel(self, project: str, name: str) -> None:
        """Free the name at once; the voxels go behind it.

        In the same transaction a job of kind `DELETE_JOB` is submitted for the channel's id.
        """

    async def create_token(self, token: Token) -> None: ...

    async def token(self, name: str) -> Token: ...

    async def tokens(self, project: str | None = None) -> Sequence[Token]: ...

    async def update_token(self, token: Token, *, expected: Token | None = None) -> None: ...

    async def delete_token(self, name: str) -> None: ...

    # -- what every request asks
    async def token_view(self, token_name: str) -> TokenView:
        """All that a token leads to, never older than the last acknowledged change; NotFound."""

    async def is_live(self, channel_id: int) -> bool:
        """Whether the channel exists; asked after a write and before its acknowledgement."""

    async def live_channel(self, channel_id: int) -> Channel | None:
        """The channel of an id as it is now; as `is_live`."""

    async def reserve_ids(self, channel_id: int, count: int, *, most: int = MAX_OBJECT_ID) -> int:
        """The first of `count` consecutive object ids that nobody had before; from 1, exact.

        Conflict, and nothing is reserved, if one of them would be above `most`.
        """

    async def raise_ids(self, channel_id: int, at_least: int) -> None:
        """Reserve no id up to `at_least` from now on, since somebody chose that one; NotFound."""

    # -- users
    async def add_user(self, name: str, *, superuser: bool = False) -> User:
        """AlreadyExists if the name is taken."""

    async def user(self, name: str) -> User: ...

    async def user_of_id(self, user_id: int) -> User: ...

    async def users(self) -> Sequence[User]: ...

    async def remove_user(self, name: str) -> None:
        """With the keys; Conflict while the user owns something."""

    async def add_key(self, user_id: int, key_hash: bytes) -> None: ...

    async def revoke_keys(self, user_id: int) -> int:
        """How many there were."""

    async def user_of_key(self, key_hash: bytes) -> User | None:
        """Whose key it is; never older than the last acknowledged revocation."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An annotation object as the store keeps it: fields of any name, JSON-able values."""

    id: int
    fields: Mapping[str, Any]


class Comparison(enum.StrEnum):
    """How a query compares a field with a value."""

    EQUAL = "="
    LESS = "<"
    GREATER = ">"


class Predicate(NamedTuple):
    """One condition of a query; several are and-ed. A list equals each of its elements."""

    field: str
    comparison: Comparison
    value: Any  # a text or a number, as the field has it


class ObjectStore(Protocol):
    """Annotation objects of a channel by id and by field."""

    async def put(self, channel_id: int, objects: Sequence[StoredObject]) -> None:
        """Write or replace, all or nothing."""

    async def claim(self, channel_id: int, ids: Sequence[int]) -> None:
        """Make sure of ids that somebody chose: of any number who ask for one, one gets it.

        An id is free if its object does not exist and nobody claimed it who may still put it: that
        is for `CLAIM_S` after the claim. `delete` frees it at once.

        Raises
        ------
        AlreadyExists
            If one of them is not free; then none is claimed.
        """

    async def change(self, channel_id: int, object_id: int, fields: Mapping[str, Any]) -> bool:
        """Set some fields of an object and leave the others; False if there is no such object.

        Of any number who change different fields at once, none undoes another's; `Any` as in
        `StoredObject`.
        """

    async def get(self, channel_id: int, ids: Sequence[int]) -> Sequence[StoredObject]:
        """Those that exist, in the order asked."""

    async def delete(self, channel_id: int, ids: Sequence[int]) -> int:
        """How many there were."""

    async def query(
        self, channel_id: int, predicates: Sequence[Predicate], *, limit: int
    ) -> Sequence[int]:
        """Ids of the objects that meet every predicate, ascending."""

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every object of a channel; how many there were."""


class LabelIndex(Protocol):
    """Which cuboids hold a label: a superset that readers verify.

    An entry is appended before its voxels are written, so one that a check found empty may be about
    to become true. Its age tells: see `window_s`.
    """

    @property
    def window_s(self) -> float:
        """How long after an append its voxels may still be under way."""

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """Note that each label is (or is about to be) in these cuboids; durable when it returns.

        An entry that is there already becomes as young as a new one.
        """

    async def mortons(self, channel_id: int, level: int, label: int) -> Sequence[tuple[int, int]]:
        """(timestep, Morton code) of the cuboids that may hold a label, ascending."""

    async def listed(self, channel_id: int, level: int, labels: Sequence[int]) -> set[int]:
        """Those of some labels that may be in any cuboid."""

    async def missing(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> Mapping[int, Sequence[int]]:
        """Those of some entries that are not there."""

    def labels(self, channel_id: int, level: int) -> AsyncIterator[Sequence[int]]:
        """Every label of a level that has entries, each once, in no order, in pages.

        One that lost its entries meanwhile, or long ago, may come too.
        """

    async def discard(
        self,
        channel_id: int,
        level: int,
        label: int,
        cuboids: Sequence[tuple[int, int]],
        *,
        older_than_s: float = 0.0,
    ) -> None:
        """Forget (timestep, Morton code) entries that a check found empty of the label.

        Only those that were appended last longer than `older_than_s` ago: with `window_s` and the
        time since the check began, none whose voxels the check could not have seen.
        """

    async def delete_channel(self, channel_id: int) -> int: ...


class SideRecords(Protocol):
    """Small values that belong to a channel beside its voxels, by kind and key: a histogram.

    A kind and a key are texts of 1 to `MAX_RECORD_NAME` characters, a value has at most
    `MAX_RECORD_BYTES`; `store.values.check_record` says so. Of a kind there should be no more keys
    than `MOST_RECORD_KEYS`, since `keys` gives no more.
    """

    async def put(self, channel_id: int, kind: str, key: str, value: bytes) -> None:
        """Write or replace one; durable when it returns.

        Raises
        ------
        InvalidRequest, TooLarge
            If the names or the value are not as above.
        """

    async def get(self, channel_id: int, kind: str, key: str) -> bytes | None:
        """The whole value of the last put, never parts of two; None if there is none."""

    async def keys(self, channel_id: int, kind: str) -> Sequence[str]:
        """The first `MOST_RECORD_KEYS` keys of a kind, ascending by code points.

        One whose put or delete was interrupted may be among them although `get` finds nothing.
        """

    async def delete(self, channel_id: int, kind: str, key: str) -> None:
        """Forget one, if it is there."""

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every record of a channel; how many there were. May be run again."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a store can serve; `reason` is for operators, without paths and hosts."""

    ready: bool
    reason: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Stores(Protocol):
    """One engine: all that the layers above ask for. Whoever opened it closes it."""

    @property
    def cuboids(self) -> CuboidStore: ...

    @property
    def stale(self) -> StaleMarks: ...

    @property
    def catalog(self) -> Catalog: ...

    @property
    def jobs(self) -> Jobs: ...

    @property
    def objects(self) -> ObjectStore: ...

    @property
    def labels(self) -> LabelIndex: ...

    @property
    def records(self) -> SideRecords: ...

    @property
    def counts(self) -> Mapping[str, float]:
        """What it did beyond reading and writing since it was opened, by event; may be empty.

        Retries, hedges, damaged payloads, what was folded: figures that only grow.
        """

    async def health(self) -> Health:
        """Whether it answers and fits this version of ndcass."""

    async def maintain(self) -> None:
        """One bounded step of housekeeping (reclaim space, drop what is old).

        Submits a `DELETE_JOB` for what a write left in a channel that was deleted before it ended.
        """

    async def close(self) -> None:
        """Let go of everything; acknowledged writes are durable already."""
