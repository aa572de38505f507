"""What an instructor needs: `python -m tools.instructor timetable | slides`.

`make timetable` and `make slides` call this. The proportions are those of the workshop's original day: 45 minutes for part 1,
30 for part 2, 90 for part 3.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import os
import re
import sys
import tarfile
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import WorkshopError
from utils.workshop import ROOT, index

if TYPE_CHECKING:
    from nbformat import NotebookNode

SHARES = {1: 45, 2: 30, 3: 90}  # of the time that is not a break
SHORTEST, LONGEST = 30, 420
STRETCH = 90  # minutes after which people need a break
BREAK, LUNCH = 15, 45
OPENING = 5  # minutes for notebook 00
# figures below a heading stay in the window (reveal.js scales the slide, 700 pixels high, to the window)
STYLE = ".reveal .slides img { max-height: 540px; margin: 0 }"
DECKS = ROOT / "build" / "slides"
REGISTRY = "https://registry.npmjs.org"
# what a deck shows itself with: version, SHA-512 as the registry publishes it, the parts that are needed
ASSETS = {
    "reveal.js": (
        "4.6.1",
        "1CW0auaXNPmwmvQ7TwpszwVxMi2Xr5cTS3J3EBC/HHgbPF32Dn7aiu/LKWDOGjMbaDwKQiGmfqcoGQ74HUHCMw==",
        ("dist/", "plugin/notes/"),
    ),
    "requirejs": (
        "2.3.7",
        "DouTG8T1WanGok6Qjg2SXuCMzszOo0eHeH9hDZ5Y4x8Je+9JB38HdTLT4/VA8OaUhBa0JPVHJ0pyBkM1z+pDsw==",
        ("require.js",),
    ),
    "jquery": (
        "3.7.1",
        "m4avr8yL8kmFN8psrbFFFmB/If14iN5o9nw/NgnnM+kybDJpRsAynV2BsfpTYrTRysYUdADVD7CkUUizgkpLfg==",
        ("dist/jquery.min.js",),
    ),
    "mathjax": (
        "2.7.9",
        "NOGEDTIM9+MrsqnjPEjVGNx4q0GQxqm61yQwSK+/5S59i26wId5IC5gNu9/bu8+CCVl5p9G2IHcAl/wJa+5+BQ==",
        (
            "MathJax.js",
            "config/",
            "extensions/",
            "jax/element/",
            "jax/input/TeX/",
            "jax/output/CommonHTML/",
            "fonts/HTML-CSS/TeX/woff/",
        ),
    ),
}


def timetable(minutes: int, begin: str = "09:00") -> list[tuple[str, int, str, str]]:
    """Who presents what when.

    Short workshops leave out the notebooks with the highest `priority` number, and give the others the time.

    Args:
        minutes: how long the workshop lasts, breaks included.
        begin: when it starts, as HH:MM.

    Returns:
        rows of (time of day, minutes, what, what to leave out when late); the minutes add up to `minutes`.

    Raises:
        WorkshopError: the workshop is too short or too long, or `begin` is no time of day.
    """
    if not SHORTEST <= minutes <= LONGEST:
        raise WorkshopError(f"A workshop of {minutes} minutes: choose {SHORTEST} to {LONGEST} (MINUTES=180).")
    try:
        clock = datetime.strptime(begin, "%H:%M")
    except ValueError:
        raise WorkshopError(f'"{begin}" is no time of day: write it as 09:00.') from None
    notebooks = index()["notebook"]
    depth = 1 if minutes < 120 else 2 if minutes < 240 else 3
    chosen = [number for number, entry in notebooks.items() if entry["part"] and entry["priority"] <= depth]
    breaks = _breaks(minutes)
    work = minutes - sum(length for length, _ in breaks) - OPENING
    plan = [("00", OPENING), *_spread(work, {number: notebooks[number] for number in chosen})]
    rows, worked = [], 0
    for number, length in plan:
        # a break stands between two notebooks, as near to its place as they allow
        if breaks and worked + length / 2 >= breaks[0][1]:
            pause, _ = breaks.pop(0)
            rows.append((clock.strftime("%H:%M"), pause, "*lunch*" if pause == LUNCH else "*break*", ""))
            clock += timedelta(minutes=pause)
        rows.append(
            (clock.strftime("%H:%M"), length, f"{number} {notebooks[number]['title']}", notebooks[number]["late"])
        )
        clock, worked = clock + timedelta(minutes=length), worked + length
    return rows


def _breaks(minutes: int) -> list[tuple[int, float]]:
    """The breaks of a workshop: their length, and after how many minutes of work they are due."""
    count = max(0, -(-minutes // (STRETCH + BREAK)) - 1)
    lengths = [BREAK] * count
    if minutes >= 300:
        lengths[count // 2] = LUNCH
    work = minutes - sum(lengths)
    return [(length, work * (place + 1) / (count + 1)) for place, length in enumerate(lengths)]


def _spread(work: int, entries: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    """Give every part its share of `work` minutes, and every notebook of a part its share by `minutes_live`."""
    parts = {part: share for part, share in SHARES.items() if any(e["part"] == part for e in entries.values())}
    exact = {}
    for part, share in parts.items():
        its = {number: entry["minutes_live"] for number, entry in entries.items() if entry["part"] == part}
        for number, live in its.items():
            exact[number] = work * share / sum(parts.values()) * live / sum(its.values())
    # whole minutes that add up: round down, then give the rest to those that lost the most
    whole = {number: int(length) for number, length in exact.items()}
    for number in sorted(exact, key=lambda n: whole[n] - exact[n])[: work - sum(whole.values())]:
        whole[number] += 1
    return list(whole.items())


def slides(numbers: list[str] | None = None) -> list[Path]:
    """Write a deck for each notebook: what is marked as a slide, with the prose between as speaker notes (key S).

    The scripts of the decks are fetched once; afterwards neither this nor a deck needs the network.

    Returns:
        the decks, HTML files in `build/slides`.

    Raises:
        WorkshopError: a number that no notebook has, or the scripts cannot be fetched.
    """
    import nbformat
    from nbconvert import SlidesExporter

    from tools import notebooks

    chosen = notebooks.paths(numbers)
    fetch_assets(DECKS / "lib")
    exporter = SlidesExporter(
        reveal_url_prefix="lib/reveal.js",
        reveal_theme="white",
        reveal_number="c/t",
        reveal_width="1200",  # beside a height of 700: projectors are wide
        reveal_scroll=True,
        require_js_url="lib/requirejs/require.js",
        jquery_url="lib/jquery/dist/jquery.min.js",
        mathjax_url="lib/mathjax/MathJax.js?config=TeX-AMS_CHTML-full,Safe",
        mermaid_js_url="data:text/javascript,export default {initialize() {}}",  # no notebook has such a diagram
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    made = []
    for path in chosen:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            kind = "notes" if cell.cell_type == "markdown" else "skip"
            cell.metadata.setdefault("slideshow", {}).setdefault("slide_type", kind)
            _fill_the_slide(cell)
        # the badge would be the only thing that a deck fetches from the network
        notebook.cells[0].source = re.sub(r"(?m)^\[!\[Open in Colab\].*$", "", notebook.cells[0].source)
        page, _ = exporter.from_notebook_node(notebook)
        made.append(DECKS / f"{path.stem}.html")
        made[-1].write_text(page.replace("</head>", f"<style>{STYLE}</style></head>", 1), encoding="utf-8")
    return made


def _fill_the_slide(cell: NotebookNode) -> None:
    """Show a figure without the code that draws it, and with its alt text, which nbconvert's template forgets."""
    for output in cell.get("outputs", []):
        if png := output.get("data", {}).get("image/png"):
            alt = html.escape(output.metadata["image/png"]["alt"])
            output.data = {"text/html": f'<img alt="{alt}" src="data:image/png;base64,{png}">'}
            cell.metadata["transient"] = {"remove_source": True}


def fetch_assets(folder: Path) -> None:
    """Unpack the scripts of the decks into `folder`, unless they are there."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    for name, (version, sha512, parts) in ASSETS.items():
        done = folder / name / "version.txt"
        if done.exists() and done.read_text(encoding="utf-8") == version:
            continue
        url = f"{registry}/{name}/-/{name}-{version}.tgz"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                archive = answer.read()
        except OSError as error:
            raise WorkshopError(
                f"{url} cannot be fetched ({error}). Slides need the network the first time: try again with one."
            ) from None
        if base64.b64encode(hashlib.sha512(archive).digest()).decode() != sha512:
            raise WorkshopError(f"{url} is not what was published: its SHA-512 differs. Try again on another network.")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                member.name = member.name.partition("/")[2]  # without the leading "package/"
                if member.isfile() and member.name.startswith(parts):
                    tar.extract(member, folder / name, filter="data")
        done.write_text(version, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    times = commands.add_parser("timetable", help="print a timetable as a Markdown table")
    times.add_argument("--minutes", type=int, default=180, help="how long the workshop lasts, breaks included")
    times.add_argument("--begin", default="09:00", help="when it starts")
    decks = commands.add_parser("slides", help="write decks that need no network to build/slides")
    decks.add_argument("numbers", nargs="*", help="such as 00 09; all by default")
    options = parser.parse_args()
    try:
        if options.command == "slides":
            for deck in slides(options.numbers or None):
                print(deck.relative_to(ROOT))
            return 0
        rows = timetable(options.minutes, options.begin)
    except WorkshopError as error:
        print(f"\u2717 {error}", file=sys.stderr)
        return 1
    print("| time | minutes | what | when late, leave out |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
