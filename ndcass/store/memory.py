"""All protocols of `store.base` in dicts: the reference behaviour, for tests and trials.

Nothing outlives the process and only one event loop may use it. Cuboids are kept as a distributed
store keeps them, as rows that are only ever appended: a reader gets several rows a cuboid and
merges them.
"""

import bisect
import copy
import dataclasses
import json
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from ndcass import codec
from ndcass.concurrency import Bell, run_cpu
from ndcass.errors import AlreadyExists, Conflict, CorruptValue, InvalidRequest, NotFound
from ndcass.merge import CuboidRow, WriteOp, is_blank, without_negative_zeros
from ndcass.model import Channel, Dataset, Project, Resource, Token, TokenView, User
from ndcass.store.base import (
    CLAIM_S,
    DELETE_JOB,
    LABEL_WINDOW_S,
    MAX_OBJECT_ID,
    MOST_RECORD_KEYS,
    CuboidAddress,
    CuboidWrite,
    Health,
    Job,
    JobState,
    Predicate,
    StaleMark,
    StoredCuboid,
    StoredObject,
)
from ndcass.store.clock import WriteClock
from ndcass.store.query import meets
from ndcass.store.values import check_record
from ndcass.store.versions import versions_digest

T = TypeVar("T")

# Small, so that readers meet several pages.
READ_PAGE = 16
SCAN_PAGE = 64
MOST_JOBS = 1000


class MemoryStores:
    """One of each store; see `store.base.Stores`."""

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self.cuboids = MemoryCuboids()
        self.stale = self.cuboids.stale
        self.jobs = MemoryJobs(now_s)
        self.catalog = MemoryCatalog(self.jobs)
        self.objects = MemoryObjects(now_s)
        self.labels = MemoryLabels()
        self.records = MemoryRecords()
        self.counts: Mapping[str, float] = {}

    async def health(self) -> Health:
        """Always well."""
        return Health(ready=True)

    async def maintain(self) -> None:
        """See to what was written into a deleted channel; rows are never folded."""
        self.catalog.delete_unknown({address.channel_id for address in self.cuboids.rows})

    async def close(self) -> None:
        """Nothing to let go of."""


# -- cuboids


class MemoryCuboids:
    """The `CuboidStore` in a dict of rows, in the order of their ids."""

    def __init__(self) -> None:
        self.rows: dict[CuboidAddress, list[CuboidRow]] = {}
        self.clock = WriteClock()
        self.stale = MemoryStale(self)

    def batch(self) -> "MemoryBatch":
        """A new write."""
        return MemoryBatch(self)

    async def read(
        self, addresses: Sequence[CuboidAddress]
    ) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.read`."""
        for first in range(0, len(addresses), READ_PAGE):
            found = self.read_now(addresses[first : first + READ_PAGE])
            if found:
                yield found

    def reread(self, addresses: Sequence[CuboidAddress]) -> AsyncIterator[Sequence[StoredCuboid]]:
        """As `CuboidStore.reread`; there is one copy of everything."""
        return self.read(addresses)

    def read_now(self, addresses: Sequence[CuboidAddress]) -> Sequence[StoredCuboid]:
        """As `CuboidStore.read_now`; never None."""
        return [(a, tuple(self.rows[a])) for a in addresses if a in self.rows]

    async def scan(
        self,
        channel_id: int,
        *,
        pyramid: int | None = None,
        level: int | None = None,
        after: CuboidAddress | None = None,
    ) -> AsyncIterator[Sequence[CuboidAddress]]:
        """As `CuboidStore.scan`; sorts anew for every page, since cuboids may come and go."""
        while True:
            addresses = sorted(
                address
                for address in self.rows
                if address.channel_id == channel_id
                and (pyramid is None or address.pyramid == pyramid)
                and (level is None or address.level == level)
                and (after is None or address > after)
            )
            if not addresses:
                return
            page = addresses[:SCAN_PAGE]
            yield page
            after = page[-1]

    async def versions(self, addresses: Sequence[CuboidAddress]) -> bytes:
        """As `CuboidStore.versions`."""
        return versions_digest(
            (address, b"".join(row.write_id for row in rows))
            for address, rows in self.read_now(addresses)
        )

    async def verify(
        self, addresses: Sequence[CuboidAddress]
    ) -> Sequence[tuple[CuboidAddress, str]]:
        """As `CuboidStore.verify`."""
        damaged = []
        for address, rows in self.read_now(addresses):
            try:
                for row in rows:
                    codec.verify(row.payload, identity=_identity(address, row))
            except CorruptValue as error:
                damaged.append((address, str(error)))
        return damaged

    async def delete_channel(self, channel_id: int) -> int:
        """As `CuboidStore.delete_channel`."""
        return _forget(self.rows, lambda address: address.channel_id == channel_id)

    def publish(
        self,
        rows: Sequence[tuple[CuboidAddress, CuboidRow]],
        stale: Collection[CuboidAddress],
        cleared: Sequence[StaleMark] = (),
    ) -> None:
        """Make some rows visible at once, with what they make stale and what they make fresh."""
        gone = self.stale.clear(cleared)
        for address, row in rows:
            if address not in gone:
                bisect.insort(self.rows.setdefault(address, []), row, key=lambda r: r.write_id)
        self.stale.set(stale)


class MemoryBatch:
    """One write of many cuboids; see `CuboidBatch`."""

    def __init__(self, store: MemoryCuboids, cleared: Sequence[StaleMark] = ()) -> None:
        self._store = store
        self._cleared = cleared
        self._rows: list[tuple[CuboidAddress, CuboidRow]] = []
        self._stale: set[CuboidAddress] = set()

    async def add(self, writes: Sequence[CuboidWrite]) -> None:
        """Encode some cuboids."""
        self._rows += await run_cpu(self._encoded, writes)

    def mark_stale(self, addresses: Collection[CuboidAddress]) -> None:
        """As `CuboidBatch.mark_stale`."""
        self._stale.update(addresses)

    async def commit(self) -> None:
        """Make them visible."""
        self._store.publish(self._rows, self._stale, self._cleared)
        self._rows, self._stale, self._cleared = [], set(), ()

    async def strand(self) -> None:
        """Nothing to do: left-over rows are found by looking at all rows."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows = []

    def _encoded(self, writes: Sequence[CuboidWrite]) -> list[tuple[CuboidAddress, CuboidRow]]:
        return [
            (write.address, _row(write, self._store.clock.next_id()))
            for write in writes
            # Zeros mean "nothing here", so a row of them would only cost its reader time.
            if write.op in (WriteOp.BASE, WriteOp.REPLACE) or not is_blank(write.voxels)
        ]


class MemoryStale:
    """The `StaleMarks` in a dict of numbers that grow."""

    def __init__(self, cuboids: MemoryCuboids) -> None:
        self._cuboids = cuboids
        self._marks: dict[CuboidAddress, int] = {}
        self._last = 0
        self.bell: Bell[int] = Bell()

    def set(self, addresses: Collection[CuboidAddress]) -> None:
        """Mark some cuboids."""
        for address in addresses:
            self._last += 1
            self._marks[address] = self._last
        for channel_id in {address.channel_id for address in addresses}:
            self.bell.ring(channel_id)

    def clear(self, marks: Sequence[StaleMark]) -> Set[CuboidAddress]:
        """Take some marks away; the cuboids that had none any more."""
        gone = {address for address, _ in marks if address not in self._marks}
        for address, mark in marks:
            if self._marks.get(address) == mark:
                del self._marks[address]
        return gone

    async def mark(self, addresses: Collection[CuboidAddress]) -> None:
        """As `StaleMarks.mark`."""
        self.set(addresses)

    async def marked(self, addresses: Collection[CuboidAddress]) -> Set[CuboidAddress]:
        """As `StaleMarks.marked`."""
        return self._marks.keys() & set(addresses)

    async def scan(
        self, channel_id: int, *, pyramid: int, level: int
    ) -> AsyncIterator[Sequence[StaleMark]]:
        """As `StaleMarks.scan`."""
        after: CuboidAddress | None = None
        while True:
            marks = sorted(
                StaleMark(address, mark)
                for address, mark in self._marks.items()
                if address[:3] == (channel_id, pyramid, level)
                and (after is None or address > after)
            )
            if not marks:
                return
            yield marks[:SCAN_PAGE]
            after = marks[:SCAN_PAGE][-1].address

    async def counts(self, channel_id: int) -> Mapping[tuple[int, int], int]:
        """As `StaleMarks.counts`."""
        mine = (address for address in self._marks if address.channel_id == channel_id)
        return Counter((address.pyramid, address.level) for address in mine)

    async def channels(self) -> Sequence[int]:
        """As `StaleMarks.channels`."""
        return sorted({address.channel_id for address in self._marks})

    def derivation(self, marks: Sequence[StaleMark]) -> MemoryBatch:
        """As `StaleMarks.derivation`."""
        return MemoryBatch(self._cuboids, marks)

    async def delete_channel(self, channel_id: int) -> int:
        """As `StaleMarks.delete_channel`."""
        return _forget(self._marks, lambda address: address.channel_id == channel_id)


def _row(write: CuboidWrite, write_id: bytes) -> CuboidRow:
    z, y, x = write.voxels.shape
    row = CuboidRow(write_id, write.op, write.corner_zyx, (z, y, x), b"")
    voxels = without_negative_zeros(write.voxels, write.op)
    payload = codec.encode(voxels, identity=_identity(write.address, row))
    return row._replace(payload=payload)


def _identity(address: CuboidAddress, row: CuboidRow) -> bytes:
    return codec.row_identity(address, row.write_id, row.op, row.corner_zyx, row.shape_zyx)


# -- background work


@dataclass(frozen=True, slots=True)
class _Lease:
    owner: str
    ends_s: float


class MemoryJobs:
    """The `Jobs` in a dict, oldest first."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._jobs: dict[str, Job] = {}
        self._leases: dict[str, _Lease] = {}
        self.bell: Bell[str] = Bell()

    async def submit_once(self, kind: str, channel_id: int) -> Job:
        """As `Jobs.submit_once`."""
        for job in self._jobs.values():
            if (job.kind, job.channel_id, job.state) == (kind, channel_id, JobState.PENDING):
                return copy.deepcopy(job)
        return self.submit_now(kind, channel_id, {})

    async def submit(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """As `Jobs.submit`."""
        return self.submit_now(kind, channel_id, detail)

    def submit_now(self, kind: str, channel_id: int, detail: Mapping[str, Any]) -> Job:
        """`submit` inside a change of the catalogue."""
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            channel_id=channel_id,
            detail=_json_copy(detail),
            state=JobState.PENDING,
            done_units=0,
            total_units=0,
            error="",
            created_s=self._now_s(),
        )
        self._jobs[job.id] = job
        self.bell.ring(kind)
        return copy.deepcopy(job)

    def has_delete(self, channel_id: int) -> bool:
        """Whether a job that removes a channel's data is under way."""
        return any(
            (job.kind, job.channel_id) == (DELETE_JOB, channel_id)
            and job.state in (JobState.PENDING, JobState.STARTED)
            for job in self._jobs.values()
        )

    async def claim(self, kinds: Sequence[str], *, owner: str, lease_s: float) -> Job | None:
        """As `Jobs.claim`."""
        now = self._now_s()
        for job in self._jobs.values():
            if job.kind in kinds and self._is_free(job, now):
                self._leases[job.id] = _Lease(owner, now + lease_s)
                return self._change(job.id, state=JobState.STARTED)
        return None

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
        """As `Jobs.heartbeat`."""
        if not self._is_owned(job_id, owner):
            return False
        self._leases[job_id] = _Lease(owner, self._now_s() + lease_s)
        self._change(
            job_id, done_units=done_units, total_units=total_units, detail=_json_copy(detail)
        )
        return True

    async def put_off(self, job_id: str, *, owner: str, reason: str) -> bool:
        """As `Jobs.put_off`."""
        if not self._is_owned(job_id, owner):
            return False
        self._change(job_id, error=reason)
        return True

    async def finish(self, job_id: str, *, owner: str, error: str = "") -> bool:
        """As `Jobs.finish`."""
        if not self._is_owned(job_id, owner):
            return False
        self._change(job_id, state=JobState.FAILURE if error else JobState.SUCCESS, error=error)
        return True

    async def cancel(self, job_id: str) -> bool:
        """As `Jobs.cancel`."""
        if self._found(job_id).state not in (JobState.PENDING, JobState.STARTED):
            return False
        self._change(job_id, state=JobState.REVOKED, error="")
        return True

    async def job(self, job_id: str) -> Job:
        """As `Jobs.job`."""
        return copy.deepcopy(self._found(job_id))

    async def jobs(self, *, channel_id: int | None = None) -> Sequence[Job]:
        """As `Jobs.jobs`."""
        newest_first = reversed(self._jobs.values())
        found = [job for job in newest_first if channel_id is None or job.channel_id == channel_id]
        return copy.deepcopy(found[:MOST_JOBS])

    def _found(self, job_id: str) -> Job:
        return _known(self._jobs, job_id, "job")

    def _is_free(self, job: Job, now: float) -> bool:
        if job.state == JobState.STARTED:
            return self._leases[job.id].ends_s <= now
        return job.state == JobState.PENDING

    def _is_owned(self, job_id: str, owner: str) -> bool:
        job = self._jobs.get(job_id)
        return (
            job is not None
            and job.state == JobState.STARTED
            and self._leases[job_id].owner == owner
        )

    def _change(self, job_id: str, **changes: Any) -> Job:  # whatever the fields of a job hold
        self._jobs[job_id] = job = dataclasses.replace(self._jobs[job_id], **changes)
        return copy.deepcopy(job)


# -- names


class MemoryCatalog:
    """The `Catalog` in dicts. Every method changes all or nothing, since none awaits midway."""

    def __init__(self, jobs: MemoryJobs) -> None:
        self._jobs = jobs
        self._datasets: dict[str, Dataset] = {}
        self._projects: dict[str, Project] = {}
        self._tokens: dict[str, Token] = {}
        self._channels: dict[int, Channel] = {}
        self._last_channel_id = 0
        self._last_object_id: dict[int, int] = {}
        self._users: dict[int, User] = {}
        self._last_user_id = 0
        self._keys: dict[bytes, int] = {}

    async def create_dataset(self, dataset: Dataset) -> None:
        """As `Catalog.create_dataset`."""
        _refuse_taken(dataset.name in self._datasets, "dataset", dataset.name)
        self._datasets[dataset.name] = dataset

    async def dataset(self, name: str) -> Dataset:
        """As `Catalog.dataset`."""
        return _known(self._datasets, name, "dataset")

    async def datasets(self) -> Sequence[Dataset]:
        """As `Catalog.datasets`."""
        return _by_name(self._datasets)

    async def update_dataset(
        self, dataset: Dataset, *, expected: Dataset | None = None, new_channel_ids: bool = False
    ) -> None:
        """As `Catalog.update_dataset`."""
        _refuse_changed(_known(self._datasets, dataset.name, "dataset"), expected)
        self._datasets[dataset.name] = dataset
        if new_channel_ids:
            mine = {p.name for p in self._projects.values() if p.dataset == dataset.name}
            for channel in [c for c in self._channels.values() if c.project in mine]:
                self._store_channel(self._renewed(channel))

    async def delete_dataset(self, name: str) -> None:
        """As `Catalog.delete_dataset`."""
        _known(self._datasets, name, "dataset")
        for project in [p for p in self._projects.values() if p.dataset == name]:
            self._delete_project(project.name)
        del self._datasets[name]

    async def create_project(self, project: Project) -> None:
        """As `Catalog.create_project`."""
        _known(self._datasets, project.dataset, "dataset")
        _refuse_taken(project.name in self._projects, "project", project.name)
        self._projects[project.name] = project

    async def project(self, name: str) -> Project:
        """The project of that name; NotFound."""
        return _known(self._projects, name, "project")

    async def projects(self, dataset: str | None = None) -> Sequence[Project]:
        """All projects or those of a dataset, by name."""
        return [p for p in _by_name(self._projects) if dataset is None or p.dataset == dataset]

    async def update_project(self, project: Project, *, expected: Project | None = None) -> None:
        """Replace the one of that name; NotFound."""
        _refuse_changed(_known(self._projects, project.name, "project"), expected)
        _known(self._datasets, project.dataset, "dataset")
        self._projects[project.name] = project

    async def delete_project(self, name: str) -> None:
        """With its tokens and channels; NotFound."""
        _known(self._projects, name, "project")
        self._delete_project(name)

    def _delete_project(self, name: str) -> None:
        for channel in [c for c in self._channels.values() if c.project == name]:
            self._delete_channel(channel)
        _forget(self._tokens, lambda token: self._tokens[token].project == name)
        del self._projects[name]

    async def create_channel(self, channel: Channel) -> Channel:
        """As `Catalog.create_channel`."""
        _known(self._projects, channel.project, "project")
        taken = self._find_channel(channel.project, channel.name) is not None
        _refuse_taken(taken, "channel", channel.name)
        stored = self._with_new_id(channel)
        self._store_channel(stored)
        return stored

    async def channel(self, project: str, name: str) -> Channel:
        """The channel of that name; NotFound."""
        return self._known_channel(project, name)

    async def channels(self, project: str) -> Sequence[Channel]:
        """Those of a project, by name."""
        mine = (c for c in self._channels.values() if c.project == project)
        return sorted(mine, key=lambda channel: channel.name)

    async def update_channel(
        self, channel: Channel, *, expected: Channel | None = None, new_id: bool = False
    ) -> Channel:
        """As `Catalog.update_channel`."""
        if channel.id not in self._channels:
            raise NotFound(f"there is no channel {channel.name}")
        _refuse_changed(self._channels[channel.id], expected)
        namesake = self._find_channel(channel.project, channel.name)
        taken = namesake is not None and namesake.id != channel.id
        _refuse_taken(taken, "channel", channel.name)
        stored = self._renewed(channel) if new_id else channel
        self._store_channel(stored)
        return stored

    async def delete_channel(self, project: str, name: str) -> None:
        """As `Catalog.delete_channel`."""
        self._delete_channel(self._known_channel(project, name))

    def _find_channel(self, project: str, name: str) -> Channel | None:
        mine = (c for c in self._channels.values() if (c.project, c.name) == (project, name))
        return next(mine, None)

    def _known_channel(self, project: str, name: str) -> Channel:
        channel = self._find_channel(project, name)
        if channel is None:
            raise NotFound(f"there is no channel {name} in project {project}")
        return channel

    def _store_channel(self, channel: Channel) -> None:
        if channel.default:
            for other in [c for c in self._channels.values() if c.project == channel.project]:
                self._channels[other.id] = dataclasses.replace(other, default=False)
        self._channels[channel.id] = channel

    def _with_new_id(self, channel: Channel) -> Channel:
        self._last_channel_id += 1
        return dataclasses.replace(channel, id=self._last_channel_id)

    def _renewed(self, channel: Channel) -> Channel:
        """A channel under a new id; what is stored under the old one is given up."""
        renewed = self._with_new_id(channel)
        self._last_object_id[renewed.id] = self._last_object_id.get(channel.id, 0)
        self._delete_channel(channel)
        return renewed

    def delete_unknown(self, channel_ids: Collection[int]) -> None:
        """Submit a job for every id of a deleted channel that has none under way."""
        for channel_id in channel_ids:
            was_deleted = channel_id <= self._last_channel_id and channel_id not in self._channels
            if was_deleted and not self._jobs.has_delete(channel_id):
                self._jobs.submit_now(DELETE_JOB, channel_id, {})

    def _delete_channel(self, channel: Channel) -> None:
        del self._channels[channel.id]
        self._last_object_id.pop(channel.id, None)
        self._jobs.submit_now(DELETE_JOB, channel.id, {})

    async def create_token(self, token: Token) -> None:
        """NotFound if its project is missing, AlreadyExists if the name is taken."""
        _known(self._projects, token.project, "project")
        _refuse_taken(token.name in self._tokens, "token", token.name)
        self._tokens[token.name] = token

    async def token(self, name: str) -> Token:
        """The token of that name; NotFound."""
        return _known(self._tokens, name, "token")

    async def tokens(self, project: str | None = None) -> Sequence[Token]:
        """All tokens or those of a project, by name."""
        return [t for t in _by_name(self._tokens) if project is None or t.project == project]

    async def update_token(self, token: Token, *, expected: Token | None = None) -> None:
        """Replace the one of that name; NotFound."""
        _refuse_changed(_known(self._tokens, token.name, "token"), expected)
        _known(self._projects, token.project, "project")
        self._tokens[token.name] = token

    async def delete_token(self, name: str) -> None:
        """Only the token; NotFound."""
        _known(self._tokens, name, "token")
        del self._tokens[name]

    async def token_view(self, token_name: str) -> TokenView:
        """As `Catalog.token_view`."""
        token = _known(self._tokens, token_name, "token")
        project = self._projects[token.project]
        dataset = self._datasets[project.dataset]
        return TokenView(token, project, dataset, tuple(await self.channels(project.name)))

    async def is_live(self, channel_id: int) -> bool:
        """As `Catalog.is_live`."""
        return channel_id in self._channels

    async def live_channel(self, channel_id: int) -> Channel | None:
        """As `Catalog.live_channel`."""
        return self._channels.get(channel_id)

    async def reserve_ids(self, channel_id: int, count: int, *, most: int = MAX_OBJECT_ID) -> int:
        """As `Catalog.reserve_ids`."""
        if count < 1:
            raise InvalidRequest(f"{count} ids cannot be reserved")
        if channel_id not in self._channels:
            raise NotFound("there is no such channel")
        last = self._last_object_id.get(channel_id, 0)
        if count > most - last:
            raise Conflict(f"the channel has fewer than {count} ids left up to {most}")
        self._last_object_id[channel_id] = last + count
        return last + 1

    async def raise_ids(self, channel_id: int, at_least: int) -> None:
        """As `Catalog.raise_ids`."""
        if channel_id not in self._channels:
            raise NotFound("there is no such channel")
        last = self._last_object_id.get(channel_id, 0)
        self._last_object_id[channel_id] = max(last, at_least)

    async def add_user(self, name: str, *, superuser: bool = False) -> User:
        """As `Catalog.add_user`."""
        _refuse_taken(any(u.name == name for u in self._users.values()), "user", name)
        self._last_user_id += 1
        user = User(self._last_user_id, name, superuser)
        self._users[user.id] = user
        return user

    async def user(self, name: str) -> User:
        """The user of that name; NotFound."""
        return self._known_user(name)

    def _known_user(self, name: str) -> User:
        user = next((u for u in self._users.values() if u.name == name), None)
        if user is None:
            raise NotFound(f"there is no user {name}")
        return user

    async def user_of_id(self, user_id: int) -> User:
        """The user of that id; NotFound."""
        return _known(self._users, user_id, "user")

    async def users(self) -> Sequence[User]:
        """All, by name."""
        return sorted(self._users.values(), key=lambda user: user.name)

    async def remove_user(self, name: str) -> None:
        """As `Catalog.remove_user`."""
        user = self._known_user(name)
        owned: list[Dataset | Project | Token] = [
            *self._datasets.values(),
            *self._projects.values(),
            *self._tokens.values(),
        ]
        if any(resource.user == user.id for resource in owned):
            raise Conflict(f"user {name} still owns datasets, projects or tokens")
        _forget(self._keys, lambda key: self._keys[key] == user.id)
        del self._users[user.id]

    async def add_key(self, user_id: int, key_hash: bytes) -> None:
        """One more key of a user; NotFound."""
        _known(self._users, user_id, "user")
        _refuse_taken(key_hash in self._keys, "key", "with this hash")
        self._keys[key_hash] = user_id

    async def revoke_keys(self, user_id: int) -> int:
        """As `Catalog.revoke_keys`."""
        return _forget(self._keys, lambda key: self._keys[key] == user_id)

    async def user_of_key(self, key_hash: bytes) -> User | None:
        """As `Catalog.user_of_key`."""
        user_id = self._keys.get(key_hash)
        return None if user_id is None else self._users[user_id]


# -- annotations


class MemoryObjects:
    """The `ObjectStore` in a dict by channel and id."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._fields: dict[tuple[int, int], Mapping[str, Any]] = {}
        # When an id was claimed.
        self._claims: dict[tuple[int, int], float] = {}

    async def put(self, channel_id: int, objects: Sequence[StoredObject]) -> None:
        """As `ObjectStore.put`."""
        self._fields |= {(channel_id, item.id): _json_copy(item.fields) for item in objects}

    async def claim(self, channel_id: int, ids: Sequence[int]) -> None:
        """As `ObjectStore.claim`."""
        now_s = self._now_s()
        for key in [(channel_id, object_id) for object_id in ids]:
            claimed = self._claims.get(key, now_s - CLAIM_S) > now_s - CLAIM_S
            if claimed or key in self._fields:
                raise AlreadyExists(f"object {key[1]} exists, or is just being made")
        self._claims |= {(channel_id, object_id): now_s for object_id in ids}

    async def change(self, channel_id: int, object_id: int, fields: Mapping[str, Any]) -> bool:
        """As `ObjectStore.change`."""
        found = self._fields.get((channel_id, object_id))
        if found is not None:
            self._fields[channel_id, object_id] = {**found, **_json_copy(fields)}
        return found is not None

    async def get(self, channel_id: int, ids: Sequence[int]) -> Sequence[StoredObject]:
        """As `ObjectStore.get`."""
        return [
            StoredObject(object_id, copy.deepcopy(self._fields[channel_id, object_id]))
            for object_id in ids
            if (channel_id, object_id) in self._fields
        ]

    async def delete(self, channel_id: int, ids: Sequence[int]) -> int:
        """As `ObjectStore.delete`."""
        wanted = {(channel_id, object_id) for object_id in ids}
        _forget(self._claims, lambda key: key in wanted)
        return _forget(self._fields, lambda key: key in wanted)

    async def query(
        self, channel_id: int, predicates: Sequence[Predicate], *, limit: int
    ) -> Sequence[int]:
        """As `ObjectStore.query`."""
        found = (
            object_id
            for (channel, object_id), fields in self._fields.items()
            if channel == channel_id and all(meets(fields, p) for p in predicates)
        )
        return sorted(found)[:limit]

    async def delete_channel(self, channel_id: int) -> int:
        """As `ObjectStore.delete_channel`."""
        _forget(self._claims, lambda key: key[0] == channel_id)
        return _forget(self._fields, lambda key: key[0] == channel_id)


class MemoryLabels:
    """The `LabelIndex` in a dict of dicts: when each cuboid of a label was noted."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._cuboids: dict[tuple[int, int, int], dict[tuple[int, int], float]] = defaultdict(dict)
        self._now_s = now_s

    @property
    def window_s(self) -> float:
        """As `LabelIndex.window_s`."""
        return LABEL_WINDOW_S

    async def append(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> None:
        """As `LabelIndex.append`."""
        now_s = self._now_s()
        for label, mortons in mortons_of.items():
            noted = self._cuboids[channel_id, level, int(label)]
            noted.update(((t, int(morton)), now_s) for morton in mortons)

    async def mortons(self, channel_id: int, level: int, label: int) -> Sequence[tuple[int, int]]:
        """As `LabelIndex.mortons`."""
        return sorted(self._cuboids.get((channel_id, level, label), ()))

    async def listed(self, channel_id: int, level: int, labels: Sequence[int]) -> set[int]:
        """As `LabelIndex.listed`."""
        return {label for label in labels if self._cuboids.get((channel_id, level, label))}

    async def missing(
        self, channel_id: int, level: int, t: int, mortons_of: Mapping[int, Sequence[int]]
    ) -> Mapping[int, Sequence[int]]:
        """As `LabelIndex.missing`."""
        found = {
            label: [m for m in mortons if (t, m) not in self._cuboids.get(key, ())]
            for label, mortons in mortons_of.items()
            for key in [(channel_id, level, int(label))]
        }
        return {label: mortons for label, mortons in found.items() if mortons}

    async def labels(self, channel_id: int, level: int) -> AsyncIterator[Sequence[int]]:
        """As `LabelIndex.labels`."""
        yield [key[2] for key in self._cuboids if key[:2] == (channel_id, level)]

    async def discard(
        self,
        channel_id: int,
        level: int,
        label: int,
        cuboids: Sequence[tuple[int, int]],
        *,
        older_than_s: float = 0.0,
    ) -> None:
        """As `LabelIndex.discard`."""
        noted = self._cuboids.get((channel_id, level, label), {})
        latest_s = self._now_s() - older_than_s
        for cuboid in cuboids:
            if noted.get(cuboid, math.inf) <= latest_s:
                del noted[cuboid]

    async def delete_channel(self, channel_id: int) -> int:
        """Forget every entry of a channel; how many there were."""
        entries = sum(len(found) for key, found in self._cuboids.items() if key[0] == channel_id)
        _forget(self._cuboids, lambda key: key[0] == channel_id)
        return entries


# -- side records


class MemoryRecords:
    """The `SideRecords` in a dict."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, str, str], bytes] = {}

    async def put(self, channel_id: int, kind: str, key: str, value: bytes) -> None:
        """As `SideRecords.put`."""
        check_record(kind, key, value)
        self._values[channel_id, kind, key] = bytes(value)

    async def get(self, channel_id: int, kind: str, key: str) -> bytes | None:
        """As `SideRecords.get`."""
        check_record(kind, key)
        return self._values.get((channel_id, kind, key))

    async def keys(self, channel_id: int, kind: str) -> Sequence[str]:
        """As `SideRecords.keys`."""
        of_kind = (key for *of, key in self._values if of == [channel_id, kind])
        return sorted(of_kind)[:MOST_RECORD_KEYS]

    async def delete(self, channel_id: int, kind: str, key: str) -> None:
        """As `SideRecords.delete`."""
        check_record(kind, key)
        self._values.pop((channel_id, kind, key), None)

    async def delete_channel(self, channel_id: int) -> int:
        """As `SideRecords.delete_channel`."""
        return _forget(self._values, lambda key: key[0] == channel_id)


# -- dicts

K = TypeVar("K")


def _known(things: Mapping[K, T], key: K, kind: str) -> T:
    """The thing of that key; NotFound."""
    if key not in things:
        raise NotFound(f"there is no {kind} {key}")
    return things[key]


def _refuse_changed(stored: Resource, expected: Resource | None) -> None:
    if expected is not None and stored != expected:
        raise Conflict(f"{stored.name} was changed meanwhile: read it again")


def _refuse_taken(taken: bool, kind: str, name: str) -> None:
    if taken:
        raise AlreadyExists(f"there already is a {kind} {name}")


def _by_name(things: Mapping[str, T]) -> list[T]:
    return [things[name] for name in sorted(things)]


def _forget(things: dict[K, T], is_doomed: Callable[[K], bool]) -> int:
    """Delete some entries; how many."""
    doomed = [key for key in things if is_doomed(key)]
    for key in doomed:
        del things[key]
    return len(doomed)


def _json_copy(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A deep copy as another engine would return it, after JSON; `Any` is what that can hold."""
    try:
        copied: Mapping[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"not JSON-able: {error}") from error
    return copied
