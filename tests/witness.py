"""Writers that note every acknowledgement outside the system, and the check of what it promised.

Each writer is a process that owns some boxes of a channel: it writes random voxels into them again
and again, one request at a time, through one gateway or the other, and reads back what it wrote.
What it is about to send and what was answered goes to a file of its own, line by line. A write
without an acknowledgement is *unknown*: it may be there or not, both are right.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import requests

from tests.processes import KEY, Gateway, environment

Voxels = npt.NDArray[np.uint8]

ROOT = Path(__file__).resolve().parent.parent
# The last slab is nobody's, for tests to try things.
SIZE_ZYX = (80, 1024, 1024)
CUBOID_ZYX = (16, 128, 128)
# Two cuboids side by side, so that a request has more than one.
BOX_ZYX = (16, 128, 256)
BOXES = 4 * 8 * 4
FREE_BOX_PATH = "0,256/0,128/64,80/0,1/"
"""A box of the same shape that no writer owns, with its timestep, as URLs have it."""
REQUEST_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 90.0
# A writer that nobody stops ends by itself.
LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a box, whose voxels follow from its seed."""

    seed: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without the answer that it should have had; `status` is 0 without any answer."""

    method: str
    status: int
    text: str
    at_s: float


@dataclass(slots=True)
class Evidence:
    """What the writers noted: writes of each box in their order, failures, wrong answers, times."""

    writes: defaultdict[int, list[Write]] = field(default_factory=lambda: defaultdict(list))
    failures: list[Failure] = field(default_factory=list)
    wrong_reads: list[str] = field(default_factory=list)
    acknowledged: int = 0
    reads: int = 0
    slowest_s: float = 0.0
    """Of the requests that succeeded."""
    answered_at_s: list[float] = field(default_factory=list)
    """When requests succeeded, by the monotonic clock that all processes share."""

    def longest_silence_s(self) -> float:
        """The longest time in which no request of any writer succeeded."""
        times = np.sort(np.array(self.answered_at_s, dtype=np.float64))
        return float(np.diff(times).max()) if len(times) > 1 else float("inf")


class Load:
    """Writers at work; `stop` ends them and says what they noted."""

    def __init__(self, writers: Sequence["subprocess.Popen[bytes]"], logs: Sequence[Path]) -> None:
        self._writers = writers
        self._logs = logs

    @property
    def acknowledged(self) -> int:
        """Writes that were acknowledged so far."""
        return sum(log.read_text().count('"acknowledged"') for log in self._logs)

    def await_writes(self, count: int, *, within_s: float = START_TIMEOUT_S) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = self.acknowledged + count
        deadline = time.monotonic() + within_s
        while self.acknowledged < wanted:
            assert time.monotonic() < deadline, f"no {count} writes were acknowledged in time"
            assert all(writer.poll() is None for writer in self._writers), "a writer has ended"
            time.sleep(0.1)

    def stop(self) -> Evidence:
        """Let the writers end their requests; everything that they noted."""
        for writer in self._writers:
            assert writer.stdin is not None
            writer.stdin.close()
        codes = [writer.wait(STOP_TIMEOUT_S) for writer in self._writers]
        assert codes == [0] * len(codes), f"writers ended with {codes}"
        evidence = Evidence()
        for log in self._logs:
            _gather(log, evidence)
        return evidence

    def kill(self) -> None:
        """End the writers, whatever they do."""
        for writer in self._writers:
            if writer.poll() is None:
                writer.kill()
            writer.wait(STOP_TIMEOUT_S)
            if writer.stdin is not None:
                writer.stdin.close()


@contextlib.contextmanager
def load(
    folder: Path,
    token: str,
    gateways: Sequence[Gateway],
    *,
    writers: int = 3,
    pause_s: float = 0.2,
) -> Iterator[Load]:
    """Let writers work on the channel ``c`` of a token, which is theirs alone.

    Parameters
    ----------
    folder : Path
        Where they note things.
    pause_s : float
        What each rests between two writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"{token}-{number}.jsonl" for number in range(writers)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, log in enumerate(logs):
            log.touch()
            plan = {
                "urls": [gateway.url for gateway in gateways],
                "token": token,
                "number": number,
                "boxes": list(range(number, BOXES, writers)),
                "pause_s": pause_s,
                "log": str(log),
            }
            command = [sys.executable, "-m", "tests.witness", json.dumps(plan)]
            running.append(
                # It ends when its input does: with `stop`, or with this process.
                subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE)
            )
        yield Load(running, logs)
    finally:
        Load(running, logs).kill()


def create_volume(gateway: Gateway, token: str) -> None:
    """The channel that writers of this token write to."""
    gateway.create_channel(size_zyx=SIZE_ZYX, token=token)


def check(gateway: Gateway, token: str, evidence: Evidence) -> None:
    """Assert that every acknowledged write is there, and nothing that nobody wrote.

    Each cuboid has the voxels of the last acknowledged write of its box or of a later one whose
    outcome is unknown; where nothing was acknowledged it may be empty as well.
    """
    assert evidence.acknowledged, "nothing was written, so that nothing could be lost"
    wrong: list[str] = []
    with requests.Session() as session:
        for box in range(BOXES):
            answer = _get(session, gateway.url, token, box)
            assert answer.status_code == 200, answer.text
            wrong += differences(answer.content, box, evidence.writes.get(box, []))
    assert not wrong, "\n".join(wrong)


def differences(content: bytes, box: int, writes: Sequence[Write]) -> list[str]:
    """What is wrong with the voxels of a box after these writes of it."""
    found = np.frombuffer(content, dtype=np.uint8)
    if found.size != np.prod(BOX_ZYX):
        return [f"box {box}: {found.size} bytes"]
    # What may be there is mostly the last write, so look there first.
    allowed = permitted(writes)
    voxels = found.reshape(BOX_ZYX)
    wrong: list[str] = []
    for name, part in (("left", np.s_[..., :128]), ("right", np.s_[..., 128:])):
        cuboid = voxels[part]
        if any(np.array_equal(cuboid, voxels_of(seed)[part]) for seed in reversed(allowed)):
            continue
        known = [write.seed for write in writes if write.seed not in allowed]
        older = [seed for seed in known if np.array_equal(cuboid, voxels_of(seed)[part])]
        what = f"of the outdated write {older}" if older else "that nobody wrote"
        if not cuboid.any():
            what = "empty"
        wrong.append(f"box {box}, its {name} cuboid: voxels {what}, not of {allowed}")
    return wrong


def permitted(writes: Sequence[Write]) -> list[int]:
    """The seeds that a cuboid may show; 0 is an empty one."""
    last = max((n for n, write in enumerate(writes) if write.acknowledged), default=-1)
    return [write.seed for write in writes[max(0, last) :]] if last >= 0 else [0, *_seeds(writes)]


def _seeds(writes: Sequence[Write]) -> list[int]:
    return [write.seed for write in writes]


def voxels_of(seed: int) -> Voxels:
    """What a write of this seed puts into its box; 0 stands for no write."""
    if not seed:
        return np.zeros(BOX_ZYX, dtype=np.uint8)
    return np.random.default_rng(seed).integers(0, 256, BOX_ZYX, dtype=np.uint8)


def _get(session: requests.Session, url: str, token: str, box: int) -> requests.Response:
    return session.get(url + _path(token, box), headers=_HEADERS, timeout=REQUEST_TIMEOUT_S)


def _path(token: str, box: int) -> str:
    z, rest = divmod(box, 32)
    y, x = divmod(rest, 4)
    steps = zip((x, y, z), reversed(BOX_ZYX), strict=True)
    ranges = [f"{n * size},{(n + 1) * size}" for n, size in steps]
    return f"/nd/sd/{token}/c/raw/0/{'/'.join(ranges)}/0,1/"


_HEADERS = {"Authorization": f"Token {KEY}", "X-Volume-Dtype": "|u1"}


def _gather(log: Path, evidence: Evidence) -> None:
    """Add what one writer noted."""
    begun: dict[int, int] = {}  # seed -> place among the writes of its box
    for line in log.read_text().splitlines():
        event = json.loads(line)
        match event["event"]:
            case "begun":
                writes = evidence.writes[event["box"]]
                begun[event["seed"]] = len(writes)
                writes.append(Write(event["seed"], acknowledged=False))
            case "acknowledged":
                place = begun[event["seed"]]
                evidence.writes[event["box"]][place] = Write(event["seed"], acknowledged=True)
                evidence.acknowledged += 1
            case "failed":
                evidence.failures.append(
                    Failure(event["method"], event["status"], event["text"], event["at_s"])
                )
            case "read":
                evidence.reads += 1
                evidence.wrong_reads += event["wrong"]
        if "took_s" in event:
            evidence.slowest_s = max(evidence.slowest_s, event["took_s"])
            evidence.answered_at_s.append(event["at_s"])


# -- the process of a writer


def _write_until_stopped(plan: dict[str, Any]) -> None:  # as JSON brings it
    stop = threading.Event()

    def await_end_of_input() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=await_end_of_input, daemon=True).start()
    random = np.random.default_rng(plan["number"] + 1)
    history: dict[int, list[Write]] = {box: [] for box in plan["boxes"]}
    ends_s = time.monotonic() + LONGEST_S
    turn = 0
    with open(plan["log"], "a", buffering=1) as log, requests.Session() as session:
        while not stop.is_set() and time.monotonic() < ends_s:
            turn += 1
            seed = (plan["number"] + 1) * 1_000_000 + turn
            url = plan["urls"][turn % len(plan["urls"])]
            box = int(random.choice(plan["boxes"]))
            _note(log, "begun", box=box, seed=seed)
            acknowledged = _post(session, url, plan["token"], box, seed, log)
            history[box].append(Write(seed, acknowledged))
            written = [box for box, writes in history.items() if writes]
            other = plan["urls"][(turn + 1) % len(plan["urls"])]
            _read_back(session, other, plan["token"], int(random.choice(written)), history, log)
            stop.wait(plan["pause_s"])


def _post(
    session: requests.Session, url: str, token: str, box: int, seed: int, log: IO[str]
) -> bool:
    """Write a box; whether that was acknowledged."""
    body = voxels_of(seed).tobytes()
    began_s = time.monotonic()
    path = f"{url}{_path(token, box)}?write=replace"
    try:
        answer = session.post(path, data=body, headers=_HEADERS, timeout=REQUEST_TIMEOUT_S)
    except requests.RequestException as error:
        _note(log, "failed", method="POST", status=0, text=repr(error))
        return False
    if answer.status_code != 200:
        _note(log, "failed", method="POST", status=answer.status_code, text=answer.text)
        return False
    _note(log, "acknowledged", box=box, seed=seed, took_s=time.monotonic() - began_s)
    return True


def _read_back(
    session: requests.Session,
    url: str,
    token: str,
    box: int,
    history: dict[int, list[Write]],
    log: IO[str],
) -> None:
    """Read a box that only this writer writes to, and compare."""
    began_s = time.monotonic()
    try:
        answer = _get(session, url, token, box)
    except requests.RequestException as error:
        _note(log, "failed", method="GET", status=0, text=repr(error))
        return
    if answer.status_code != 200:
        _note(log, "failed", method="GET", status=answer.status_code, text=answer.text)
        return
    took_s = time.monotonic() - began_s
    _note(log, "read", wrong=differences(answer.content, box, history[box]), took_s=took_s)


def _note(log: IO[str], event: str, **fields: object) -> None:
    """One line, in the hands of the system when this returns."""
    log.write(json.dumps({"event": event, "at_s": time.monotonic(), **fields}) + "\n")


if __name__ == "__main__":
    _write_until_stopped(json.loads(sys.argv[1]))
