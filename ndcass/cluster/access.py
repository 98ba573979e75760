"""What a cluster is given over CQL once it is up: a superuser of its own, and its keyspaces."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from ndcass.cluster.site import Site
from ndcass.cluster.spec import ClientTls, Cluster
from ndcass.errors import ClusterError, Conflict, StoreError
from ndcass.store.cassandra.administration import (
    DEFAULT_ROLE,
    create_keyspace,
    create_superuser,
    disable_default_role,
    replicate_roles,
)
from ndcass.store.cassandra.driver import ConnectSettings, Driver, TlsSettings

PASSWORD_VARIABLE = "NDCASS_CASSANDRA_PASSWORD"  # noqa: S105 - the name of a variable
# The default role is made some seconds after a first node takes CQL; caches of roles live for two;
# and nodes that have just started are slow.
_TIMEOUT_S = 90.0
_PAUSE_S = 1.0


def connect_settings(
    cluster: Cluster, *, username: str = "", password: str = ""
) -> ConnectSettings:
    """How to reach a cluster by CQL."""
    tls = cluster.security.client_tls
    return ConnectSettings(
        contact_points=tuple(node.client_address for node in cluster.nodes),
        port=cluster.ports.native,
        username=username,
        password=password,
        tls=None if tls is None else _tls_settings(tls),
    )


def _tls_settings(tls: ClientTls) -> TlsSettings:
    return TlsSettings(tls.ca_file, tls.certificate, tls.key, check_names=tls.checks_names)


def superuser_settings(site: Site) -> ConnectSettings:
    """How to reach the cluster of a site as who may do everything there.

    Raises
    ------
    ClusterError
        If that takes a password and there is none.
    """
    if not site.cluster.security.authentication:
        return connect_settings(site.cluster)
    refuse_no_password(site)
    user = site.cluster.security.superuser
    return connect_settings(site.cluster, username=user, password=site.superuser_password)


def refuse_no_password(site: Site) -> None:
    """Find out before nodes are started, not after.

    Raises
    ------
    ClusterError
        If authentication is described and there is no password for the superuser.
    """
    if site.cluster.security.authentication and not site.superuser_password:
        raise ClusterError(
            f"the password of superuser {site.cluster.security.superuser} is missing: set "
            f"{PASSWORD_VARIABLE}, or {PASSWORD_VARIABLE}_FILE to a file that holds it"
        )


async def prepare_cluster(site: Site) -> None:
    """Put the superuser into its place and make the keyspaces; both may have been done before.

    Raises
    ------
    ClusterError
        If nobody may log in, or a keyspace is there and differs.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return await _prepare(site)
        except Conflict as error:
            raise ClusterError(str(error)) from error
        except StoreError as error:  # every step may be done again
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the nodes are up, but superuser and keyspaces are not in place: {error}"
                ) from error
        await asyncio.sleep(_PAUSE_S)


async def _prepare(site: Site) -> None:
    if site.cluster.security.authentication:
        await _secure(site)
    if not site.cluster.keyspaces:
        return
    async with _connected(superuser_settings(site)) as driver:
        for keyspace in site.cluster.keyspaces:
            if await create_keyspace(driver, keyspace.name, {keyspace.tier: keyspace.replicas}):
                site.report(
                    f"keyspace {keyspace.name}: made, {keyspace.replicas} copies in {keyspace.tier}"
                )


async def _secure(site: Site) -> None:
    """Put our superuser into the place of the one whose password everybody knows."""
    own = superuser_settings(site)
    if not await _may_log_in(own):
        default = connect_settings(site.cluster, username=DEFAULT_ROLE, password=DEFAULT_ROLE)
        async with _connected(default) as driver:
            await replicate_roles(
                driver, {tier.name: len(tier.nodes) for tier in site.cluster.tiers}
            )
            await create_superuser(driver, own.username, own.password)
        site.report(f"superuser {own.username}: made")
    async with _connected(own) as driver:
        if await disable_default_role(driver):
            site.report(f"superuser {DEFAULT_ROLE}: taken out of use")


async def _may_log_in(settings: ConnectSettings) -> bool:
    try:
        async with _connected(settings):
            return True
    except StoreError:
        return False


@contextlib.asynccontextmanager
async def _connected(settings: ConnectSettings) -> AsyncIterator[Driver]:
    driver = await Driver.connect(settings)
    try:
        yield driver
    finally:
        await driver.close()
