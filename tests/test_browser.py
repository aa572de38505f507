"""What attendees and instructors see, in a real browser: JupyterLab, the demo of notebook 12, a deck."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from tests import browser, screenshots
from tools import instructor
from utils import WorkshopError

needs_browser = pytest.mark.skipif(
    not (browser.EXECUTABLE and importlib.util.find_spec("playwright")),
    reason="needs Playwright and Chromium: make browser",
)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # in the head of every notebook


@needs_browser
def test_a_newcomer_opens_the_first_notebook_runs_all_and_solves_an_exercise(tmp_path):
    with browser.lab(tmp_path / "workshop", "00") as url, browser.chromium() as (page, trouble):
        browser.open_lab(page, url)
        browser.run_all(page)
        figures = page.locator(".jp-OutputArea-output img")
        widths = figures.evaluate_all("images => images.map(image => image.complete && image.naturalWidth)")
        browser.answer(page, "most_similar = ...", "(0, 2)")
        page.get_by_text("✗ 00.1: not yet. These two share the word *bank*").wait_for()
        browser.answer(page, "most_similar = (0, 2)", "(0, 1)")
        page.get_by_text("✓ 00.1: correct").wait_for()
        browser.all_have_run(page)
        page.keyboard.press("Control+s")
        page.get_by_text("Saving completed").wait_for()
        page.get_by_role("link", name="their quality was measured").click()
        page.get_by_role("heading", name="Data and checkpoints").wait_for()
    [path] = (tmp_path / "workshop" / "notebooks").glob("*.ipynb")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    assert not [output for output in outputs if output.output_type == "error"]
    # JupyterLab 4.6 shows no alt text (github.com/jupyter/enhancement-proposals/issues/120), but must keep it
    alts = [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(widths) == len(alts) >= 2
    assert all(width > 500 for width in widths) and all(len(alt) > 40 for alt in alts)
    assert set(trouble) <= {BADGE}


@needs_browser
def test_the_demo_rates_reviews_refuses_with_a_sentence_and_asks_no_other_machine():
    with browser.demo() as url, browser.chromium() as (page, trouble):
        page.goto(url)
        browser.rate(page, "It broke after two days, and nobody answers my letters.")
        best = page.get_by_test_id("label-output-value")
        best.get_by_text("1 star", exact=True).wait_for()
        assert re.search(r"1 star\n\d\d%", page.locator(".gradio-container").inner_text())

        page.get_by_role("button", name="Una maravilla, lo uso todos los días.").click()
        page.get_by_role("button", name="Submit").click()
        best.get_by_text("5 stars", exact=True).wait_for()

        for text, sentence in [
            ("   ", "The text is empty: write a review."),
            ("good " * 1_001, "The text has 5,005 characters; at most 5,000 are accepted."),
        ]:
            browser.rate(page, text)
            page.get_by_text(sentence).wait_for()
        browser.rate(page, "毎日使っています。買ってよかったです。")  # it goes on after bad ones
        best.get_by_text(re.compile("[45] stars")).wait_for()
    assert not trouble


@needs_browser
def test_a_deck_opened_as_a_file_shows_formulas_figures_and_notes_without_a_network():
    deck = make_deck("02")
    with browser.chromium() as (page, trouble):
        browser.open_deck(page, deck)
        slides = list(browser.slides(page))
    figures = [figure for slide in slides for figure in slide["figures"]]
    assert len(slides) >= 10
    assert sum(slide["notes"] for slide in slides) >= 5
    assert any(slide["formulas"] and "softmax" in slide["text"] for slide in slides)
    assert len(figures) >= 8
    for figure in figures:
        assert figure["natural"] > 0
        assert len(figure["alt"]) > 40 and "No description" not in figure["alt"]
        # in the window, and the 12 points of its text, 18 pixels as saved, not smaller than 12
        assert figure["top"] >= 0 and figure["bottom"] <= 800 and figure["right"] <= 1280, figure
        assert 18 * figure["width"] / figure["natural"] >= 12, figure
    assert not trouble


def make_deck(number: str) -> Path:
    try:
        return instructor.slides([number])[0]
    except WorkshopError as error:
        if "cannot be fetched" in str(error):
            pytest.skip("the scripts of the decks cannot be fetched without a network")
        raise


def test_the_pictures_of_the_readme_exist_and_have_alt_texts():
    readme = (browser.ROOT / "README.md").read_text(encoding="utf-8")
    pictures = dict(re.findall(r'<img src="(docs/[^"]+)"[^>]* alt="([^"]{40,})"', readme))
    assert sorted(pictures) == sorted(f"docs/{name}" for name in screenshots.PICTURES)
    for name in pictures:
        content = (browser.ROOT / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 150_000
