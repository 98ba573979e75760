"""Keys and certificates for the nodes of this machine, made with Java's keytool.

One authority a cluster, whose certificate clients check nodes with; one key a node. Clusters of
several machines bring their own.
"""

import secrets
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError, MissingTool

_TIMEOUT_S = 60.0
_KEYS = ["-keyalg", "RSA", "-keysize", "2048"]
_VALID = ["-validity", "3650"]
_AUTHORITY, _NODE = "authority", "node"


def tls_folder(cluster: Cluster) -> Path:
    """Where the authority and the password of all keystores are."""
    return cluster.folder / "tls"


def with_certificates(site: Site) -> Site:
    """The site with its generated keystores in place and their password known.

    Raises
    ------
    MissingTool, ClusterError
        If keytool is not there, or fails.
    """
    tls = site.cluster.security.client_tls
    if tls is None or not tls.is_generated:
        return site
    folder = tls_folder(site.cluster)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password_file = folder / "password"
    if not password_file.exists():
        unfinished = folder / "password.new"
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(24), encoding="ascii")
        unfinished.replace(password_file)
    keytool = _Keytool(_keytool(site), password_file)
    authority = folder / "authority.p12"
    is_new = not tls.ca_file.exists()
    if is_new:
        site.report("making keys and certificates for TLS")
        authority.unlink(missing_ok=True)  # of a time that it was not finished
        _make_authority(keytool, authority, tls.ca_file, site.cluster.name)
    for node in site.cluster.nodes:
        assert node.keystore is not None, "the loader gives every node one"
        if is_new or not node.keystore.exists():
            _make_node_key(keytool, node, node.keystore, authority, tls.ca_file)
    return replace(site, keystore_password=password_file.read_text(encoding="ascii"))


def generated_password(cluster: Cluster) -> str:
    """The password of the generated keystores; empty while there is none."""
    path = tls_folder(cluster) / "password"
    return path.read_text(encoding="ascii") if path.exists() else ""


class _Keytool:
    """Java's keytool with the password of all our keystores, which is not on a command line."""

    def __init__(self, program: Path, password_file: Path) -> None:
        self._program = program
        self._passwords = ["-storetype", "PKCS12", "-storepass:file", str(password_file)]

    def __call__(self, command: str, keystore: Path, *options: str) -> None:
        line = [str(self._program), command, "-keystore", str(keystore), *self._passwords, *options]
        try:
            ran = subprocess.run(  # noqa: S603 - the keytool of this machine's Java
                line, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"keytool {command} did not end within {_TIMEOUT_S:.0f} s") from None
        if ran.returncode != 0:
            raise ClusterError(f"keytool {command} failed: {' '.join(ran.stdout.split())}")


def _make_authority(keytool: _Keytool, keystore: Path, ca_file: Path, name: str) -> None:
    who = ["-alias", _AUTHORITY, "-dname", f"CN=authority of {name}"]
    what = ["-ext", "bc:critical=ca:true", "-ext", "ku:critical=keyCertSign"]
    keytool("-genkeypair", keystore, *who, *_KEYS, *_VALID, *what)
    with tempfile.TemporaryDirectory(dir=ca_file.parent) as folder:
        exported = Path(folder) / ca_file.name
        keytool("-exportcert", keystore, "-alias", _AUTHORITY, "-rfc", "-file", str(exported))
        exported.replace(ca_file)


def _make_node_key(
    keytool: _Keytool, node: Node, keystore: Path, authority: Path, ca_file: Path
) -> None:
    keystore.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=keystore.parent) as folder:
        made, request, signed = (Path(folder) / name for name in ("key.p12", "request", "signed"))
        own = ["-alias", _NODE]
        keytool("-genkeypair", made, *own, "-dname", f"CN={node.name}", *_KEYS, *_VALID)
        keytool("-certreq", made, *own, "-file", str(request))
        files = ["-infile", str(request), "-outfile", str(signed)]
        names = ["-ext", f"san=ip:{node.client_address}"]
        keytool("-gencert", authority, "-alias", _AUTHORITY, *_VALID, *names, *files)
        trusted = ["-noprompt", "-alias", _AUTHORITY]
        keytool("-importcert", made, *trusted, "-file", str(ca_file))
        keytool("-importcert", made, *own, "-file", str(signed))
        made.replace(keystore)


def _keytool(site: Site) -> Path:
    program = site.distribution.java.resolve().parent / "keytool"
    if not program.is_file():
        raise MissingTool(f"there is no {program}, which comes with a whole Java 17")
    return program
