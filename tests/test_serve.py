"""The server of notebook 12: what it refuses, what it counts, and how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from huggingface_hub import InferenceClient

from tools.soak import soak
from utils import WorkshopError, serve
from utils.catalog import checkpoint

GOOD = ["Works as it should.", "Una maravilla, lo uso todos los días.", "\u202e 😀 good", "The zip broke. " * 100]
BAD = [
    (b"", 400, "Send JSON"),
    (b"[" * 50_000, 400, "Send JSON"),
    (b"\xff\xfe{", 400, "Send JSON"),
    (b'{"text": "a"}', 400, "Send JSON"),
    (b'["inputs"]', 400, "Send JSON"),
    (rb'{"inputs": "\ud800"}', 400, "Send JSON"),
    (b'{"inputs": 5}', 422, "Send a text"),
    (b'{"inputs": ["a"]}', 422, "Send a text"),
    (b'{"inputs": null}', 422, "Send a text"),
    (b'{"inputs": " \\n"}', 422, "is empty"),
    (rb'{"inputs": "a\u0000b"}', 422, "NUL"),
    (json.dumps({"inputs": "a" * 6_000}).encode(), 422, "6,000 characters"),
    (json.dumps({"inputs": "a" * 1_000_000}).encode(), 413, "larger than"),
]


async def echo(scope, receive, send):
    """A server that answers with the body that it gets, after `delay` seconds."""
    body = (await receive())["body"]
    await asyncio.sleep(float(dict(scope["headers"]).get(b"delay", b"0")))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def gate(**options):
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(serve.Gate(echo, **options)), base_url="http://gate", timeout=10
    )


@pytest.mark.parametrize(("body", "status", "sentence"), BAD)
def test_bad_requests_get_a_sentence(body, status, sentence):
    async def ask():
        async with gate() as client:
            return await client.post("/predict", content=body), (await client.get("/metrics")).text

    reply, metrics = asyncio.run(ask())
    assert (reply.status_code, list(reply.json())) == (status, ["detail"])
    assert sentence in reply.json()["detail"]
    assert f'requests_total{{status="{status}"}} 1' in metrics


def test_good_requests_pass_whatever_their_headers():
    async def ask():
        async with gate() as client:
            odd = {"content-type": "multipart/form-data", "x-api-key": "secret"}
            return [await client.post("/predict", json={"inputs": text}) for text in GOOD] + [
                await client.post("/predict", content=b'{"inputs": "a", "parameters": {}}', headers=odd)
            ]

    replies = asyncio.run(ask())
    assert [reply.json() for reply in replies] == [{"inputs": text} for text in [*GOOD, "a"]]


def test_a_full_queue_refuses_and_recovers():
    async def ask():
        async with gate(max_waiting=3) as client:
            request = {"json": {"inputs": "a"}, "headers": {"delay": "0.2"}}
            first = await asyncio.gather(*[client.post("/predict", **request) for _ in range(5)])
            return first, await client.post("/predict", **request), (await client.get("/metrics")).text

    first, later, metrics = asyncio.run(ask())
    assert Counter(reply.status_code for reply in first) == {200: 3, 429: 2}
    refused = next(reply for reply in first if reply.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert "3 requests are waiting" in refused.json()["detail"]
    assert later.status_code == 200
    assert "requests_waiting 0" in metrics


def test_who_sends_too_slowly_is_sent_away(monkeypatch):
    monkeypatch.setattr(serve, "READ_SECONDS", 0.1)

    async def ask():
        async def slowly():
            yield b'{"inputs": '
            await asyncio.sleep(1)
            yield b'"a"}'

        async with gate() as client:
            return await client.post("/predict", content=slowly())

    assert asyncio.run(ask()).status_code == 408


@pytest.fixture(scope="module")
def server():
    running = serve.start(checkpoint("reviews-stars"), batch=16)
    yield running
    serve.stop()


def processes(server):
    return [server.process, *psutil.Process(server.process.pid).children(recursive=True)]


def test_only_this_machine_can_reach_it(server):
    listening = {
        connection.laddr.ip
        for process in processes(server)
        for connection in psutil.Process(process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert httpx.get(f"{server.url}/health").text == "ok"
    assert httpx.get(f"{server.url}/nowhere").status_code == 404
    assert httpx.get(f"{server.url}/predict").status_code == 405
    assert httpx.post(f"{server.url}/nowhere", content=b"x").status_code == 404


def test_the_hubs_client_reads_it(server):
    answer = InferenceClient(model=f"{server.url}/predict").text_classification(GOOD[1])
    assert answer[0].label == "5 stars"
    assert sum(element.score for element in answer) == pytest.approx(1, abs=1e-4)


def test_bad_requests_do_not_harm_their_neighbours(server):
    """They arrive together, so that they would share batches; and a batch answers each as it would alone."""
    good = [json.dumps({"inputs": text}).encode() for text in GOOD]

    def post(body):
        return httpx.post(f"{server.url}/predict", content=body, timeout=60)

    alone = {body: post(body).json() for body in good}
    burst = [body for body, _, _ in BAD] + 8 * good
    with ThreadPoolExecutor(len(burst)) as pool:
        replies = list(pool.map(post, burst))
    expected = [status for _, status, _ in BAD] + [200] * 8 * len(good)
    assert [reply.status_code for reply in replies] == expected
    for body, reply in zip(burst, replies):
        if body in alone:
            (scores,), (reference,) = reply.json(), alone[body]
            assert [one["label"] for one in scores] == [one["label"] for one in reference]
            assert all(abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(scores, reference))


def test_it_answers_what_it_has_taken_in_when_it_is_ended(server):
    """A short version of `python -m tools.soak`."""
    report = soak(server, GOOD, seconds=3, clients=32)
    assert report["lost"] == report["wrong"] == 0
    assert set(report["statuses"]) <= {"200", "400", "413", "422"}
    assert report["requests"] > 32
    assert report["answered_after_sigterm"] > 0
    with contextlib.closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.url.split(":")[-1]))) != 0


def test_it_ends_with_the_process_that_started_it():
    code = (
        "import os, sys; from utils import serve; from utils.catalog import checkpoint; "
        "running = serve.start(checkpoint('reviews-stars'), batch=1); print(running.process.pid, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=serve.ROOT, text=True, capture_output=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 60
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not psutil.pid_exists(int(done.stdout))


def test_a_model_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(WorkshopError, match="did not start"):
        serve.start(os.fspath(tmp_path))
