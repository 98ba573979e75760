"""The server as the commands see it: what it says of a channel, and boxes in and out of it.

Requests are tried again where a later try may help (the server is busy, restarts or cannot be
reached), so what is sent must be safe to repeat: boxes are, whatever the operation. Threads may
share a `Gateway`.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import requests

from ndcass.cli.arguments import DEFAULT_URL, Target
from ndcass.cli.failure import CommandFailed
from ndcass.geometry import Box, Zyx, text_xyz

# A server that is told to restart is back within this; a wrong address should not take so long.
ATTEMPTS = 8
FIRST_ATTEMPTS = 2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
CONNECT_TIMEOUT_S = 10.0
# Without a byte for so long; a large write is synced to disk before it is answered.
SILENCE_TIMEOUT_S = 300.0
# The server is busy, or a proxy before it cannot reach it.
RETRIED_STATUSES = frozenset({502, 503, 504})
LONGEST_REASON = 300

# What a header can carry, as one word.
_KEY = re.compile(r"[!-~]+")
_NO_URL = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)

Voxels = npt.NDArray[Any]  # which type is only known at run time


@dataclass(frozen=True, slots=True)
class Volume:
    """One level of one channel.

    Attributes
    ----------
    extent : Box
        Its legal coordinates, the dataset's offset included.
    cuboid_zyx : tuple of int
        The grid begins at the start of the extent.
    starttime : int
        The timestep that is meant where none is named.
    identity : int or None
        The channel's id, another one when it was deleted and made again; None if the caller may not
        see it.
    """

    target: Target
    level: int
    dtype: np.dtype[Any]  # which type is only known at run time
    extent: Box
    cuboid_zyx: Zyx
    starttime: int
    readonly: bool
    identity: int | None


@dataclass(frozen=True, slots=True)
class Access:
    """Where the server is and who asks."""

    url: str
    key: str | None = field(repr=False)


def access_from(url: str | None, environ: Mapping[str, str]) -> Access:
    """The server and the key, from the command line and the environment.

    Raises
    ------
    CommandFailed
        If the file of the key cannot be read, or what is given is no key.
    """
    where = "NDCASS_API_KEY"
    key = environ.get(where, "").strip() or None
    path = environ.get("NDCASS_API_KEY_FILE")
    if key is None and path:
        where = "NDCASS_API_KEY_FILE"
        try:
            key = Path(path).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"cannot read NDCASS_API_KEY_FILE: {error}") from error
    if key is not None and not _KEY.fullmatch(key):
        raise CommandFailed(f"what {where} gives is no API key: it is one word of ASCII characters")
    return Access((url or environ.get("NDCASS_URL") or DEFAULT_URL).rstrip("/"), key)


class _TokenAuth(requests.auth.AuthBase):
    """The key as the server wants it. With no `auth` at all, requests would look into ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Token {self._key}"
        return request


class Gateway:
    """A client of one server; use it as a context manager.

    Parameters
    ----------
    access : Access
    sleep : callable
        How to wait between two tries.
    """

    def __init__(self, access: Access, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.access = access
        self._sleep = sleep
        self._local = threading.local()  # a session is for one thread
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions:
            session.close()

    def volume(self, target: Target, level: int | None) -> Volume:
        """What the server says of a channel; level None is the one that holds its own voxels.

        Raises
        ------
        CommandFailed
            If the server, the token, the channel or the level is not there or may not be seen.
        """
        response = self._send("GET", f"/nd/sd/{target.token}/info/", attempts=FIRST_ATTEMPTS)
        info = self._json(response, f"token {target.token}")
        try:
            return self._volume_of(target, level, info)
        except (KeyError, TypeError, ValueError) as error:
            raise CommandFailed(
                f"{self.access.url} does not answer like ndcass: {error!r}"
            ) from error

    def read_box(self, volume: Volume, box: Box, t: int | None) -> Voxels:
        """The voxels of a box (dataset coordinates) as a read-only array of order z, y, x.

        `t` is the timestep, None the channel's start time.

        Raises
        ------
        CommandFailed
            If the server refuses, or does not send all of it.
        """
        response = self._send("GET", _path(volume, box, t))
        if response.status_code != requests.codes.ok:
            raise self._refused(response, f"read {text_xyz(box)} of {volume.target}")
        dtype = np.dtype(response.headers.get("X-Volume-Dtype", volume.dtype.str))
        if dtype != volume.dtype:
            raise CommandFailed(f"{volume.target} is sent as {dtype.name}, not {volume.dtype.name}")
        expected = box.voxels * dtype.itemsize
        if len(response.content) != expected:
            came = len(response.content)
            raise CommandFailed(f"{volume.target} {text_xyz(box)}: {came} bytes, not {expected}")
        return np.frombuffer(response.content, dtype=dtype).reshape(box.shape_zyx)

    def write_box(
        self, volume: Volume, box: Box, t: int | None, voxels: Voxels, *, op: str
    ) -> None:
        """Write a box (dataset coordinates); when it returns, the voxels are on disk there.

        Raises
        ------
        CommandFailed
            If the server refuses.
        """
        response = self._send(
            "POST",
            f"{_path(volume, box, t)}?write={op}",
            body=np.ascontiguousarray(voxels, dtype=volume.dtype).data.cast("B"),
            headers={
                "X-Volume-Dtype": volume.dtype.str,
                "Content-Type": "application/octet-stream",
            },
        )
        if response.status_code != requests.codes.ok:
            raise self._refused(response, f"write {text_xyz(box)} of {volume.target}")

    def jobs(self) -> Sequence[Mapping[str, Any]]:
        """The jobs of the caller's channels, as the server's JSON has them; CommandFailed."""
        jobs = self._json(self._send("GET", "/jobs/"), "jobs").get("jobs")
        if not isinstance(jobs, list):
            raise CommandFailed(f"{self.access.url} does not answer like ndcass")
        return jobs

    def job(self, job_id: str) -> Mapping[str, Any]:
        """One job; CommandFailed if there is none, or it is somebody else's."""
        return self._json(self._send("GET", _job_path(job_id)), f"job {job_id}")

    def cancel_job(self, job_id: str) -> Mapping[str, Any]:
        """Cancel a job; as it is then. CommandFailed if it has ended."""
        return self._json(self._send("DELETE", _job_path(job_id)), f"job {job_id}", "cancel")

    def _volume_of(self, target: Target, level: int | None, info: Mapping[str, Any]) -> Volume:
        channels, dataset = info["channels"], info["dataset"]
        if target.channel not in channels:
            known = ", ".join(sorted(channels)) or "none"
            raise CommandFailed(
                f"token {target.token} has no channel {target.channel}; its channels: {known}"
            )
        channel = channels[target.channel]
        if level is None:
            level = int(channel["resolution"])
        if level not in dataset["resolutions"]:
            raise CommandFailed(
                f"level {level} is outside 0..{max(dataset['resolutions'])}, "
                f"the levels of dataset {dataset['name']}"
            )
        offset = _zyx(dataset["offset"][str(level)])
        return Volume(
            target=target,
            level=level,
            dtype=np.dtype(channel["datatype"]).newbyteorder("<"),
            extent=Box((0, 0, 0), _zyx(dataset["imagesize"][str(level)])).shifted(offset),
            cuboid_zyx=_zyx(dataset["cube_dimension"][str(level)]),
            starttime=int(channel["timerange"][0]),
            readonly=bool(channel["readonly"]),
            identity=self._identity(dataset["name"], info["project"]["name"], target.channel),
        )

    def _identity(self, dataset: str, project: str, channel: str) -> int | None:
        path = f"/nd/resource/dataset/{dataset}/project/{project}/channel/{channel}/"
        response = self._send("GET", path, attempts=FIRST_ATTEMPTS)
        if response.status_code != requests.codes.ok:  # not everybody may see it
            return None
        return int(response.json()["id"])

    def _json(
        self, response: requests.Response, what: str, verb: str = "open"
    ) -> Mapping[str, Any]:
        """The object that an answer holds; `Any` is whatever JSON holds."""
        if response.status_code != requests.codes.ok:
            raise self._refused(response, f"{verb} {what}")
        try:
            found = response.json()
        except requests.JSONDecodeError as error:
            raise CommandFailed(f"{self.access.url} does not answer like ndcass") from error
        if not isinstance(found, dict):
            raise CommandFailed(f"{self.access.url} does not answer like ndcass")
        return found

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = ATTEMPTS,
    ) -> requests.Response:
        """One request, tried again where that may help; the last answer, whatever its status."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, attempts + 1):
            try:
                response = self._session().request(
                    method,
                    self.access.url + path,
                    data=body,  # type: ignore[arg-type]  # any buffer will do
                    headers=headers,
                    timeout=(CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S),
                    allow_redirects=False,  # a redirected POST loses its body
                )
            except _NO_URL as error:
                raise CommandFailed(f"not the URL of a server: {self.access.url}") from error
            except requests.RequestException as error:
                if attempt == attempts:
                    raise CommandFailed(
                        f"no answer from {self.access.url} in {attempts} tries: {_cause(error)}"
                    ) from error
                wait_s = pause_s
            else:
                if response.status_code not in RETRIED_STATUSES or attempt == attempts:
                    return response
                wait_s = max(pause_s, _retry_after_s(response))
            # Not all clients at the same moment.
            self._sleep(min(wait_s, LONGEST_PAUSE_S) * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.auth = _TokenAuth(self.access.key)
            self._sessions.append(session)
        return session

    def _refused(self, response: requests.Response, what: str) -> CommandFailed:
        status = response.status_code
        said = " ".join(response.text.split())[:LONGEST_REASON]
        if status in (requests.codes.unauthorized, requests.codes.forbidden):
            hint = "NDCASS_API_KEY is not set" if self.access.key is None else "the API key may not"
            return CommandFailed(f"cannot {what}: {hint} ({status} {said})")
        return CommandFailed(f"cannot {what}: {status} {said}")


def _path(volume: Volume, box: Box, t: int | None) -> str:
    time_range = "" if t is None else f"{t},{t + 1}/"
    return f"/nd/sd/{volume.target}/raw/{volume.level}/{text_xyz(box)}/{time_range}"


def _job_path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}/"


def _zyx(xyz: Any) -> Zyx:  # whatever JSON holds
    x, y, z = (int(value) for value in xyz)
    return (z, y, x)


def _retry_after_s(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _cause(error: BaseException) -> str:
    """The innermost reason; what wraps it repeats the URL several times."""
    inner: BaseException = error
    while inner.__cause__ is not None or inner.__context__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner) or type(inner).__name__
