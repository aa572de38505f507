"""An API server that rates reviews in batches. Notebook 12 explains it, starts it and measures it.

    python -m utils.serve --model FOLDER --port 8000 --batch 16     until Ctrl-C or SIGTERM; what it has taken in, it answers

The engine is LitServe (https://lightning.ai/docs/litserve): one process speaks HTTP, another one computes, and requests that
wait together become a batch. What LitServe 0.2 does not do stands in `Gate`: its parser turns bad JSON into a 500, an exception
for one request fails its whole batch, and its queue has no end. So requests are checked before they reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import litserve
from starlette.responses import JSONResponse, PlainTextResponse

from utils import WorkshopError
from utils.workshop import ROOT

MAX_BYTES = 100_000  # of one request
MAX_WAITING = 64  # requests inside at the same time
READ_SECONDS = 10  # for sending one request


class Stars(litserve.LitAPI):
    """What to do with requests: LitServe does the rest."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)  # such as max_batch_size=16, batch_timeout=0.01
        self.model = model

    def setup(self, device: str) -> None:  # once, in the process that computes
        from transformers import pipeline

        self.rate = pipeline("text-classification", model=self.model, device=device, top_k=None, truncation=True)

    def decode_request(self, request: dict) -> str:
        return request["inputs"]

    def predict(self, texts: list[str] | str) -> list:
        if isinstance(texts, str):  # max_batch_size=1
            return self.rate([texts])[0]
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # little padding among neighbours
        rated = dict(zip(order, self.rate([texts[number] for number in order], batch_size=8), strict=True))
        return [rated[number] for number in range(len(texts))]

    def encode_response(self, scores: list) -> list:
        return [scores]  # [[{"label": …, "score": …}, …]]


def problem(text: object, limit: int = 5_000) -> str:
    """Why a text is refused, as a sentence; an empty string if it is fine."""
    if not isinstance(text, str):
        return "Send a text."
    if not text.strip():
        return "The text is empty: write a review."
    if len(text) > limit:
        return f"The text has {len(text):,} characters; at most {limit:,} are accepted."
    return ""


class Refused(Exception):
    """A request that is not let in: a 4xx, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def read_text(body: bytes) -> str:
    """The text of a request.

    Raises:
        Refused: there is none, or none that a model can read.
    """
    try:
        text = json.loads(body)["inputs"]
        str(text).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(400, 'Send JSON of the form {"inputs": "a review"}.') from None
    if complaint := problem(text):
        raise Refused(422, complaint)
    if "\0" in text:
        raise Refused(422, "The text contains a NUL character: is it a binary file?")
    return text


class Gate:
    """Stands in front of a server: lets in what is a review, as long as there is room, and counts."""

    def __init__(self, app: Callable, max_waiting: int = MAX_WAITING) -> None:
        self.app, self.max_waiting = app, max_waiting
        self.waiting, self.seconds, self.answers = 0, 0.0, Counter()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/predict"):
            metrics = scope["type"] == "http" and scope["path"] == "/metrics"
            return await (PlainTextResponse(self.metrics()) if metrics else self.app)(scope, receive, send)

        async def count(message: dict) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
            await send(message)

        begun = time.perf_counter()
        try:
            if self.waiting >= self.max_waiting:
                raise Refused(429, f"{self.waiting} requests are waiting already: try again in a second.")
            self.waiting += 1
            try:
                body = json.dumps({"inputs": read_text(await self.read(receive))}).encode()
                own = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
                dropped = {*own, b"transfer-encoding"}
                headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
                messages = iter([{"type": "http.request", "body": body}])

                async def again() -> dict:
                    return next(messages, None) or await receive()

                await self.app(scope | {"headers": [*headers, *own.items()]}, again, count)
                self.seconds += time.perf_counter() - begun
            finally:
                self.waiting -= 1
        except Refused as refused:
            more = {429: {"Retry-After": "1"}, 408: {"Connection": "close"}, 413: {"Connection": "close"}}
            answer = JSONResponse({"detail": str(refused)}, refused.status, more.get(refused.status))
            await answer(scope, receive, count)

    @staticmethod
    async def read(receive: Callable) -> bytes:
        """The body, of which no more than allowed is kept."""
        body, size, more = b"", 0, True
        try:
            async with asyncio.timeout(READ_SECONDS):
                while more and size <= 20 * MAX_BYTES:  # read on for a while: who still sends does not see an answer
                    message = await receive()
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    size += len(chunk)
                    body = body + chunk if size <= MAX_BYTES else b""
        except TimeoutError:
            raise Refused(408, f"The request was not complete after {READ_SECONDS} seconds.") from None
        if size > MAX_BYTES:
            raise Refused(413, f"The body is larger than {MAX_BYTES:,} bytes.")
        return body

    def metrics(self) -> str:
        """In the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        lines = ["# TYPE requests_total counter"]
        lines += [f'requests_total{{status="{status}"}} {n}' for status, n in sorted(self.answers.items())]
        lines += ["# TYPE requests_waiting gauge", f"requests_waiting {self.waiting}"]
        lines += ["# TYPE request_seconds_total counter", f"request_seconds_total {self.seconds:.3f}"]
        return "\n".join(lines) + "\n"


def run(model: str, port: int, batch: int, device: str) -> None:
    """Serve until SIGINT or SIGTERM; then answer what is inside, and end."""
    api = Stars(model, max_batch_size=batch, batch_timeout=0.01 if batch > 1 else 0.0)
    server = litserve.LitServer(
        api, accelerator=device, devices=1, timeout=60, middlewares=[(Gate, {})], disable_openapi_url=True
    )
    main_process = os.getpid()

    def end(*_: Any) -> None:  # LitServe 0.2 drains on Ctrl-C only
        if os.getpid() == main_process:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)


@dataclass
class Server:
    """A server in a process of its own; it ends with this process at the latest."""

    url: str
    process: subprocess.Popen
    log: IO

    def stop(self) -> None:
        """Ask it to answer what it has taken in, and wait until it is gone."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_running: list[Server] = []


def start(model: str, batch: int = 16, device: str = "cpu", port: int = 0) -> Server:
    """Start a server on this machine and wait until it is ready.

    Args:
        model: a local folder or the name of a model on the Hub.
        batch: how many requests may become one batch; 1 means no batching.
        port: 0 takes one that is free.

    Raises:
        WorkshopError: it did not start; the message has the end of its log.
    """
    import httpx

    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    command = [sys.executable, "-m", "utils.serve", "--model", model, "--port", str(port), "--batch", str(batch)]
    log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1))}  # one core is for the HTTP side
    process = subprocess.Popen(
        [*command, "--device", device, "--until-stdin-closes"],
        cwd=ROOT, env=threads | os.environ, stdin=subprocess.PIPE, stdout=log, stderr=log,
    )  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}", process, log)
    _running.append(server)
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{server.url}/health", timeout=5, trust_env=False).status_code == 200:
                return server
        time.sleep(0.1)
    server.stop()
    log.seek(0)
    raise WorkshopError(f"The server did not start:\n{log.read()[-1_000:]}")


@atexit.register
def stop() -> None:
    """End all servers that `start` has started."""
    while _running:
        _running.pop().stop()


def _end_with_stdin() -> None:
    def wait() -> None:
        while os.read(0, 1_000):  # not sys.stdin: its lock would be held in the processes that LitServe forks
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or the name of a model on the Hub")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help="the largest batch; 1: no batching")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that has started it")
    options = parser.parse_args()
    if options.until_stdin_closes:
        _end_with_stdin()
    run(options.model, options.port, options.batch, options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
