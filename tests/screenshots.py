"""Take the pictures of the README again: `python -m tests.screenshots`, after `make browser`.

The machine needs a font with Japanese letters, such as Debian's fonts-ipafont-gothic, for an example of the demo.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests import browser
from tools import instructor

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT, SCALE = 1100, 700, 1.5  # large letters, because the README shows them small


def lab(name: str) -> None:
    """JupyterLab, with a figure and an exercise that was solved."""
    with (
        tempfile.TemporaryDirectory() as folder,
        browser.lab(Path(folder) / "workshop", "00") as url,
        browser.chromium(WIDTH, HEIGHT, SCALE) as (page, _),
    ):
        browser.open_lab(page, url)
        browser.run_all(page)
        browser.answer(page, "most_similar = ...", "(0, 1)")
        solved = page.get_by_text("✓ 00.1: correct")
        solved.wait_for()
        page.get_by_role("tab", name="File Browser").click()  # closes the side bar
        page.locator(".jp-OutputArea-output img").first.evaluate("figure => figure.scrollIntoView({block: 'start'})")
        _save(page, name)


def demo(name: str) -> None:
    """The Gradio demo, with an answer."""
    with browser.demo() as url, browser.chromium(WIDTH, HEIGHT, SCALE) as (page, _):
        page.emulate_media(color_scheme="light")
        page.goto(url)
        browser.rate(page, "It works, but the manual is a joke and the cable is far too short.")
        page.get_by_test_id("label-output-value").wait_for()
        _save(page, name)


def deck(name: str) -> None:
    """A slide with a figure."""
    [path] = instructor.slides(["02"])
    with browser.chromium(WIDTH, HEIGHT, SCALE) as (page, _):
        browser.open_deck(page, path)
        for slide in browser.slides(page):
            if any("with attention" in figure["alt"] for figure in slide["figures"]):
                break
        _save(page, name)


PICTURES = {"jupyterlab.png": lab, "demo.png": demo, "slide.png": deck}


def _save(page: Page, name: str) -> None:
    page.mouse.move(WIDTH - 1, HEIGHT // 2)
    page.wait_for_timeout(1500)  # for what moves
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = browser.ROOT / "docs" / name
    path.parent.mkdir(exist_ok=True)
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for name, take in PICTURES.items():
        take(name)
