"""Who is asking, and may they: API keys and the token rule.

The rule (control plane 4.2 with decision 13.4): everybody reads through a public token and whoever
has a key writes through it; a private token is for its owner and superusers. A token that does not
exist looks like a private one, except to a superuser.
"""

from aiohttp import web

from ndcass.errors import NdcassError, NotFound, PermissionDenied, Unauthenticated
from ndcass.keys import hash_key
from ndcass.model import TokenView, User
from ndcass.server.app_keys import SETTINGS, STORES
from ndcass.server.exchange import exchange_of

# "Token" and the key.
_WORDS = 2


async def caller(request: web.Request) -> User | None:
    """Whose API key came with the request; None for anonymous.

    An absent header, another scheme and an unknown key all mean anonymous: clients of the original
    send made-up keys.

    Raises
    ------
    Unauthenticated, PermissionDenied
        If the header has more words than a scheme and a key.
    """
    key = _sent_key(request)
    if key is None:
        return None
    return await request.app[STORES].catalog.user_of_key(hash_key(key))


def _sent_key(request: web.Request) -> str | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    words = header.split()
    if not words or words[0].lower() != "token" or len(words) < _WORDS:
        return None
    if len(words) > _WORDS:
        raise _denied(request, None, "a key has no spaces in it")
    return words[1] if words[1].isascii() else None


async def open_token(request: web.Request, token_name: str, *, write: bool) -> TokenView:
    """What a token leads to, if the caller may use it so.

    Raises
    ------
    Unauthenticated, PermissionDenied
        If not; also if there is no such token, unless the caller is a superuser.
    NotFound
        If there is no such token and the caller may know that.
    """
    key = _sent_key(request)
    catalog = request.app[STORES].catalog
    user = None
    try:
        view = await catalog.token_view(token_name)
        if view.token.public and not write:
            return view  # whoever asks: the most frequent request needs one look at the catalogue
        user = await catalog.user_of_key(hash_key(key)) if key is not None else None
    except NotFound:
        user = await catalog.user_of_key(hash_key(key)) if key is not None else None
        if user is not None and user.superuser:
            raise
        raise _denied(request, user, "no permission for this token") from None
    if user is not None and (user.superuser or view.token.user == user.id):
        return view
    if not view.token.public:
        raise _denied(request, user, "no permission for this token")
    if write and user is None and not _world_may_write(request, view):
        raise _denied(request, user, "writing needs an API key: Authorization: Token KEY")
    return view


def _world_may_write(request: web.Request, view: TokenView) -> bool:
    """Whether the settings open the channels of this request to writers without a key."""
    access = request.app[SETTINGS].access
    if access.public_write:
        return True
    if not access.public_write_channels:
        return False
    match = exchange_of(request).match
    names = match.channels or (match.names.get("channel") or "default",)
    channels = [view.channel(name) for name in names]
    return all(
        channel is not None
        and f"{view.token.token_name}/{channel.channel_name}" in access.public_write_channels
        for channel in channels
    )


def _denied(request: web.Request, user: User | None, why: str) -> NdcassError:
    """The refusal that the clients of this route know: 401 for a few routes, 403 elsewhere."""
    route = exchange_of(request).route
    if user is None and route is not None and route.challenge:
        return Unauthenticated(why)
    return PermissionDenied(why)
