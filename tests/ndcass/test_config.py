from pathlib import Path

import pytest

from ndcass.config import Settings, load
from ndcass.errors import ConfigError


def test_no_file_means_defaults() -> None:
    assert load(None, {}) == Settings()


def test_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text(
        "server:\n  port: 9000\n  request_timeout_s: 5\n  max_body_bytes: 1_000\n"
        "access:\n  public_write_channels: [t/c]\nlog:\n"
    )
    settings = load(path, {})
    assert settings.server.port == 9000
    assert settings.server.request_timeout_s == 5.0
    assert isinstance(settings.server.request_timeout_s, float)
    assert settings.server.max_body_bytes == 1000
    assert settings.access.public_write_channels == ("t/c",)
    assert settings.store == Settings().store


def test_empty_file_means_defaults(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text("# nothing\n")
    assert load(path, {}) == Settings()


def test_overrides_win_over_the_file_and_none_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text("server: {port: 9000, host: a}")
    settings = load(path, {}, overrides={"server.port": 1, "server.host": None})
    assert (settings.server.port, settings.server.host) == (1, "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {prot: 1}", r"server\.prot; did you mean server\.port\? Known are server\.host"),
        (
            "serve: {port: 1}",
            r"serve; did you mean server\? Known are access, cassandra, log, pict",
        ),
        ("server: {zzzz: 1}", r"unknown setting server\.zzzz\. Known are"),
        ("server: {port: x}", r"server\.port must be a whole number, not 'x'"),
        ("server: {port: 1.5}", r"server\.port must be a whole number"),
        ("server: {port: true}", r"server\.port must be a whole number"),
        ("server: {port: 65536}", r"server\.port must be from 0 to 65535"),
        ("server: {port: -1}", r"server\.port must be from 0"),
        ("server: {workers: 1000}", r"server\.workers must be from 0 to 256"),
        ("server: {host: 1}", r"server\.host must be a text"),
        ("server: {host: ''}", r"server\.host must not be empty"),
        ("server: {request_timeout_s: 0}", r"server\.request_timeout_s must be above 0"),
        ("server: {request_timeout_s: .nan}", r"server\.request_timeout_s must be above 0"),
        ("server: {request_timeout_s: .inf}", r"server\.request_timeout_s must be above 0"),
        ("server: {request_timeout_s: soon}", r"server\.request_timeout_s must be a number"),
        ("server: {max_body_bytes: 0}", r"server\.max_body_bytes must be above 0"),
        ("server: {port: null}", r"server\.port must be a whole number, not None"),
        ("access: {public_write: 1}", r"access\.public_write must be true or false"),
        ("access: {public_write: 'yes'}", r"access\.public_write must be true or false"),
        ("access: {public_write_channels: t/c}", r"must be a list of texts"),
        ("access: {public_write_channels: [t]}", r"'t' is not TOKEN/CHANNEL"),
        ("store: {engine: mysql}", r"store\.engine 'mysql' is unknown; known are embedded"),
        ("store: {folder: ''}", r"store\.folder must not be empty"),
        ("store: {maintain_interval_s: -1}", r"must be above 0"),
        ("pictures: {own_names: ['http://a']}", r"'http://a' is no host or host:port"),
        ("pictures: {overlay_servers: [a.example]}", r"'a.example' is no http or https address"),
        ("pictures: {viz_server: 'ftp://a'}", r"'ftp://a' is no http or https address"),
        ("tile_cache: {max_bytes: -1}", r"tile_cache.max_bytes must be at least 0"),
        ("log: {level: loud}", r"log\.level 'loud' is unknown; known are debug, info"),
        ("server: 5", r"server must hold settings"),
        ("- a", r"must hold sections"),
        ("text", r"must hold sections"),
        ("a: [", r"is no YAML"),
        ("cassandra: {contact_points: []}", r"must name at least one node"),
        ("cassandra: {contact_points: a}", r"cassandra\.contact_points must be a list of texts"),
        ("cassandra: {password: p}", r"is a secret: it comes from NDCASS_CASSANDRA_PASSWORD"),
        ("cassandra: {port: 0}", r"cassandra\.port must be from 1"),
        ("cassandra: {protocol_version: 3}", r"must be 4 or 5"),
        ("cassandra: {archive_keyspace: Big}", r"'Big' is no name of a keyspace"),
        ("cassandra: {archive_keyspace: ''}", r"'' is no name of a keyspace"),
        ("cassandra: {archive_data_centre: ''}", r"archive_data_centre must not be empty"),
        ("cassandra: {archive_replicas: 0}", r"archive_replicas must be above 0"),
        ("cassandra: {ingest_keyspace: a}", r"ingest_data_centre belong together"),
        (
            "cassandra: {ingest_keyspace: ndcass, ingest_data_centre: i}",
            r"the two tiers must not share a keyspace",
        ),
        ("cassandra: {request_timeout_s: 31}", r"must not be above cassandra\.write_window_s"),
        ("cassandra: {max_clock_skew_ms: -1}", r"max_clock_skew_ms must be at least 0"),
        ("cassandra: {bucket_bits: 9}", r"bucket_bits must be from 0 to 8, or -1"),
        ("cassandra: {tls_key_file: a}", r"tls_key_file belong together"),
        ("admin_token: {x: 1}", r"unknown setting admin_token"),
        ("server: !!python/object/apply:os.system ['true']", r"is no YAML"),
    ],
)
def test_bad_file_is_refused_with_the_reason_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, {})
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no YAML"):
        load(path, {})


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml", {})


def test_secret_comes_from_the_environment_and_is_not_shown() -> None:
    settings = load(None, {"NDCASS_ADMIN_TOKEN": "5ec2e7" + "0" * 34})
    assert settings.admin_token == "5ec2e7" + "0" * 34
    assert "5ec2e7" not in repr(settings)


def test_the_password_of_the_store_comes_from_the_environment_and_is_not_shown() -> None:
    settings = load(None, {"NDCASS_CASSANDRA_PASSWORD": "xyzzy"})
    assert settings.cassandra.password == "xyzzy"
    assert "xyzzy" not in repr(settings)


def test_empty_secret_counts_as_none() -> None:
    assert load(None, {"NDCASS_ADMIN_TOKEN": ""}).admin_token is None


@pytest.mark.parametrize(
    "token", ["two words", "hush-hush", "café", "x" * 40, "a" * 39, "a" * 41, "a" * 40 + "\n"]
)
def test_secret_that_is_no_key_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError, match="NDCASS_ADMIN_TOKEN must be 40 hex") as caught:
        load(None, {"NDCASS_ADMIN_TOKEN": token})
    assert token not in str(caught.value)
