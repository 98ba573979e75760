import pytest
from aiohttp import web

from ndcass.errors import NotFound
from ndcass.server.http_errors import Plane
from ndcass.server.match import Match
from ndcass.server.routes import ROUTES
from ndcass.server.routing import MethodNotAllowed, Route, Router, normal_path, plane_of


@pytest.fixture(scope="module")
def router() -> Router:
    return Router(ROUTES)


@pytest.mark.parametrize(
    "sent",
    [
        "/sd/tok/info/",
        "/nd/sd/tok/info/",
        "/ocp/sd/tok/info/",
        "/nd/nd/sd/tok/info/",
        "/ocp/nd/ca/tok/info/",
        "/ca/tok/info/",
        "//sd//tok///info/",
        "/nd//sd/tok/info/",
        "/nd/sd/tok/info/?format=x",
        "/nd/sd/tok/%69nfo/",
    ],
)
def test_prefixes_aliases_and_runs_of_slashes_mean_one_path(sent: str) -> None:
    assert normal_path(sent) == "/sd/tok/info/"


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("/", "/"),
        ("/nd", "/"),
        ("/nd/", "/"),
        ("/ocp//", "/"),
        ("/catmaid/t/", "/tilecache/t/"),
        ("/cat/t/", "/cat/t/"),
        ("/nda/sd/", "/nda/sd/"),
        ("/sd/t/a%2Cb/npz/0/1%2c2/", "/sd/t/a,b/npz/0/1,2/"),
        ("/%ff", "/�"),
    ],
)
def test_path_is_brought_to_its_normal_form(sent: str, path: str) -> None:
    assert normal_path(sent) == path


@pytest.mark.parametrize("tail", ["0/1,2/3,4/5,6", "0/1,2/3,4/5,6/", "0/1,2/3,4/5,6/0,1", ""])
@pytest.mark.parametrize("service", ["npz", "raw", "zip", "blosc", "hdf5"])
def test_tail_of_a_box_is_passed_on_as_it_is(router: Router, service: str, tail: str) -> None:
    _, match = router.find("GET", f"/sd/tok/a,b/{service}/{tail}")
    assert match == Match("tok", ("a", "b"), service, tail, {})


def test_left_out_channels_are_none(router: Router) -> None:
    _, match = router.find("GET", "/sd/tok/npz/0/1,2/3,4/5,6/")
    assert match.channels is None
    assert match.service == "npz"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/public_tokens/", "/sd/public_tokens/"),
        ("/public_tokens", "/sd/public_tokens/"),
        ("/tok/info/", "/sd/{token}/info{junk}"),
        ("/sd/tok/info", "/sd/{token}/info{junk}"),
        ("/sd/tok/info/a,b/c", "/sd/{token}/info{junk}"),
        ("/sd/tok/projinfo/junk/", "/sd/{token}/projinfo{junk}"),
        ("/tok/lab/reserve/5/", "/sd/{token}/{channel}/reserve/{count}/"),
        ("/sd/tok/lab/reserve/5", "/sd/{token}/{channel}/reserve/{count}/"),
        ("/resource/publicdataset", "/resource/publicdataset/"),
        ("/healthz", "/healthz"),
    ],
)
def test_aliases_and_optional_slashes_find_their_route(
    router: Router, path: str, template: str
) -> None:
    route, _ = router.find("GET", path)
    assert route.template == template


def test_head_is_not_for_what_a_get_changes(router: Router) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        router.find("HEAD", "/sd/tok/chan/reserve/5/")
    assert list(caught.value.allowed) == ["GET", "POST", "OPTIONS"]
    assert router.methods("/tok/chan/reserve/5/") == ["GET", "POST", "OPTIONS"]


def test_viking_asks_with_and_without_a_slash(router: Router) -> None:
    for path in ("/sd/tok/volume.vikingxml", "/sd/tok/volume.vikingxml/"):
        route, match = router.find("GET", path)
        assert (route.template, match.token) == ("/sd/{token}/volume.vikingxml", "tok")


def test_head_is_answered_by_get(router: Router) -> None:
    assert router.find("HEAD", "/healthz")[0].method == "GET"


@pytest.mark.parametrize(
    "path",
    [
        "/sd/",
        "/sd/tok/",
        "/sd/tok/a/gif/0/1,2/3,4/5,6/",
        "/sd/tok/a b/npz/0/1,2/",
        "/sd/t-k/info/",
        "/sd/tök/info/",
        "/resource/",
        "/nowhere",
        "/sd/tok\n/info/",
    ],
)
def test_unknown_path_is_not_found(router: Router, path: str) -> None:
    with pytest.raises(NotFound, match=r"openapi\.json"):
        router.find("GET", path)


def test_known_path_with_another_method_lists_the_allowed_ones(router: Router) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        router.find("PUT", "/sd/tok/a/npz/0/1,2/3,4/5,6/")
    assert caught.value.allowed == ["GET", "HEAD", "POST", "OPTIONS"]


def test_long_path_is_not_repeated_whole(router: Router) -> None:
    with pytest.raises(NotFound) as caught:
        router.find("GET", "/" + "x" * 100_000)
    assert len(str(caught.value)) < 500


def test_template_expands_to_every_path_it_answers_to() -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        raise NotImplementedError

    route = Route("GET", "/sd/{token}/[{channels}/]{npz|raw}/{box}", handler, "A box.")
    assert list(route.expanded()) == [
        ("/sd/{token}/npz/{box}", "npz"),
        ("/sd/{token}/raw/{box}", "raw"),
        ("/sd/{token}/{channels}/npz/{box}", "npz"),
        ("/sd/{token}/{channels}/raw/{box}", "raw"),
    ]


@pytest.mark.parametrize(
    ("path", "plane"),
    [
        ("/sd/tok/info/", Plane.DATA),
        ("/tilecache/tok/", Plane.DATA),
        ("/resource/dataset/", Plane.RESOURCE),
        ("/healthz", Plane.OWN),
    ],
)
def test_first_word_decides_whose_habits_an_answer_follows(path: str, plane: Plane) -> None:
    assert plane_of(path) is plane


def test_every_template_has_one_route_a_method() -> None:
    seen = [(route.method, path) for route in ROUTES for path, _ in route.expanded()]
    assert len(seen) == len(set(seen))
