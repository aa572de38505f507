"""A real browser in front of what attendees see: JupyterLab, the Gradio demo, a deck. Used by tests and screenshots."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

import nbformat

from tools import notebooks
from utils.workshop import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # milliseconds: much, because other tests share the cores

# the cells of a notebook up to the one that launches its demo, as they stand there
DEMO = """
import sys, nbformat
names = {"__name__": "__main__"}
for cell in nbformat.read(sys.argv[1], as_version=4).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, cell.id, "exec"), names)
        if ".launch(" in cell.source:
            break
print("at", names["demo_url"], flush=True)
sys.stdin.read()
"""


SLIDE = """slide => ({
    text: slide.innerText,
    notes: slide.querySelectorAll("aside.notes").length,
    formulas: slide.querySelectorAll(".mjx-chtml").length,
    figures: [...slide.querySelectorAll("img")].map(image => {
        const {top, bottom, right, width} = image.getBoundingClientRect();
        return {alt: image.alt, natural: image.naturalWidth, top, bottom, right, width};
    }),
})"""

# a deck sets the formulas of a slide anew when the slide is turned to, and a busy machine takes its time
FORMULAS_ARE_SET = """() => [...document.querySelectorAll(".slides section.present:not(.stack)")].every(slide =>
    slide.querySelectorAll(".mjx-chtml:not(.MJXc-processing)").length
        >= slide.querySelectorAll("script[type^='math/tex']").length)"""


@contextmanager
def chromium(width: int = 1280, height: int = 800, scale: float = 1) -> Iterator[tuple[Page, list[str]]]:
    """A page of a headless browser, and a list of what goes wrong: requests to other machines, which it refuses, and errors in scripts."""
    from playwright.sync_api import sync_playwright

    trouble = []

    def refuse(route):
        trouble.append(route.request.url)
        route.abort()

    with sync_playwright() as play:
        # as root, as in containers, Chromium has no sandbox; their /dev/shm is small
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = play.chromium.launch(executable_path=EXECUTABLE, args=options)
        context = browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=scale, service_workers="block"
        )
        context.set_default_timeout(PATIENCE)
        context.route(lambda url: not _here(url), refuse)
        page = context.new_page()
        page.on("websocket", lambda socket: None if _here(socket.url) else trouble.append(socket.url))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        try:
            yield page, trouble
        finally:
            browser.close()


def _here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "file", "about") or parts.hostname == "127.0.0.1"


@contextmanager
def _server(address: str, *command: str, cwd: Path, **environment: str) -> Iterator[re.Match[str]]:
    """Run a server until the block ends; yields the match of `address`, a pattern, with its output."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not (found := re.search(address, _content(log))):
                if process.poll() is not None:
                    raise RuntimeError(f"{command[:4]} stopped before it served:\n{_content(log)}")
                time.sleep(0.1)
            yield found
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _content(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@contextmanager
def lab(folder: Path, number: str) -> Iterator[str]:
    """JupyterLab as `make lab` starts it, in `folder`, with a copy of a notebook without outputs; yields its address."""
    [path] = notebooks.paths([number])
    (folder / "notebooks").mkdir(parents=True)
    for name in ("data", "local_hub", "utils"):  # where set-up cell and links look for them
        (folder / name).symlink_to(ROOT / name)
    copy = nbformat.read(path, as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(copy, folder / "notebooks" / path.name)
    # neither the settings nor the progress of whoever runs this
    own = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"), str(folder / "jupyter"))
    own |= dict.fromkeys(("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"), str(folder / "jupyter"))
    [options] = re.findall(r"-m jupyter lab (.*) notebooks/", (ROOT / "Makefile").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "jupyter", "lab", *options.split(), "--ServerApp.port=0", "--no-browser"]
    served = r"(http://127\.0\.0\.1:\d+)/lab\?(token=\w+)"
    with _server(served, *command, "--allow-root", cwd=folder, WORKSHOP_CACHE=str(folder / "cache"), **own) as found:
        yield f"{found[1]}/lab/tree/notebooks/{path.name}?{found[2]}"


def open_lab(page: Page, url: str) -> None:
    """Open a notebook in JupyterLab, answer its question about news, and wait for the kernel."""
    page.goto(url)
    page.get_by_role("button", name="No", exact=True).click()
    page.locator(".jp-CodeCell").first.wait_for()
    page.get_by_text(re.compile(r"Python 3.* \| Idle")).wait_for()  # otherwise it asks for a kernel


def run_all(page: Page) -> None:
    """Choose Run → Run All Cells, and wait until all have ended."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    all_have_run(page)


def all_have_run(page: Page) -> None:
    """Wait until every cell has its number; an output appears earlier, and what is saved then has none."""
    page.wait_for_function(
        r"""() => {
            const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
            return prompts.length && prompts.every(prompt => /^\[\d+\]:$/.test(prompt.textContent));
        }"""
    )


def answer(page: Page, line: str, value: str) -> None:
    """Replace what stands behind the equals sign of a line of code by `value`, and run its cell."""
    page.locator(".cm-line", has_text=line).click()
    page.keyboard.press("End")
    for _ in line.partition("= ")[2]:
        page.keyboard.press("Backspace")
    page.keyboard.type(value)
    page.keyboard.press("Shift+Enter")


@contextmanager
def demo(number: str = "12") -> Iterator[str]:
    """The Gradio demo of a notebook, made by its own cells; yields its address."""
    [path] = notebooks.paths([number])
    with _server(r"at (http://127\.0\.0\.1:\d+)/", sys.executable, "-c", DEMO, str(path), cwd=ROOT) as found:
        yield found[1]


def rate(page: Page, review: str) -> None:
    """Type a review into the demo and press its button."""
    page.get_by_label("Review").fill(review)
    page.get_by_role("button", name="Submit").click()


def open_deck(page: Page, deck: Path) -> None:
    """Open a deck from the disk, and wait until reveal.js and MathJax have started. Slides change at once, without a movement."""
    page.goto(deck.as_uri())
    page.locator(".reveal.ready").wait_for()
    page.wait_for_function("() => window.MathJax && MathJax.isReady")
    page.add_style_tag(content="* { transition: none !important; }")


def slides(page: Page) -> Iterator[dict[str, Any]]:
    """Press space until the end of a deck; yields what every slide shows when it is complete."""
    number = None
    while number != (number := page.locator(".slide-number").inner_text()):
        present = page.locator(".slides section.present:not(.stack)")
        while present.locator(".fragment:not(.visible)").count():
            page.keyboard.press("Space")
        page.wait_for_function(FORMULAS_ARE_SET)
        yield present.evaluate(SLIDE)
        page.keyboard.press("Space")
