"""Finding Java and Cassandra's jars, with programs in the place of Java and Maven."""

import multiprocessing
import os
from pathlib import Path

import pytest

from ndcass.cluster import distribution
from ndcass.cluster.distribution import (
    AGENT_NAME,
    Distribution,
    find_distribution,
    find_java,
    locate_distribution,
    pinned_version,
)
from ndcass.errors import MissingTool


def program(path: Path, text: str) -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def java(home: Path, version: str) -> Path:
    """A Java that says it has a version."""
    return program(home / "bin" / "java", f"""echo 'openjdk version "{version}" 2025' >&2""")


def maven(folder: Path, *, jars: str = f"cassandra-all.jar {AGENT_NAME}") -> Path:
    """A Maven that copies jars where it is told to, and writes down that it did."""
    script = f"""
for option in "$@"; do case "$option" in -DoutputDirectory=*) out="${{option#*=}}";; esac; done
echo ran >> {folder}/runs
sleep 0.2
mkdir -p "$out"
for jar in {jars}; do echo x > "$out/$jar"; done
"""
    return program(folder / "mvn", script)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with a Java 17, a Maven, and nothing else."""
    monkeypatch.setattr(distribution, "_JAVA_FOLDERS", ())
    java(tmp_path / "jdk", "17.0.9")
    maven(tmp_path / "bin")
    return {
        "JAVA_HOME": str(tmp_path / "jdk"),
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
    }


def test_java_home_wins_over_the_path(tmp_path: Path, environ: dict[str, str]) -> None:
    java(tmp_path / "other", "17.0.1")
    path = f"{tmp_path / 'other' / 'bin'}"
    assert find_java({**environ, "PATH": path}) == tmp_path / "jdk" / "bin" / "java"
    assert find_java({"PATH": path}) == tmp_path / "other" / "bin" / "java"


def test_java_of_another_version_is_passed_over(tmp_path: Path, environ: dict[str, str]) -> None:
    old = java(tmp_path / "old", "1.8.0_402")
    environ["PATH"] = str(tmp_path / "jdk" / "bin")
    assert find_java({**environ, "JAVA_HOME": str(old.parent.parent)}).parts[-3] == "jdk"


def test_java_where_debian_puts_it_is_found(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "_JAVA_FOLDERS", (f"{tmp_path}/jd*",))
    assert find_java({}) == tmp_path / "jdk" / "bin" / "java"


def test_missing_java_is_named_with_what_was_found_and_how_to_get_it(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    found = java(tmp_path / "new", "25-ea")
    with pytest.raises(MissingTool) as failed:
        find_java({"PATH": str(found.parent)})
    assert f"no Java 17 ({found} is version 25): install a JDK 17" in str(failed.value)


def test_java_that_does_not_run_is_told(tmp_path: Path, environ: dict[str, str]) -> None:
    broken = program(tmp_path / "broken" / "bin" / "java", "exit 3")
    with pytest.raises(MissingTool, match="is no working Java"):
        find_java({"PATH": str(broken.parent)})


def test_jars_are_fetched_once_and_told(tmp_path: Path, environ: dict[str, str]) -> None:
    said: list[str] = []
    found = find_distribution(environ, report=said.append)
    assert found == find_distribution(environ, report=said.append)
    assert found.agent.is_file()
    assert found.jars.parent == tmp_path / "home" / ".cache" / "ndcass" / "cassandra"
    assert (tmp_path / "bin" / "runs").read_text() == "ran\n"
    assert len(said) == 1
    assert said[0].startswith(f"fetching Cassandra {pinned_version()} from Maven Central")


def test_looking_fetches_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    found = locate_distribution(environ)
    assert not found.jars.exists()
    assert not (tmp_path / "home").exists()
    assert find_distribution(environ, report=lambda line: None) == found


def test_cache_folder_may_be_elsewhere(tmp_path: Path, environ: dict[str, str]) -> None:
    environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    found = find_distribution(environ, report=lambda line: None)
    assert found.jars.is_relative_to(tmp_path / "cache")


def _find(environ: dict[str, str]) -> Distribution:
    return find_distribution(environ, report=lambda line: None)


def test_several_at_once_fetch_once(tmp_path: Path, environ: dict[str, str]) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_find, [environ] * 3)
    assert len(set(found)) == 1
    assert (tmp_path / "bin" / "runs").read_text() == "ran\n"


def test_failure_of_maven_leaves_no_folder_and_says_why(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    program(tmp_path / "bin" / "mvn", "echo '[INFO] trying'; echo '[ERROR] no network'; exit 1")
    with pytest.raises(MissingTool, match=r"could not fetch Cassandra .*: \[ERROR\] no network"):
        find_distribution(environ, report=lambda line: None)
    found = locate_distribution(environ)
    assert [path.name for path in found.jars.parent.iterdir()] == ["lock"]
    maven(tmp_path / "bin")
    assert find_distribution(environ, report=lambda line: None) == found


def test_fetched_without_the_agent_is_not_taken(tmp_path: Path, environ: dict[str, str]) -> None:
    maven(tmp_path / "bin", jars="cassandra-all.jar")
    with pytest.raises(MissingTool, match=f"fetched no {AGENT_NAME}"):
        find_distribution(environ, report=lambda line: None)
    assert not locate_distribution(environ).jars.exists()


def test_missing_maven_is_named_with_how_to_get_it(environ: dict[str, str]) -> None:
    environ["PATH"] = os.devnull
    with pytest.raises(MissingTool, match=r"no Maven .*: install Maven .*CASSANDRA_HOME"):
        find_distribution(environ, report=lambda line: None)


def unpacked(folder: Path, version: str) -> Path:
    """As much of an unpacked Cassandra as is looked at."""
    (folder / "lib").mkdir(parents=True)
    for name in (f"apache-cassandra-{version}.jar", "jamm-0.4.1.jar"):
        (folder / "lib" / name).touch()
    return folder


def test_unpacked_cassandra_is_taken(tmp_path: Path, environ: dict[str, str]) -> None:
    home = unpacked(tmp_path / "cassandra", "5.0.99")
    found = find_distribution({**environ, "CASSANDRA_HOME": str(home)}, report=lambda line: None)
    assert (found.jars, found.agent) == (home / "lib", home / "lib" / "jamm-0.4.1.jar")


def test_unpacked_cassandra_of_another_series_is_refused(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    home = unpacked(tmp_path / "cassandra", "4.1.11")
    with pytest.raises(MissingTool, match=r"Cassandra 4\.1\.11: 5\.0\.x is needed"):
        locate_distribution({**environ, "CASSANDRA_HOME": str(home)})


def test_folder_that_holds_no_cassandra_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(MissingTool, match="holds no lib/apache-cassandra"):
        locate_distribution({**environ, "CASSANDRA_HOME": str(tmp_path)})
