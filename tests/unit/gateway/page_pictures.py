"""`make gateway-pictures`: the page in light, dark and phone width before the real server, as PNGs to look at."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.unit.gateway.browser import WHY_NOT, chromium
from tests.unit.gateway.conftest import postgres_in_memory
from tests.unit.gateway.running import RunningGateway, running_gateway

SERVER_LOG = Path("build/gateway-pictures-server.log")
PROMPTS = ("a green triangle moves right", "a red ball rolls left")  # the last is at the top of the list, and plays
UNDER_WAY = "a yellow ball rolls right"
SIZES = {"light": (1180, 760), "dark": (1180, 760), "phone": (390, 844)}
LIMIT_MS = 300_000


def main() -> int:
    """Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for light.png, dark.png, phone.png")
    options = parser.parse_args()
    if WHY_NOT:
        print(f"error: {WHY_NOT}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        running_server(ServerOptions(repository=options.repository, log=SERVER_LOG)) as server,
        postgres_in_memory() as (url, _),
        running_gateway(database_url=url, data=Path(data), server_url=server.grpc_url, preview_every=1) as gateway,
        chromium() as browser,
    ):
        for prompt in PROMPTS:
            gateway.until(gateway.post(prompt=prompt, seed=3), "completed")
        for name in SIZES:
            take(browser, gateway, name, options.out / f"{name}.png")
    return 0


def take(browser: Any, gateway: RunningGateway, name: str, path: Path) -> None:
    """One video plays, one is being made and has a preview, one waits."""
    width, height = SIZES[name]
    scheme = "dark" if name == "dark" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(LIMIT_MS)
    page = context.new_page()
    page.goto(gateway.url)
    page.locator("#videos li").nth(len(PROMPTS) - 1).wait_for()
    page.locator("#videos li", has_text=PROMPTS[-1]).first.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('video')?.currentTime > 0.5", timeout=LIMIT_MS)
    made = [
        gateway.post(prompt=prompt, seed=5, num_inference_steps=120)
        for prompt in (UNDER_WAY, "a white ball rolls left")
    ]
    card = page.locator(f"#videos li[data-id='{made[0]}']")
    card.locator("img").wait_for()
    page.wait_for_function(
        "() => [...document.querySelectorAll('progress')].some((bar) => bar.value > 20)", timeout=LIMIT_MS
    )
    page.evaluate("() => scrollTo(0, 0)")
    page.screenshot(path=path)
    context.close()
    for video_id in reversed(made):
        gateway.http.delete(f"/v1/videos/{video_id}")


if __name__ == "__main__":
    sys.exit(main())
