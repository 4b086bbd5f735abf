"""The real ComfyUI page in a headless Chromium."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from comfy_client import ComfyServer
from desk import PATIENCE, Desk

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM = f"NO CHROMIUM, so the page was not tested: install one ({', '.join(BROWSERS)}) so that it is on the PATH"
NO_PLAYWRIGHT = "NO PLAYWRIGHT, so the page was not tested: python -m pip install playwright"
WINDOW = {"width": 1900, "height": 1150}
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no window opens by itself
    "Comfy.Minimap.Visible": False,
    "Comfy.Canvas.LeftMouseClickBehavior": "panning",  # the page's own first start fails to set these two
    "Comfy.Canvas.MouseWheelScroll": "zoom",
}


@pytest.fixture(scope="session")
def browser():
    """A Chromium; without one, or without Playwright, the test is skipped, and the summary of all tests says why."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(NO_CHROMIUM)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip(NO_PLAYWRIGHT)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield running
        running.close()


def furnish(base: Path, comfyui: Path) -> None:
    """What a fresh ComfyUI has, and what the page asks for at each start: a refused request is always a fault."""
    shutil.copy(comfyui / "input" / "example.png", base / "input")
    user = base / "user" / "default"
    for folder in ("workflows", "subgraphs"):
        (user / folder).mkdir(parents=True, exist_ok=True)
    for name, content in (("comfy.settings.json", SETTINGS), ("comfy.templates.json", [])):
        (user / name).write_text(json.dumps(content))


@pytest.fixture
def desk(browser, server: ComfyServer, comfyui: Path):
    """A fresh page with an empty graph. What the page complained about, in console or requests, fails the test."""
    furnish(server.base, comfyui)
    context = browser.new_context(viewport=WINDOW)
    context.set_default_timeout(PATIENCE * 1000)
    context.route("**/user.css", lambda route: route.fulfill(content_type="text/css", body=""))
    opened = Desk(context.new_page(), server)
    opened.open()
    yield opened
    context.close()
    assert not opened.problems
