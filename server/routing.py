"""Routes as data, and finding the one that answers to a path.

A template is a path with parts in braces and optional pieces in brackets::

    /sd/{token}/[{channels}/]{npz|raw}/{box}

`{npz|raw}` is a choice of service words. What `TAILS` has takes the rest of the path as it is,
slashes and all; elsewhere the final slash is optional.
"""

import itertools
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web

from ndcass.errors import InvalidRequest, NdcassError, NotFound
from ndcass.server.http_errors import Plane
from ndcass.server.match import Match

Handler = Callable[[web.Request, Match], Awaitable[web.StreamResponse]]

# The front ends of the original served the application below these names, also twice (10.1).
PREFIXES = ("/nd/", "/ocp/")
# Older names of applications.
APPLICATION_ALIASES = {"ca": "sd", "catmaid": "tilecache"}
PLANES = {
    "sd": Plane.DATA,
    "tilecache": Plane.DATA,
    "overlay": Plane.DATA,
    "synaptogram": Plane.DATA,
    "viz": Plane.DATA,
    "ramon": Plane.DATA,
    "ndgraph": Plane.DATA,
    "resource": Plane.RESOURCE,
}

# What names a layer of an overlay.
_LAYER = {"server": r"[\w.:\[\]-]+", "token": r"\w+", "channel": r"\w+"}
# The parts of a template and what they may be. Tokens and channels are words; what the resource API
# calls things is checked by the model, which says what is wrong with it.
PARTS = {
    "token": r"\w+",
    "channels": r"[\w,+]+",
    "channel": r"\w+",
    "count": r"[^/]+",
    # Annotations: what a POST says beside the objects, the id of one, a field and its value.
    "words": r"(?:overwrite|preserve|exception|update|dataonly|reduce|json|batch|remap)"
    r"(?:/(?:overwrite|preserve|exception|update|dataonly|reduce|json|batch|remap))*",
    "object": r"[0-9]{1,20}",
    "field": r"[^/]+",
    "value": r"[^/]+",
    "level": r"[^/]+",
    "kind": r"[0-9]{1,4}",
    "image": r"\w+",
    "values": r"[^/]+",
    "colours": r"[\w,:+]+",
    "ids": r"[0-9,]+",
    "nifti_options": r"(?:create|annotations|/)*",
    "slices": r"[0-9]{1,19}",
    "alpha": r"0|1|1\.0|0?\.[0-9]{1,2}",
    **{f"{n}_{what}": part for n in ("first", "second") for what, part in _LAYER.items()},
    "job": r"[\w-]{1,80}",
    "dataset": r"[^/]+",
    "project": r"[^/]+",
    "channel_name": r"[^/]+",
    "token_name": r"[^/]+",
    # The original tolerates such behind `info` and `projinfo`.
    "junk": r"[\w,/]*",
}
TAILS = frozenset(
    "box plane voxel corner tile viking_tile region percent predicates object_data graph "
    "rest".split()
)
# The answer repeats the path in its text, but not megabytes of it.
SHOWN_CHARACTERS = 200

_PIECE = re.compile(r"\{([^}]*)\}|([\[\]])")
_SLASHES = re.compile(r"//+")


class MethodNotAllowed(NdcassError):
    """A path that is known, for other methods."""

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f'Method "{method[:20]}" not allowed; this path answers to {", ".join(allowed)}.'
        )
        self.allowed = allowed


@dataclass(frozen=True)
class Route:
    """One line of the route table.

    Attributes
    ----------
    method : str
        GET answers to HEAD as well.
    template : str
    handler : callable
    summary : str
        One sentence, for whoever reads ``/openapi.json``.
    aliases : tuple of str
        Further templates that old clients use.
    challenge : bool
        Whether an anonymous caller who may not gets 401 instead of 403.
    refuses : bool
        Whether it only says no: then it does not make its path known for other methods.
    changes : bool
        Whether it changes something, even as a GET: then HEAD is not for it.
    """

    method: str
    template: str
    handler: Handler
    summary: str
    aliases: tuple[str, ...] = ()
    challenge: bool = False
    refuses: bool = False
    changes: bool = False
    methods: tuple[str, ...] = field(init=False, repr=False)  # all that it answers to
    patterns: tuple[tuple[str, re.Pattern[str]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        templates = (self.template, *self.aliases)
        patterns = tuple((_word(template), _compiled(template)) for template in templates)
        object.__setattr__(self, "patterns", patterns)
        reads = self.method == "GET" and not self.changes
        object.__setattr__(self, "methods", ("GET", "HEAD") if reads else (self.method,))

    def expanded(self) -> Iterator[tuple[str, str]]:
        """Each path of the template without choices and options, with its service word."""
        options = re.split(r"\[([^\]]*)\]", self.template)
        plain, optional = options[::2], options[1::2]
        for kept in itertools.product(*[("", piece) for piece in optional]):
            path = "".join(a + b for a, b in itertools.zip_longest(plain, kept, fillvalue=""))
            path = path.replace("{junk}", "/")
            choice = re.search(r"\{([^}]*\|[^}]*)\}", path)
            if choice is None:
                yield path, ""
                continue
            for word in choice[1].split("|"):
                yield path.replace(choice[0], word), word


def _word(template: str) -> str:
    """The application that a template begins with, or empty where that is a part."""
    word = template.split("/")[1]
    return "" if "{" in word else word


def _compiled(template: str) -> re.Pattern[str]:
    pattern = ""
    at = 0
    for piece in _PIECE.finditer(template):
        pattern += re.escape(template[at : piece.start()])
        at = piece.end()
        name, bracket = piece.groups()
        if bracket:
            pattern += "(?:" if bracket == "[" else ")?"
        elif name in TAILS:
            pattern += "(?P<tail>.*)"
        elif name in PARTS:
            pattern += f"(?P<{name}>{PARTS[name]})"
        else:
            pattern += f"(?P<service>{name})"
    rest = template[at:]
    slash = rest.endswith("/") and len(template) > 1
    pattern += re.escape(rest[:-1]) + "/?" if slash else re.escape(rest)
    return re.compile(pattern, re.ASCII | re.DOTALL)


def normal_path(raw_path: str) -> str:
    """A path as the templates have it: decoded, single slashes, no prefix, today's names.

    Parameters
    ----------
    raw_path : str
        As the client sent it, perhaps with a query, which is dropped.
    """
    path = raw_path.partition("?")[0]
    if "%" in path:
        path = unquote(path, errors="replace")
    if "//" in path:
        path = _SLASHES.sub("/", path)
    while path.startswith(PREFIXES):
        path = path[path.index("/", 1) :]
    if path in ("/nd", "/ocp"):
        return "/"
    word, slash, rest = path[1:].partition("/")
    if word in APPLICATION_ALIASES:
        path = f"/{APPLICATION_ALIASES[word]}{slash}{rest}"
    return path


class Router:
    """Finds the route of a path: by its first word, then by the templates in their order."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._of_word: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            for word, pattern in route.patterns:
                self._of_word.setdefault(word, []).append((pattern, route))

    def find(self, method: str, path: str) -> tuple[Route, Match]:
        """The route of a normal path and its parts.

        Raises
        ------
        InvalidRequest
            If a list of channels has an empty name.
        NotFound
            If no template fits the path.
        MethodNotAllowed
            If one does, but not for this method.
        """
        wanted = "GET" if method == "HEAD" else method
        allowed: list[str] = []
        for pattern, route in self._candidates(path):
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if route.method == wanted and method in route.methods:
                return route, _match(found)
            if not route.refuses:
                allowed += [m for m in route.methods if m not in allowed]
        if allowed:
            raise MethodNotAllowed(method, [*allowed, "OPTIONS"])
        raise NotFound(f"no route fits {path[:SHOWN_CHARACTERS]!r}; /openapi.json lists them")

    def methods(self, path: str) -> list[str]:
        """Which methods a normal path answers to; empty if it is unknown."""
        found: list[str] = []
        for pattern, route in self._candidates(path):
            if not route.refuses and pattern.fullmatch(path):
                found += [method for method in route.methods if method not in found]
        return [*found, "OPTIONS"] if found else []

    def _candidates(self, path: str) -> Sequence[tuple[re.Pattern[str], Route]]:
        end = path.find("/", 1)
        word = path[1:] if end < 0 else path[1:end]
        if not word or word not in self._of_word:
            return self._of_word.get("", ())
        return self._of_word[word]


def plane_of(path: str) -> Plane:
    """Whose habits the answers of a normal path follow."""
    return PLANES.get(path[1:].partition("/")[0], Plane.OWN)


def _match(found: re.Match[str]) -> Match:
    names = found.groupdict()
    channels = names.pop("channels", None)
    listed = tuple(channels.split(",")) if channels is not None else None
    if listed is not None and "" in listed:
        raise InvalidRequest(f"the list of channels {channels[:80]!r} has an empty name in it")
    take = names.pop
    return Match(take("token", ""), listed, take("service", ""), take("tail", ""), names)
