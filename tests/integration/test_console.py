"""The slice browser in a real browser: with keys, sliders and links, and without a script."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import requests
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import browser_or_skip
from tests.processes import KEY, Gateway, StartGateway

SIZE_ZYX = (20, 700, 1000)
OFFSET_Z = 5
# The grey of the middle of the picture, as the browser has drawn it.
_GREY = """async picture => {
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  return context.getImageData(canvas.width >> 1, canvas.height >> 1, 1, 1).data[0];
}"""


@pytest.fixture(scope="module")
def running(start_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway with `em`, where a voxel of section z is 10 z, and `series`, where it is 20 t."""
    found = start_gateway(tmp_path_factory.mktemp("data"))
    depth, height, width = SIZE_ZYX
    dataset: dict[str, Any] = {"ximagesize": width, "yimagesize": height, "zimagesize": depth}
    dataset |= {"zoffset": OFFSET_Z, "zvoxelres": 10.0, "scalinglevels": 2, "public": 1}
    found.create("dataset/d/", dataset_name="d", **dataset)
    found.create("dataset/d/project/d/", project_name="d", public=1)
    found.create("dataset/d/project/d/token/t/", token_name="t", public=1)
    for name, kind, more in (
        ("em", "image", {}),
        ("series", "timeseries", {"starttime": 1, "endtime": 6}),
    ):
        fields = {"channel_name": name, "channel_type": kind, "channel_datatype": "uint8"}
        found.create(f"dataset/d/project/d/channel/{name}/", **fields, **more)
    z = np.arange(OFFSET_Z, OFFSET_Z + depth, dtype="u1")
    write(found, "em", np.broadcast_to(10 * z[:, None, None], SIZE_ZYX))
    for t in range(1, 6):
        write(found, "series", np.full((1, *SIZE_ZYX), 20 * t, dtype="u1"), f"{t},{t + 1}/")
    return found


def write(running: Gateway, channel: str, voxels: np.ndarray, time: str = "") -> None:
    depth, height, width = SIZE_ZYX
    box = f"0/0,{width}/0,{height}/{OFFSET_Z},{OFFSET_Z + depth}/{time}"
    answer = requests.post(
        f"{running.url}/nd/sd/t/{channel}/raw/{box}",
        data=np.ascontiguousarray(voxels).tobytes(),
        headers={"Authorization": f"Token {KEY}", "X-Volume-Dtype": "|u1"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A busy machine is no failure.
    expect.set_options(timeout=20_000)
    with browser_or_skip() as found:
        yield found


@pytest.fixture
def page(browser: Browser, running: Gateway) -> Iterator[Page]:
    """A tab; that anything goes wrong in it, or goes elsewhere, is a failure."""
    yield from tab(browser, running, script=True)


@pytest.fixture
def plain_page(browser: Browser, running: Gateway) -> Iterator[Page]:
    """A tab that runs no script of pages."""
    yield from tab(browser, running, script=False)


def tab(browser: Browser, running: Gateway, *, script: bool) -> Iterator[Page]:
    context = browser.new_context(
        base_url=running.url,
        java_script_enabled=script,
        viewport={"width": 1200, "height": 900},
    )
    found = context.new_page()
    found.set_default_timeout(20_000)
    wrong: list[str] = []
    found.on("console", lambda message: wrong.append(message.text))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
    asked: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    yield found
    context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(running.url)] == []


def expect_place(page: Page, text: str) -> None:
    expect(page.locator("#place")).to_contain_text(text)


def expect_loaded(page: Page) -> None:
    # No function to wait for: to evaluate one again and again is what the policy forbids.
    expect(page.locator("#view")).not_to_have_attribute("aria-busy", "true")


def grey(page: Page) -> int:
    return int(page.locator("#picture").evaluate(_GREY))


def query(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def test_from_what_is_public_to_a_section(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="d", exact=True).click()
    expect(page.get_by_role("heading", name="Levels")).to_be_visible()
    page.get_by_role("link", name="em", exact=True).click()
    expect_place(page, "xy at z 14: x 115 to 882, y 61 to 636, level 0")
    assert grey(page) == 140


def test_keys_move_about(page: Page) -> None:
    page.goto("/view/t/em/")
    page.keyboard.press("PageDown")
    expect_place(page, "z 15:")
    assert grey(page) == 150
    for _ in range(3):
        page.keyboard.press("PageUp")
    expect_place(page, "z 12:")
    page.keyboard.press("End")
    expect_place(page, "z 24:")
    page.keyboard.press("PageDown")
    page.keyboard.press("Home")
    expect_place(page, "z 5:")
    assert grey(page) == 50
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    expect_place(page, "x 232 to 999, y 0 to 575")
    assert query(page) == {"x": "691", "y": "205", "z": "5"}
    expect(page.locator("#z-value")).to_have_text("5")
    # What was reached can be kept and sent.
    page.reload()
    expect_place(page, "xy at z 5: x 232 to 999, y 0 to 575, level 0")


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_moving_shows_what_the_page_of_that_place_shows(page: Page, plane: str) -> None:
    rng = np.random.default_rng(1)
    shown = "picture => [picture.getAttribute('src'), document.getElementById('place').textContent]"
    for _ in range(4):
        x, y, z = (int(n) for n in rng.integers(0, (1000, 700, 25)))
        page.goto(f"/view/t/series/?plane={plane}&level={rng.integers(2)}&x={x}&y={y}&z={z}&t=2")
        keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown"]
        for key in rng.choice(keys, 5):
            page.keyboard.press(key)
        expect_loaded(page)
        moved = page.locator("#picture").evaluate(shown)
        links = page.locator("a[data-service]").evaluate_all("links => links.map(l => l.href)")
        text = page.request.get(page.url).text()
        assert f'src="{moved[0]}"' in text
        assert f">{moved[1]}</figcaption>" in text
        assert [link for link in links if f'href="{urlsplit(link).path}"' not in text] == []


def test_keys_change_the_level_and_stay_at_the_place(page: Page) -> None:
    page.goto("/view/t/em/?x=100&y=600&z=7")
    page.keyboard.press("PageDown")
    expect_place(page, "z 8:")
    page.keyboard.press("-")
    expect_place(page, "xy at z 8: x 0 to 499, y 0 to 349, level 1")
    assert (query(page)["x"], query(page)["y"]) == ("50", "300")
    page.keyboard.press("-")
    expect_place(page, "level 2")
    page.keyboard.press("-")  # there is none
    page.keyboard.press("+")
    expect_place(page, "level 1")
    page.keyboard.press("+")
    expect_place(page, "level 0")
    expect_place(page, "z 8:")
    assert abs(int(query(page)["x"]) - 100) <= 4


def test_sliders_choose_section_and_timestep(page: Page) -> None:
    page.goto("/view/t/series/")
    expect_place(page, "z 14, t 1:")
    page.get_by_label("time").fill("4")
    expect_place(page, "z 14, t 4:")
    assert grey(page) == 80
    page.get_by_label("section").fill("20")
    expect_place(page, "z 20, t 4:")
    assert query(page)["t"] == "4"


def test_buttons_and_numbers_do_what_keys_do(page: Page) -> None:
    page.goto("/view/t/em/")
    page.get_by_role("link", name="section +").click()
    page.get_by_role("link", name="section +").click()
    expect_place(page, "z 16:")
    page.get_by_label("left").click()
    expect_place(page, "x 0 to 767")
    page.get_by_label("x", exact=True).fill("999")
    expect_place(page, "x 232 to 999")
    # In a field keys are for the text.
    page.get_by_label("x", exact=True).press("ArrowLeft")
    page.get_by_label("x", exact=True).press("Home")
    expect_place(page, "z 16: x 232 to 999")
    page.get_by_role("link", name="xz").click()
    expect_place(page, "xz at y 349: x 232 to 999, z 5 to 24")


def test_keys_outside_of_the_browser_scroll_the_page(page: Page) -> None:
    page.goto("/view/t/em/")
    expect_place(page, "z 14:")
    page.get_by_role("heading", name="Levels").click()
    page.keyboard.press("End")
    expect(page.locator("footer")).to_be_in_viewport()
    expect_place(page, "z 14:")


def test_links_are_the_same_box_in_every_format(page: Page, running: Gateway) -> None:
    page.goto("/view/t/series/")
    page.keyboard.press("PageDown")
    page.get_by_label("time").fill("3")
    expect_place(page, "z 15, t 3:")
    path = page.get_by_role("link", name="npz").get_attribute("href")
    assert path == "/nd/sd/t/series/npz/0/115,883/61,637/15,16/3,4/"
    body = requests.get(f"{running.url}{path}", timeout=60).content
    voxels = np.load(io.BytesIO(zlib.decompress(body)))
    assert voxels.shape == (1, 1, 1, 576, 768)
    assert (voxels == 60).all()
    png = page.get_by_role("link", name="png").get_attribute("href")
    assert png == "/nd/sd/t/series/xy/0/115,883/61,637/15/3/"


def test_brightness_makes_another_picture_and_stays(page: Page) -> None:
    page.goto("/view/t/em/")
    page.get_by_label("black").fill("100")
    page.get_by_label("white").fill("200")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**low=100*")
    assert grey(page) == int(40 * 255 / 100)
    page.locator("#view").focus()
    page.keyboard.press("PageDown")
    expect_place(page, "z 15:")
    assert grey(page) == int(50 * 255 / 100)
    assert query(page)["high"] == "200"


def test_of_many_sections_asked_for_at_once_the_last_is_shown(page: Page) -> None:
    page.goto("/view/t/em/?z=5")
    for _ in range(10):
        page.keyboard.press("PageDown")
    expect_place(page, "z 15:")
    expect_loaded(page)
    assert grey(page) == 150


def test_a_section_that_does_not_come_is_said_and_the_next_one_shown(
    browser: Browser, running: Gateway
) -> None:
    def refuse(route: Route) -> None:
        route.abort()

    page = browser.new_page(base_url=running.url)
    page.goto("/view/t/em/")
    expect_place(page, "z 14:")
    page.route("**/20/", refuse)
    page.get_by_label("section").fill("20")
    expect_place(page, "z 20: x 115 to 882, y 61 to 636, level 0 could not be loaded")
    page.get_by_label("section").fill("22")
    expect(page.locator("#place")).to_have_text("xy at z 22: x 115 to 882, y 61 to 636, level 0")
    assert grey(page) == 220
    page.close()


def test_everything_can_be_looked_at_without_a_script(plain_page: Page) -> None:
    page = plain_page
    page.goto("/view/t/series/")
    page.get_by_role("link", name="section +").click()
    expect_place(page, "z 15, t 1:")
    page.get_by_label("left").click()
    expect_place(page, "x 0 to 767")
    page.get_by_role("link", name="coarser").click()
    expect_place(page, "z 15, t 1: x 0 to 499, y 0 to 349, level 1")
    page.get_by_label("time").fill("3")
    page.get_by_role("button", name="Show").click()
    expect_place(page, "z 15, t 3:")
    page.get_by_role("link", name="yz").click()
    expect_place(page, "yz at x")
    page.get_by_role("link", name="level 0").click()
    expect_place(page, "level 0")


def test_every_control_has_a_name(page: Page, tmp_path: Path) -> None:
    page.goto("/view/t/series/")
    nameless = page.evaluate(
        """[...document.querySelectorAll("a, button, input:not([type=hidden]), img, svg")]
        .filter(e => !(e.textContent.trim() || e.alt || e.ariaLabel || e.labels?.length))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.screenshot(path=tmp_path / "page.png")


def test_a_narrow_screen_shows_all_of_it(browser: Browser, running: Gateway) -> None:
    page = browser.new_page(base_url=running.url, viewport={"width": 360, "height": 700})
    for path in ("/", "/view/t/", "/view/t/series/"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.close()
