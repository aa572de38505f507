"""`python -m tools.soak --model FOLDER`: does the server of notebook 12 hold, and how does it end? 32 clients for a minute, bad
requests among them, then SIGTERM under load. Prints JSON; exit status 1 if a request was lost or answered wrongly, memory grew,
or it did not end. (On Windows SIGTERM ends a process at once: nothing is drained there.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from utils import WorkshopError, serve
from utils.catalog import corpus

BAD = [
    b"",
    b"[",
    b"\xff",
    b'{"inputs": 5}',
    b'{"inputs": ""}',
    rb'{"inputs": "\ud800"}',
    rb'{"inputs": "a\u0000"}',
    b"a" * 1_000_000,
]


def soak(server: serve.Server, texts: list[str], seconds: float, clients: int = 32) -> dict[str, Any]:
    """Put a server under load, one request in twenty being malformed, and end it with SIGTERM while the load goes on.

    Returns:
        counts of the statuses; `lost`: requests sent before SIGTERM that got no answer; `wrong`: fine requests refused, or
        malformed ones let in; `seconds_to_drain`: None if it did not end within 40; `memory_mb`: of all its processes after a
        third of the time, and the extremes after that.
    """
    chance, statuses, counts, memory = random.Random(0), Counter(), Counter(), []
    begun = time.monotonic()
    ended = begun + seconds

    async def client(connection: httpx.AsyncClient) -> None:
        while True:
            malformed = chance.random() < 0.05
            body = chance.choice(BAD) if malformed else json.dumps({"inputs": chance.choice(texts)}).encode()
            sent = time.monotonic()
            try:
                status = (await connection.post("/predict", content=body)).status_code
            except httpx.HTTPError:
                if sent >= ended:
                    return  # the server has gone
                counts["lost"] += 1
                continue
            statuses[status] += 1
            counts["wrong"] += (status == 200) == malformed
            counts["after SIGTERM"] += time.monotonic() > ended

    async def watch() -> None:
        nonlocal ended
        while time.monotonic() < ended:
            await asyncio.sleep(min(0.5, max(0.01, ended - time.monotonic())))
            tree = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
            memory.append(sum(process.memory_info().rss for process in tree) / 1e6)
        ended = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

    async def everybody() -> None:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits, trust_env=False) as connection:
            await asyncio.gather(watch(), *[client(connection) for _ in range(clients)])

    asyncio.run(everybody())
    try:
        server.process.wait(timeout=40)
        drained = round(time.monotonic() - ended, 1)
    except subprocess.TimeoutExpired:
        server.process.kill()
        drained = None
    steady = memory[len(memory) // 3 :]
    return {
        "requests": sum(statuses.values()),
        "per_second": round(sum(statuses.values()) / seconds, 1),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "lost": counts["lost"],
        "wrong": counts["wrong"],
        "answered_after_sigterm": counts["after SIGTERM"],
        "seconds_to_drain": drained,
        "memory_mb": [round(value) for value in (steady[0], min(steady), max(steady))],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or the name of a model on the Hub")
    parser.add_argument("--batch", type=int, default=16, help="the largest batch; 1: no batching")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    try:
        gold = corpus("reviews", "en")["gold"]
        server = serve.start(options.model, options.batch, options.device)
    except WorkshopError as error:
        print(f"\u2717 {error}", file=sys.stderr)
        return 1
    report = soak(server, [*gold["review_title"], *gold["review_body"]], options.seconds)
    print(json.dumps(report, indent=1))
    base, low, high = report["memory_mb"]
    failed = any(status >= "500" for status in report["statuses"]) or report["lost"] or report["wrong"]
    failed = failed or report["seconds_to_drain"] is None
    return int(bool(failed or low < 0.95 * base or high > 1.05 * base))


if __name__ == "__main__":
    sys.exit(main())
