"""The page in a real browser, before a server whose steps the test gives."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.unit.gateway.browser import WHY_NOT, chromium
from tests.unit.gateway.stepwise import StepwiseServer, serving_stepwise

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
LIMIT_MS = 60_000  # waits are for a state; this is only where a broken page ends


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def server() -> Iterator[StepwiseServer]:
    with serving_stepwise() as found:
        yield found


@pytest.fixture
def gateway(start: Callable[..., Any], server: StepwiseServer) -> Any:
    return start(server_url=server.url, preview_every=1, heartbeat_s=0.3, poll_s=0.05)


@pytest.fixture
def open_page(browser: Any, gateway: Any) -> Iterator[Callable[[], Any]]:
    """A new tab with the page; whatever it asks of another address fails the test."""
    context = browser.new_context()
    context.set_default_timeout(LIMIT_MS)
    elsewhere: list[str] = []
    context.on("request", lambda request: None if local(request.url, gateway.url) else elsewhere.append(request.url))

    def tab() -> Any:
        page = context.new_page()
        page.goto(gateway.url)
        return page

    yield tab
    context.close()
    assert not elsewhere


def local(url: str, gateway_url: str) -> bool:
    return url.startswith((gateway_url, "blob:", "data:"))


def submit(page: Any, prompt: str = "a red ball rolls left") -> Any:
    """Its card, once it is there."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Make the video").click()
    card = page.locator("#videos li", has_text=prompt).first
    card.wait_for()
    return card


def until(page: Any, card: Any, script: str, argument: Any = None) -> None:
    """The script says so, of the card and an argument."""
    page.wait_for_function(f"([card, x]) => {{ {script} }}", arg=[card.element_handle(), argument], timeout=LIMIT_MS)


def bar_is(page: Any, card: Any, percent: int) -> None:
    until(page, card, "return card.querySelector('progress').value === x", percent)


def test_a_video_comes_into_being_and_plays(open_page: Any, server: StepwiseServer) -> None:
    """The bar moves, each preview differs from the last, and the video's time advances."""
    page = open_page()
    card = submit(page)
    shown = ""
    for number, percent in ((1, 25), (2, 50), (3, 75)):
        server.step(number)
        bar_is(page, card, percent)
        until(page, card, "const now = card.querySelector('img')?.src; return now && now !== x", shown)
        shown = card.locator("img").get_attribute("src")
        assert f"step {number} of 4" in card.inner_text()
    assert "low-noise expert" in card.inner_text() and "0.5 s left" in card.inner_text()
    server.step(4)
    server.finish()
    card.get_by_role("button", name="Play").click()
    card.locator("progress").wait_for(state="hidden")
    until(page, card, "const video = card.querySelector('video'); return video && video.currentTime > 0.3")
    with page.expect_download() as download:
        card.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename.endswith(".mp4")


def test_cancel_stops_the_work(open_page: Any, server: StepwiseServer) -> None:
    page = open_page()
    card = submit(page)
    server.step(1)
    bar_is(page, card, 25)
    card.get_by_role("button", name="Cancel").click()
    assert server.cancelled.wait(30)
    card.get_by_text("cancelled").wait_for()
    card.get_by_role("button", name="Delete").click()
    page.get_by_text("No videos yet.").wait_for()


def test_an_error_stands_at_its_field_and_goes_with_it(open_page: Any, server: StepwiseServer) -> None:
    page = open_page()
    size = page.get_by_label("Size (width x height)")
    size.fill("64")
    page.get_by_label("Prompt", exact=True).fill("a red ball")
    page.keyboard.press("Control+Enter")
    note = page.locator("#error-size")
    note.wait_for()
    assert "WIDTHxHEIGHT" in note.inner_text()
    assert size.get_attribute("aria-invalid") == "true" and size.get_attribute("aria-describedby") == "error-size"
    assert page.evaluate("document.activeElement.name") == "size"
    size.fill("64x64")
    submit(page)
    assert note.count() == 0 and size.get_attribute("aria-invalid") is None


def test_the_form_shows_what_the_server_published(open_page: Any, server: StepwiseServer) -> None:
    """Defaults and ranges in the fields, choices as choices; what is chosen is sent."""
    page = open_page()
    page.get_by_text("More").click()
    profile = page.get_by_label("Step profile")
    profile.locator("option", has_text="fast").wait_for(state="attached")
    assert profile.locator("option").all_inner_texts() == ["exact (default)", "fast"]
    assert page.get_by_label("Frames a second").get_attribute("placeholder") == "16 (1 to 120)"
    assert page.get_by_label("Seed").get_attribute("placeholder") == "random"
    assert page.get_by_label("Seconds").get_attribute("placeholder") == "1.1 (to 5.1 at 16 frames a second)"
    assert page.get_by_label("Size (width x height)").get_attribute("placeholder") == "64x64 (to 256x256)"
    profile.select_option("fast")
    submit(page)
    assert server.began.wait(30)
    assert b"fast" in b"".join(server.requests[0].raw_input_contents)


def test_a_reload_in_the_middle_goes_on(open_page: Any, server: StepwiseServer) -> None:
    page = open_page()
    bar_is_at_first = submit(page)
    server.step(1)
    bar_is(page, bar_is_at_first, 25)
    page.reload()
    card = page.locator("#videos li").first
    card.wait_for()
    bar_is(page, card, 25)
    until(page, card, "return card.querySelector('img') !== null")
    server.step(2)
    bar_is(page, card, 50)
    server.finish()
    card.get_by_role("button", name="Play").wait_for()
    assert page.locator("#videos li").count() == 1


def test_two_tabs_show_the_same(open_page: Any, server: StepwiseServer) -> None:
    first, second = open_page(), open_page()
    card = submit(first)
    elsewhere = second.locator("#videos li").first
    elsewhere.wait_for()
    server.step(3)
    bar_is(first, card, 75)
    bar_is(second, elsewhere, 75)
    elsewhere.get_by_role("button", name="Cancel").click()
    card.get_by_text("cancelled").wait_for()
    elsewhere.get_by_role("button", name="Delete").click()
    first.get_by_text("No videos yet.").wait_for()


def test_a_paused_queue_is_shown(open_page: Any, gateway: Any) -> None:
    page = open_page()
    gateway.http.post("/v1/queue/pause", json={"reason": "new disks"})
    page.get_by_text("The queue is paused: new disks").wait_for()
    card = submit(page)
    until(page, card, "return card.innerText.includes('the queue is paused')")
    gateway.http.post("/v1/queue/resume")
    page.get_by_text("being made").first.wait_for()


def test_a_key_is_asked_for_and_kept_in_the_tab(open_page: Any, gateway: Any, database_url: str) -> None:
    with ThreadPoolExecutor(1) as pool:  # Playwright has an event loop in this thread
        key = pool.submit(asyncio.run, key_of(database_url)).result()
    page = open_page()
    page.get_by_text("a key is needed").wait_for()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Your key").fill(key)
    with page.expect_navigation():
        page.get_by_label("Your key").press("Tab")
    submit(page)


async def key_of(database_url: str) -> str:
    from wan_t2v_gateway.database.owners import make_key
    from wan_t2v_gateway.database.pool import Database

    async with Database(database_url) as database:
        return await make_key(database, "anna")
