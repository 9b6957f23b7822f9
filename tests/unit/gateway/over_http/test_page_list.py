"""The page's list of many videos, and the page under another name, in a real browser."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.unit.gateway.browser import ANOTHER_NAME, WHY_NOT, chromium

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
LIMIT_MS = 60_000
NUMBER = 25  # more than the page shows at first
LOOK_MS = 3_000  # the page's own
# All within one second, which is what a document tells of the time.
MANY = (
    "INSERT INTO videos (id, owner, status, model, fields, turn, created_at, completed_at) SELECT 'video_' || md5(n::text), "
    "'local', 'cancelled', 'wan2.2-t2v', jsonb_build_object('prompt', 'number ' || n), n, "
    "timestamptz '2026-11-29 12:00:00Z' + n * interval '1 millisecond', now() FROM generate_series(10, %s) AS n"
)
BIG_SEED = 2**53 + 1  # JavaScript has no such number


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty tab whose clock stands still until the test moves it; an error that nobody caught fails the test."""
    tab = browser.new_page()
    tab.set_default_timeout(LIMIT_MS)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.clock.install(time=0)
    tab.clock.pause_at(1)
    yield tab
    tab.close()
    assert not errors


@pytest.fixture
def gateway(start: Callable[..., Any], database_url: str) -> Any:
    running = start(workers=0)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MANY, [9 + NUMBER])
    return running


def shown(page: Any, number: int) -> list[int]:
    """The numbers of the videos, once there are so many cards."""
    page.wait_for_function("number => document.querySelectorAll('#videos li').length === number", arg=number)
    return [int(text.removeprefix("number ")) for text in page.locator("#videos .prompt").all_inner_texts()]


def delete(page: Any, number: int) -> None:
    card = page.locator("#videos li", has_text=f"number {number}")
    card.get_by_role("button", name="Delete").click()
    card.wait_for(state="detached")


def test_cards_stay_in_order_whatever_is_deleted(page: Any, gateway: Any) -> None:
    newest = 9 + NUMBER
    left = list(range(newest, 9, -1))
    page.goto(gateway.url)
    assert shown(page, 20) == left[:20]
    for deleted in (newest - 3, newest - 19):  # one within, and the one after which the older ones are asked for
        delete(page, deleted)
        left.remove(deleted)
    page.clock.run_for(LOOK_MS)
    assert shown(page, 20) == left[:20]
    page.get_by_role("button", name="Older ones").click()
    assert shown(page, len(left)) == left


def test_older_ones_that_do_not_come_are_told(page: Any, gateway: Any) -> None:
    page.goto(gateway.url)
    answer = json.dumps({"error": {"message": "the database does not answer"}})
    page.route("**/v1/videos?limit=20&after=*", lambda route: route.fulfill(status=503, body=answer))
    page.get_by_role("button", name="Older ones").click()
    page.get_by_text("the database does not answer").wait_for()


def test_a_video_is_asked_for_over_plain_http_from_another_machine(
    page: Any, gateway: Any, owner: Callable[..., dict[str, str]]
) -> None:
    """Where browsers have less: the page is no secure context. The seed comes and goes as it was typed."""
    with ThreadPoolExecutor(1) as pool:  # Playwright has an event loop in this thread
        key = pool.submit(owner, "anna").result()["authorization"].removeprefix("Bearer ")
    page.add_init_script(f"sessionStorage.setItem('wan-t2v-key', '{key}')")
    page.goto(gateway.url.replace("127.0.0.1", ANOTHER_NAME))
    assert page.evaluate("isSecureContext") is False
    page.get_by_label("Prompt", exact=True).fill("a red ball")
    page.get_by_label("Seed").fill(str(BIG_SEED))
    page.get_by_role("button", name="Make the video").click()
    card = page.locator("#videos li", has_text="a red ball")
    card.wait_for()
    path = f"/v1/videos/{card.get_attribute('data-id')}"
    told = gateway.http.get(path, headers={"authorization": f"Bearer {key}"}).json()
    assert told["settings"]["seed"] == BIG_SEED
    read = "path => import('/page/api.js').then(({ call }) => call('GET', path)).then((video) => video.settings.seed)"
    assert page.evaluate(read, path) == str(BIG_SEED)
