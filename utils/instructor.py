"""What an instructor needs: `python -m utils.instructor timetable --minutes 180`.

`make timetable` calls this. The proportions are those of the workshop's original day: 45 minutes for part 1, 30 for part 2,
90 for part 3.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta
from typing import Any

from utils import WorkshopError
from utils.workshop import index

SHARES = {1: 45, 2: 30, 3: 90}  # of the time that is not a break
SHORTEST, LONGEST = 30, 600
STRETCH = 90  # minutes after which people need a break
BREAK, LUNCH = 15, 45
OPENING = 5  # minutes for notebook 00


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
    work = minutes - sum(length for length, _ in _breaks(minutes)) - OPENING
    plan = [("00", OPENING), *_spread(work, {number: notebooks[number] for number in chosen})]
    rows, worked, breaks = [], 0, _breaks(minutes)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    times = commands.add_parser("timetable", help="print a timetable as a Markdown table")
    times.add_argument("--minutes", type=int, default=180, help="how long the workshop lasts, breaks included")
    times.add_argument("--begin", default="09:00", help="when it starts")
    options = parser.parse_args()
    try:
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
