"""Random input, the same in every run: never a 5xx, a hang, a traceback, or a file where none belongs."""

import base64
import json
import re
import socket
import string

import httpx
import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_hub import LocalHub
from local_hub.store import KINDS
from utils import WorkshopError, catalog, serve

SECONDS = 10  # an answer that takes longer is a hang


def fuzz(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("\ud800")
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
DEEP = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000])
TOKEN = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
HEADERS = st.dictionaries(
    TOKEN.map("x-{}".format)
    | st.sampled_from(["accept", "accept-encoding", "content-type", "content-encoding", "cookie", "expect", "range"]),
    st.text(string.printable.strip(), max_size=30).map(str.strip),
    max_size=4,
)

# the API server ---------------------------------------------------------------------------------------------------------

BODIES = (
    st.binary(max_size=300)
    | DEEP
    | ANYTHING.map(lambda value: json.dumps(value).encode())
    | ANYTHING.map(lambda value: json.dumps({"inputs": value}).encode())
    | st.text(max_size=200).map(
        lambda text: json.dumps({"inputs": text}, ensure_ascii=False).encode("utf-8", "replace")
    )
    | st.integers(90_000, 3_000_000).map(lambda size: b'{"inputs": "' + b"a" * size)
)


@pytest.fixture(scope="module")
def server():
    running = serve.start(catalog.checkpoint("reviews-stars"), batch=4)
    with httpx.Client(base_url=running.url, timeout=SECONDS) as client:
        yield client
    serve.stop()


@fuzz(150)
@given(body=BODIES, headers=HEADERS)
def test_any_body_and_headers_get_an_answer_or_a_sentence(server, body, headers):
    reply = server.post("/predict", content=body, headers=headers)
    if reply.status_code == 200:
        assert sum(one["score"] for one in reply.json()[0]) == pytest.approx(1, abs=1e-3)
    else:
        assert reply.status_code in (400, 413, 422)
        assert re.fullmatch(r"[A-Z].+[.?}]", reply.json()["detail"])


METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "NONSENSE"])
PARTS = st.lists(st.sampled_from(["predict", "health", "metrics", "..", "%00", "info", "docs"]) | TOKEN, max_size=3)


@fuzz(50)
@given(method=METHODS, path=PARTS.map("/".join), query=st.text(string.printable.strip(), max_size=20), headers=HEADERS)
def test_any_path_of_the_server_is_answered(server, method, path, query, headers):
    reply = server.request(method, f"/{path}", params={"q": query}, headers=headers)
    assert reply.status_code < 500


@fuzz(50)
@given(
    line=st.binary(max_size=100) | st.sampled_from([b"POST /predict HTTP/1.1\r\n", b"GET / HTTP/9.9\r\n"]),
    rest=st.binary(max_size=200) | st.just(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz\r\n"),
)
def test_what_is_not_http_is_answered_or_hung_up_on(server, line, rest):
    with socket.create_connection((server.base_url.host, server.base_url.port), timeout=SECONDS) as connection:
        connection.sendall(line + rest)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
    assert re.match(rb"$|HTTP/1.1 [234]", answer)
    assert server.get("/health").text == "ok"


# the local Hub ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["workshop", "tiny", "..", "%2e%2e", "a--b", "%00", "x" * 200]) | TOKEN
REVISIONS = st.sampled_from(["main", "v1", "%2e%2e%2f%2e%2e", "0000000", "main/../x"]) | TOKEN
FILES = (
    st.sampled_from(["README.md", "config.json", "a/b.safetensors", "../../x", "/etc/passwd", "C:/x", "%00"]) | TOKEN
)
REPO = "{owner}/{name}"
TEMPLATES = [f"/api/{{kind}}/{REPO}{end}" for end in (
    "", "/revision/{revision}", "/refs", "/commits/{revision}", "/tree/{revision}", "/tree/{revision}/{file}",
    "/paths-info/{revision}", "/runtime", "/auth-check", "/settings", "/preupload/{revision}", "/commit/{revision}",
    "/branch/{revision}", "/tag/{revision}",
)] + [f"/{prefix}{REPO}{end}" for prefix in ("", "{kind}/") for end in (
    ".git/info/lfs/objects/batch", "/resolve/{revision}/{file}", "/raw/{revision}/{file}",
)] + ["/api/whoami-v2", "/api/repos/create", "/api/repos/delete", "/api/validate-yaml", "/api/{kind}", "/lfs/{file}"]  # fmt: skip


def often(usual, other):
    """Mostly the usual, so that random requests get past the first check."""
    return st.integers(0, 3).flatmap(lambda chance: other if chance == 0 else usual)


PATHS = st.builds(
    lambda template, **parts: template.format(**parts),
    st.sampled_from(TEMPLATES),
    kind=often(st.sampled_from(sorted(KINDS)), NAMES),
    owner=often(st.just("workshop"), NAMES),
    name=often(st.just("tiny"), NAMES),
    revision=often(st.just("main"), REVISIONS),
    file=FILES,
)
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "search", "filter", "sort", "author", "recursive", "create_pr", "size", "signature"]),
    st.text(max_size=8).filter(lambda text: text.isprintable()) | st.just("1"),
    max_size=2,
)
CARD = st.sampled_from(
    ["date: 2024-01-01", "date: 2024-99-99", "n: .nan", "b: !!bool x", 't: "\\uD800"', "tags: {a: [1]}", "1: !!set {a}"]
) | st.text(max_size=30)
COMMIT_FILE = st.one_of(
    CARD.map(lambda text: {"path": "README.md", "content": base64_of(f"---\n{text}\n---\n")}),
    ANYTHING.map(lambda value: {"path": "config.json", "content": base64_of(json.dumps(value))}),
    ANYTHING.map(lambda value: {"path": "config.json", "content": base64_of(json.dumps({"model_type": value}))}),
    st.fixed_dictionaries({"path": FILES | ANYTHING, "content": st.just("eA==") | ANYTHING}),
)
LINE = st.one_of(
    COMMIT_FILE.map(lambda value: {"key": "file", "value": value}),
    ANYTHING.map(lambda value: {"key": "header", "value": {"summary": value}}),
    st.builds(
        lambda key, value: {"key": key, "value": value},
        st.sampled_from(["file", "lfsFile", "deletedFile", "deletedFolder", "header"]) | ANYTHING,
        ANYTHING | FILES.map(lambda path: {"path": path, "oid": "0" * 64}),
    ),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "name",
            "type",
            "organization",
            "private",
            "visibility",
            "gated",
            "sdk",
            "content",
            "repoType",
            "files",
            "objects",
            "paths",
            "tag",
            "startingPoint",
        ]
    ),
    ANYTHING
    | st.sampled_from(["workshop/tiny", "workshop/other", "space", "dataset", "gradio", "main", "private"])
    | CARD.map(lambda text: f"---\n{text}\n---\n")
    | st.lists(st.fixed_dictionaries({"path": FILES | ANYTHING, "size": ANYTHING, "oid": ANYTHING}), max_size=2),
    max_size=4,
)
HUB_BODIES = st.one_of(
    st.binary(max_size=100),
    DEEP,
    ANYTHING.map(lambda value: json.dumps(value).encode()),
    FIELDS.map(lambda value: json.dumps(value).encode()),
    st.lists(LINE, max_size=3).map(lambda lines: "\n".join(json.dumps(line) for line in lines).encode()),
)


def base64_of(text):
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("around")
    with LocalHub(folder / "hub") as running, httpx.Client(base_url=running.url, timeout=SECONDS) as client:
        running.store.create("model", "workshop/tiny")
        yield running, client


@fuzz(300)
@given(
    method=often(st.sampled_from(["GET", "POST", "PUT", "DELETE"]), METHODS),
    path=PATHS,
    query=QUERIES,
    body=HUB_BODIES,
    role=st.sampled_from([None, "read", "write", "admin", "admin", "hf_wrong", "\xe4"]),
    headers=HEADERS,
)
def test_any_request_to_the_hub_is_answered(hub, method, path, query, body, role, headers):
    hub, client = hub
    hub.store.create("model", "workshop/tiny")  # an earlier request may have deleted it
    around, tokens = hub.store.folder.parent, (hub.store.folder / "tokens.json").read_bytes()
    if role:
        token = hub.token(role) if role in ("read", "write", "admin") else role
        headers = headers | {"authorization": f"Bearer {token}".encode("latin-1")}
    reply = client.request(method, path, params=query, content=body, headers=headers)
    assert reply.status_code < 500, reply.text
    assert client.get("/api/models").status_code == 200  # nor does what was written break what is read
    assert [file.name for file in around.iterdir()] == ["hub"]
    assert {file.name for file in hub.store.folder.iterdir()} <= {"blobs", "repos", "tokens.json", ".lock"}
    assert (hub.store.folder / "tokens.json").read_bytes() == tokens


@fuzz(150)
@given(lines=st.lists(LINE, min_size=1, max_size=3), kind=st.sampled_from(sorted(KINDS)))
def test_what_any_commit_leaves_can_be_read(hub, lines, kind):
    hub, client = hub
    hub.store.create(KINDS[kind], "workshop/tiny", sdk="gradio")
    where, token = f"/api/{kind}/workshop/tiny", {"authorization": f"Bearer {hub.token()}"}
    body = "\n".join(json.dumps(line) for line in lines)
    assert client.post(f"{where}/commit/main", content=body, headers=token).status_code < 500
    for path in (where, f"{where}/commits/main", f"{where}/tree/main?recursive=true", f"/api/{kind}"):
        assert client.get(path).status_code == 200, path


# the catalog ------------------------------------------------------------------------------------------------------------

REAL = (catalog.DATA / "catalog.toml").read_text(encoding="utf-8")
TOML = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TOKEN, inner, max_size=3),
)
SHORT_NAMES = st.sampled_from(["minilm", "one", "two", "three"])
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["", ".", "checkpoints/ner", "reviews", "/", "../.."]) | TOML,
        "sha256": st.dictionaries(st.sampled_from(["config.json", ".", "README.md"]) | TOKEN, st.text("0af") | TOML, max_size=2)
        | TOML,
        "hub": st.just("somebody/model") | TOML,
        "package": st.sampled_from(["", "numpy", "no-such-package"]) | TOML,
        "base": SHORT_NAMES | TOML,
        "configs": st.just(["de"]) | TOML,
    },
)  # fmt: skip
WELL = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["", ".", "checkpoints/ner", "reviews", "/", "../..", "x" * 300]),
        "sha256": st.dictionaries(
            st.sampled_from(["config.json", ".", "README.md"]) | TOKEN, st.text("0af"), min_size=1
        ),
        "hub": st.just("somebody/model"),
    },
    optional={"package": st.sampled_from(["", " ", "numpy"]) | TOKEN, "base": SHORT_NAMES, "configs": st.just(["de"])},
)
GROUPS = st.dictionaries(SHORT_NAMES, often(WELL, ENTRY) | TOML, max_size=3)
CUT = st.tuples(st.integers(0, len(REAL)), st.integers(0, 60), st.text(max_size=6))
CATALOGS = (
    st.binary(max_size=200)
    | st.just(b"a = " + b"[" * 50_000)
    | CUT.map(lambda cut: (REAL[: cut[0]] + cut[2] + REAL[cut[0] + cut[1] :]).encode("utf-8", "replace"))
    | often(st.fixed_dictionaries({"checkpoint": GROUPS, "corpus": GROUPS}), st.dictionaries(TOKEN, TOML)).map(
        lambda content: tomlkit.dumps(content).encode()
    )
)


@fuzz(200)
@given(content=CATALOGS, name=SHORT_NAMES | TOKEN, config=st.none() | st.sampled_from(["de", ""]))
def test_any_catalog_works_or_gets_one_line(tmp_path, monkeypatch, content, name, config):
    monkeypatch.setattr(catalog, "DATA", tmp_path / "data")
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WORKSHOP_SOURCE", raising=False)
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "catalog.toml").write_bytes(content)
    for call in (catalog.checkpoint, lambda name: catalog.corpus(name, config)):
        catalog.entries.cache_clear()
        catalog._courier.cache_clear()
        try:
            call(name)
        except WorkshopError as error:
            assert len(str(error)) < 1_000
    monkeypatch.undo()
    catalog.entries.cache_clear()
    catalog._courier.cache_clear()
