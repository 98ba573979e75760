"""The software of a node: a Java that it runs on, and Cassandra's jars.

The jars come from Maven Central by ``conf/cassandra/pom.xml``, once, into a folder that all
clusters of a user share; or from a Cassandra that is there already (``CASSANDRA_HOME``). Whatever
is missing is named together with how to get it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ndcass.errors import MissingTool

JAVA_VERSION = 17
"""Cassandra 5.0 runs on 11 and 17; its options here are those for 17."""

AGENT_NAME = "jamm-0.4.0.jar"
"""What the pinned Cassandra depends on."""

_JAVA_FOLDERS = ("/usr/lib/jvm/java-17-openjdk-*", "/usr/lib/jvm/*17*", "/opt/java/*17*")
_JAVA_HINT = (
    "install a JDK 17 (Debian and Ubuntu: apt-get install openjdk-17-jdk-headless) or let "
    "JAVA_HOME name one"
)
_MAVEN_HINT = (
    "install Maven (Debian and Ubuntu: apt-get install maven), or let CASSANDRA_HOME name an "
    "unpacked Apache Cassandra"
)
_MAVEN_TIMEOUT_S = 1200.0
_JAVA_TIMEOUT_S = 60.0
_LAST_LINES = 12

Report = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What nodes are started from."""

    java: Path
    jars: Path
    """A folder of jars."""
    agent: Path
    """The jar that measures objects: given to the JVM by itself, else memory is only guessed."""


def find_distribution(environ: Mapping[str, str], *, report: Report) -> Distribution:
    """Java and jars; the first time on a machine the jars are fetched.

    Parameters
    ----------
    environ : mapping
        ``JAVA_HOME``, ``PATH``, ``CASSANDRA_HOME``, ``XDG_CACHE_HOME`` and ``HOME`` are looked at.
    report : callable
        Told in one line what takes long.

    Raises
    ------
    MissingTool
        If something is not there; its text says how to get it.
    """
    found = locate_distribution(environ)
    if not found.jars.is_dir():
        _fetch(found, environ, report=report)
    if not found.agent.is_file():
        raise MissingTool(f"there is no {found.agent}: it is not a whole Cassandra")
    return found


def locate_distribution(environ: Mapping[str, str]) -> Distribution:
    """Java, and where the jars are or will be; nothing is fetched.

    Raises
    ------
    MissingTool
        If there is no Java, or no Cassandra where ``CASSANDRA_HOME`` says.
    """
    java = find_java(environ)
    home = environ.get("CASSANDRA_HOME")
    if home:
        jars = _jars_at(Path(home))
        agents = sorted(jars.glob("jamm-*.jar"))
        return Distribution(java, jars, agents[-1] if agents else jars / AGENT_NAME)
    digest = hashlib.sha256(_pom().encode()).hexdigest()[:8]  # another pom may mean other jars
    jars = cache_folder(environ) / f"{pinned_version()}-{digest}"
    return Distribution(java, jars, jars / AGENT_NAME)


def find_java(environ: Mapping[str, str]) -> Path:
    """The first Java of the right version, in ``JAVA_HOME``, on the path, or where Debian puts it.

    Raises
    ------
    MissingTool
        If there is none; the text names what was found instead.
    """
    others = []
    for java in _java_candidates(environ):
        version = _java_version(java)
        if version == JAVA_VERSION:
            return java
        others.append(f"{java} is " + (f"version {version}" if version else "no working Java"))
    found = f" ({'; '.join(others)})" if others else ""
    raise MissingTool(f"no Java {JAVA_VERSION}{found}: {_JAVA_HINT}")


def pinned_version() -> str:
    """The version of Cassandra that ndcass is made for."""
    found = re.search(r"<cassandra\.version>([^<]+)</cassandra\.version>", _pom())
    assert found is not None, "conf/cassandra/pom.xml names a version"
    return found[1]


def _java_candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where a Java could be, each place once."""
    seen = set()
    home = environ.get("JAVA_HOME")
    on_path = shutil.which("java", path=environ.get("PATH", ""))
    usual = sorted(
        found for pattern in _JAVA_FOLDERS for found in Path("/").glob(pattern.lstrip("/"))
    )
    places = [Path(home) / "bin" / "java"] if home else []
    places += [Path(on_path)] if on_path else []
    places += [folder / "bin" / "java" for folder in usual]
    for place in places:
        real = place.resolve()
        if real not in seen and place.is_file() and os.access(place, os.X_OK):
            seen.add(real)
            yield place


def _java_version(java: Path) -> int | None:
    try:
        asked = subprocess.run(  # noqa: S603 - a Java of this machine
            [java, "-version"], capture_output=True, text=True, timeout=_JAVA_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # 1.8.0_402, 11.0.2, 17.0.15, 25-ea
    found = re.search(r'version "(?:1\.)?(\d+)', asked.stderr + asked.stdout)
    return int(found[1]) if found else None


def _jars_at(home: Path) -> Path:
    """The jars of an unpacked Cassandra, which must be of the series that the settings are for."""
    jars = home / "lib"
    found = sorted(jars.glob("apache-cassandra-[0-9]*.jar")) or sorted(
        jars.glob("cassandra-all-[0-9]*.jar")
    )
    if not found:
        raise MissingTool(
            f"CASSANDRA_HOME is {home}, which holds no lib/apache-cassandra-*.jar: let it name an "
            "unpacked Apache Cassandra, or unset it and Maven fetches one"
        )
    series = pinned_version().rpartition(".")[0]
    version = found[0].stem.removeprefix("apache-cassandra-").removeprefix("cassandra-all-")
    if not version.startswith(f"{series}."):
        raise MissingTool(f"CASSANDRA_HOME is {home}, Cassandra {version}: {series}.x is needed")
    return jars


def _fetch(wanted: Distribution, environ: Mapping[str, str], *, report: Report) -> None:
    """Fill the shared folder of jars.

    Safe when several do it at once: one fills a folder beside it while the others wait for the
    lock, and it gets its name when it is whole.
    """
    parent = wanted.jars.parent
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent / "lock"):
        if wanted.jars.is_dir():
            return
        report(f"fetching Cassandra {pinned_version()} from Maven Central, once, to {wanted.jars}")
        with tempfile.TemporaryDirectory(dir=parent) as unfinished:
            filled = Path(unfinished) / "lib"
            _run_maven(wanted.java, environ, into=filled)
            if not (filled / AGENT_NAME).is_file():
                raise MissingTool(f"Maven fetched no {AGENT_NAME}: change its name in ndcass too")
            filled.rename(wanted.jars)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where jars are kept for all clusters of a user."""
    base = environ.get("XDG_CACHE_HOME")
    cache = Path(base) if base else Path(environ.get("HOME") or Path.home()) / ".cache"
    return cache / "ndcass" / "cassandra"


def _run_maven(java: Path, environ: Mapping[str, str], *, into: Path) -> None:
    maven = shutil.which("mvn", path=environ.get("PATH", ""))
    if maven is None:
        raise MissingTool(f"no Maven (mvn), which fetches Cassandra's jars: {_MAVEN_HINT}")
    into.parent.joinpath("pom.xml").write_text(_pom(), encoding="utf-8")
    command = [maven, "--batch-mode", "-f", str(into.parent / "pom.xml")]
    command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    command += [f"-DoutputDirectory={into}"]
    try:
        ran = subprocess.run(  # noqa: S603 - Maven of this machine
            command,
            env={**environ, "JAVA_HOME": str(java.resolve().parent.parent)},
            capture_output=True,
            text=True,
            timeout=_MAVEN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingTool(f"Maven did not end within {_MAVEN_TIMEOUT_S:.0f} s") from None
    if ran.returncode != 0:
        said = [line for line in ran.stdout.splitlines() if "ERROR" in line] or [ran.stderr]
        text = " ".join(said[:_LAST_LINES])
        raise MissingTool(f"Maven could not fetch Cassandra {pinned_version()}: {text}")


def _pom() -> str:
    return resources.files("ndcass.conf").joinpath("cassandra/pom.xml").read_text(encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among all processes of this machine."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
