"""A stand-in for the Hugging Face Hub on this machine, to rehearse pushing and pulling. It is not the Hub: no web pages, no git,
no discussions, no running Spaces, and no protection from people who can read its folder.

    python -m utils.local_hub --folder DIR --port 5005

The client libraries use it unchanged once `HF_ENDPOINT` names it (and `HF_HUB_DISABLE_XET=1`: it speaks the older LFS protocol)
before they are imported. On disk, a file is stored once under its SHA-256, a commit is a JSON file, and what a branch points to
is replaced in one step: a process killed at any moment leaves the previous commit. The paths are those that the client calls
(https://huggingface.co/docs/hub/api and the source of huggingface_hub).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
import yaml
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from utils import WorkshopError

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LARGE = (".safetensors", ".bin", ".parquet", ".arrow", ".onnx", ".pt", ".model", ".gz")  # go through LFS, as on the Hub
LARGE_BYTES = 10_000_000
MAX_BODY = 64_000_000  # bytes of one request, apart from large files
MAX_FILE = 2_000_000_000
SDKS = ("gradio", "docker", "static")


class Refused(Exception):
    """A request that fails, with what the client makes its own error from."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        more = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {"X-Error-Message": message} | more | headers


@dataclass(frozen=True)
class File:
    """A file in a commit: `oid` is git's blob hash, or the SHA-256 of a large file, and serves as its ETag."""

    sha256: str
    size: int
    oid: str
    large: bool


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _write(file: Path, content: bytes) -> None:
    """Write a file in one step: afterwards it is there whole, or as before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _safe(path: str) -> str:
    """`path` if it is a plain relative path inside a repository."""
    parts = path.split("/")
    odd = any(part in ("", ".", "..", ".git") or len(part.encode()) > 255 for part in parts)
    if odd or re.search(r"[\\\0-\x1f:]", path) or len(path) > 1_000:
        raise Refused(400, f"{path[:100]!r} is no path inside a repository")
    return path


class Store:
    """Repositories in a folder. Every public method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def repo(self, kind: str, name: str) -> Path:
        """The folder of a repository, which may not exist yet."""
        part = r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
        if kind not in KINDS.values() or not re.fullmatch(f"{part}/{part}", name, re.ASCII):
            raise Refused(400, f"{name[:100]!r} is no name of a {kind[:10]}: owner/name, of letters, digits, - _ and .")
        return self.folder / "repos" / kind / name

    def state(self, kind: str, name: str) -> dict[str, Any]:
        """What is known of a repository: visibility, gate, branches, tags."""
        try:
            return json.loads((self.repo(kind, name) / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refused(404, f"Repository not found: {kind} {name}", "RepoNotFound") from None

    def save(self, kind: str, name: str, state: dict[str, Any]) -> None:
        _write(self.repo(kind, name) / "state.json", json.dumps(state, indent=1).encode())

    def create(self, kind: str, name: str, private: bool = False, sdk: str | None = None) -> bool:
        """Make a repository with its first commit. Returns False if it exists."""
        with self.lock:
            if (self.repo(kind, name) / "state.json").exists():
                return False
            attributes = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE).encode()
            state = {"private": private, "gated": False, "sdk": sdk, "created": _now(), "branches": {}, "tags": {}}
            files = {".gitattributes": self.add(attributes)}
            state["branches"]["main"] = self._write_commit(
                kind, name, files, "initial commit", None, name.split("/")[0]
            )
            self.save(kind, name, state)
            return True

    def delete(self, kind: str, name: str) -> None:
        with self.lock:
            self.state(kind, name)
            gone = self.folder / "blobs" / f".deleted-{secrets.token_hex(8)}"
            self.repo(kind, name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def names(self, kind: str) -> list[str]:
        return sorted("/".join(file.parts[-3:-1]) for file in (self.folder / "repos" / kind).glob("*/*/state.json"))

    def blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256[:2] / sha256

    def add(self, content: bytes) -> File:
        """Store a regular file."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.blob(sha256).exists():
            _write(self.blob(sha256), content)
        return File(sha256, len(content), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), False)

    def read(self, file: File) -> bytes:
        return self.blob(file.sha256).read_bytes()

    def commit_at(self, kind: str, name: str, revision: str = "main") -> dict[str, Any]:
        """The commit that a branch, a tag, or a hash (its first seven digits at least) means."""
        state = self.state(kind, name)
        oid = state["branches"].get(revision) or state["tags"].get(revision)
        commits = self.repo(kind, name) / "commits"
        if oid is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            oid = next((file.stem for file in commits.glob(f"{revision}*.json")), None)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit = json.loads((commits / f"{oid}.json").read_text(encoding="utf-8"))
        commit["files"] = {path: File(**entry) for path, entry in commit["files"].items()}
        return commit

    def commit(
        self,
        kind: str,
        name: str,
        branch: str,
        change: Callable[[dict[str, File]], None],
        title: str,
        author: str,
        parent: str | None = None,
    ) -> str:
        """Apply `change` to the files at the head of a branch. Concurrent commits follow one another.

        Args:
            parent: the commit that the head must still be.

        Raises:
            Refused: the branch has moved on from `parent` (412).
        """
        with self.lock:
            state, head = self.state(kind, name), self.commit_at(kind, name, branch)
            if branch not in state["branches"]:
                raise Refused(400, f"{branch} is no branch: only branches take commits")
            if parent not in (None, head["oid"]):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head["files"])
            change(files)
            if files == head["files"]:
                return head["oid"]
            oid = self._write_commit(kind, name, files, title, head["oid"], author)
            state["branches"][branch] = oid
            self.save(kind, name, state)  # from here on, the commit has happened
            return oid

    def _write_commit(
        self, kind: str, name: str, files: dict[str, File], title: str, parent: str | None, author: str
    ) -> str:
        content = {
            "files": {path: asdict(file) for path, file in sorted(files.items())},
            "title": title, "parent": parent, "author": author, "date": _now(),
        }  # fmt: skip
        oid = hashlib.sha1(json.dumps([kind, name, content, secrets.token_hex(8)]).encode()).hexdigest()
        _write(self.repo(kind, name) / "commits" / f"{oid}.json", json.dumps(content | {"oid": oid}).encode())
        return oid

    def card(self, commit: dict[str, Any]) -> dict[str, Any]:
        """The metadata at the head of README.md; {} if there are none."""
        readme = commit["files"].get("README.md")
        try:
            return _front_matter(self.read(readme).decode("utf-8", "replace")) if readme else {}
        except yaml.YAMLError:
            return {}

    def info(self, kind: str, name: str, revision: str = "main") -> dict[str, Any]:
        """What the Hub's API tells about a repository at a revision."""
        state, commit = self.state(kind, name), self.commit_at(kind, name, revision)
        card, files = self.card(commit), commit["files"]
        tags = [str(tag) for tag in _list(card.get("tags")) + _list(card.get("language"))]
        tags += [f"license:{licence}" for licence in _list(card.get("license"))]
        tags += [f"dataset:{dataset}" for dataset in _list(card.get("datasets"))]
        info = {
            "_id": name, "id": name, "author": name.split("/")[0], "sha": commit["oid"], "private": state["private"],
            "gated": state["gated"], "disabled": False, "createdAt": state["created"], "lastModified": commit["date"],
            "downloads": 0, "likes": 0, "cardData": card or None,
            "usedStorage": sum(file.size for file in files.values()),
            "siblings": [
                {"rfilename": path, "size": file.size, "blobId": file.oid}
                | ({"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.large else {})
                for path, file in sorted(files.items())
            ],
        }  # fmt: skip
        if kind == "model":
            info |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
            with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
                config = _plain(json.loads(self.read(files["config.json"])))
                info["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
                if "model_type" in config:  # the Hub too concludes from the files whose model it is
                    info.setdefault("library_name", "transformers")
        if kind == "space":
            info |= {"sdk": card.get("sdk") or state["sdk"], "runtime": {"stage": "STOPPED", "hardware": {}}}
        info["tags"] = tags + [info[key] for key in ("pipeline_tag", "library_name") if key in info]
        return info


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _plain(data: Any) -> Any:
    """`data` as it comes back from JSON: dates become texts.

    Raises:
        ValueError, TypeError: it holds what JSON cannot: NaN, half a surrogate pair, odd keys.
    """
    return json.loads(json.dumps(data, default=str, allow_nan=False, ensure_ascii=False).encode())


def _front_matter(text: str) -> dict[str, Any]:
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        data = _plain(yaml.safe_load(found[1]) if found else {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # yaml's own, for odd values
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
    if not isinstance(data, dict):
        raise yaml.YAMLError("the metadata are not a list of `key: value`")
    return data


class LocalHub:
    """The server. `with LocalHub(folder) as hub:` runs it in a thread; `hub.environment(home)` tells how to reach it.

    Args:
        folder: where repositories are kept; they are there again the next time.
        port: 0 takes a free one.
        user: who the tokens belong to: "read" cannot write, "write" writes to the user's own repositories, "admin" to all.

    Raises:
        WorkshopError: the port is in use, or another process serves the folder.
    """

    def __init__(self, folder: Path | str, port: int = 0, user: str = "workshop") -> None:
        self.store, self.user = Store(Path(folder)), user
        self._lock = FileLock(self.store.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise WorkshopError(f"Another local Hub serves {folder}. Stop it, or name another folder.") from None
        try:
            self._socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            self._lock.release()
            raise WorkshopError(f"Port {port} cannot be used ({error.strerror}). Take another: --port 0.") from None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        file = self.store.folder / "tokens.json"
        if not file.exists():
            tokens = {f"hf_local_{secrets.token_urlsafe(24)}": role for role in ("read", "write", "admin")}
            _write(file, json.dumps(tokens).encode())
            file.chmod(0o600)
        self._roles: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        self._secret = secrets.token_bytes(32)
        app = Starlette(routes=self._routes(), exception_handlers={Refused: _refuse, OSError: _refuse_disk})
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))

    def token(self, role: str = "write") -> str:
        """The token with that role."""
        return next(token for token, its in self._roles.items() if its == role)

    def environment(self, home: Path | str) -> dict[str, str]:
        """The variables that send the client libraries here, with their cache in `home`. Set them before the import."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}

    def serve(self) -> None:
        """Serve until interrupted."""
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> LocalHub:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
        self._lock.release()

    def _routes(self) -> list[Route]:
        api, repo = "/api/{kind:kind}", "/api/{kind:kind}/{owner}/{name}"
        table = [
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/repos/create", self._create),
            ("DELETE", "/api/repos/delete", self._delete),
            ("POST", "/api/validate-yaml", self._validate),
            ("GET", api, self._list),
            ("GET", repo, self._info),
            ("GET", repo + "/revision/{revision:path}", self._info),
            ("GET", repo + "/refs", self._refs),
            ("GET", repo + "/commits/{revision:path}", self._commits),
            ("GET", repo + "/tree/{revision}", self._tree),
            ("GET", repo + "/tree/{revision}/{path:path}", self._tree),
            ("POST", repo + "/paths-info/{revision}", self._paths_info),
            ("GET", repo + "/runtime", self._runtime),
            ("GET", repo + "/auth-check", self._auth_check),
            ("PUT", repo + "/settings", self._settings),
            ("POST", repo + "/preupload/{revision:path}", self._preupload),
            ("POST", repo + "/commit/{revision:path}", self._commit),
            ("POST", repo + "/branch/{ref:path}", self._branch),
            ("DELETE", repo + "/branch/{ref:path}", self._branch),
            ("POST", repo + "/tag/{ref:path}", self._tag),
            ("DELETE", repo + "/tag/{ref:path}", self._tag),
        ]
        for prefix in ("/{kind:kind}", ""):  # data sets and Spaces carry their kind, models do not
            table += [
                ("POST", prefix + "/{owner}/{name}.git/info/lfs/objects/batch", self._lfs_batch),
                ("GET", prefix + "/{owner}/{name}/resolve/{revision}/{path:path}", self._resolve),
                ("GET", prefix + "/{owner}/{name}/raw/{revision}/{path:path}", self._resolve),
            ]
        routes = [Route(path, self._endpoint(handler), methods=[method]) for method, path, handler in table]
        return [*routes, Route("/lfs/{oid}", self._lfs_put, methods=["PUT"])]  # large: goes to disk as it arrives

    def _endpoint(self, handler: Callable[[Request, bytes], Response | dict | list]) -> Callable:
        """Read the body up to its limit, then handle the request in a thread of its own."""

        async def endpoint(request: Request) -> Response:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused(413, f"The request is larger than {MAX_BODY:,} bytes")
            try:
                answer = await run_in_threadpool(handler, request, bytes(body))
                return answer if isinstance(answer, Response) else JSONResponse(answer)
            except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
                raise Refused(400, f"The request is not what was expected: {type(error).__name__}") from None

        return endpoint

    # Who asks, and for what ------------------------------------------------------------------------------------------

    def _role(self, request: Request) -> str | None:
        """The role of the request's token; None if it carries none."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        for token, role in self._roles.items():
            if hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
                return role
        raise Refused(401, "Invalid username or password.")

    def _writer(self, request: Request, name: str) -> None:
        """Refuse an asker who may not write to the repository called `name`."""
        role, owner = self._role(request), name.split("/")[0]
        if role is None:
            raise Refused(401, "Log in first: this needs a token that can write.")
        if role == "read" or (role == "write" and owner != self.user):
            raise Refused(403, f"This token cannot write to {owner}'s repositories.")

    def _where(self, request: Request) -> tuple[str, str]:
        """Kind and name of the request's repository, if the asker may see it."""
        at = request.path_params
        kind, name = KINDS[at.get("kind", "models")], f"{at['owner']}/{at['name']}"
        if self.store.state(kind, name)["private"] and self._role(request) is None:
            raise Refused(404, f"Repository not found: {kind} {name}", "RepoNotFound")
        return kind, name

    def _writable(self, request: Request) -> tuple[str, str]:
        """Kind and name of the request's repository, if the asker may write to it."""
        kind, name = self._where(request)
        self._writer(request, name)
        return kind, name

    # Account and repositories ----------------------------------------------------------------------------------------

    def _whoami(self, request: Request, body: bytes) -> dict:
        role = self._role(request)
        if role is None:
            raise Refused(401, "Invalid username or password.")
        token = {"displayName": "local", "role": role, "createdAt": _now()}
        return {
            "type": "user", "id": "0" * 24, "name": self.user, "fullname": self.user, "orgs": [], "isPro": False,
            "auth": {"type": "access_token", "accessToken": token},
        }  # fmt: skip

    def _named(self, body: bytes) -> tuple[dict, str, str]:
        wish = _json(body)
        name = str(wish.get("name", ""))
        full = name if "/" in name else f"{wish.get('organization') or self.user}/{name}"
        return wish, wish.get("type") or "model", full

    def _create(self, request: Request, body: bytes) -> Response | dict:
        wish, kind, name = self._named(body)
        self._writer(request, name)
        private = wish.get("private") is True or wish.get("visibility") == "private"
        if kind == "space" and wish.get("sdk") not in SDKS:
            raise Refused(400, f"A Space needs an sdk, one of {', '.join(SDKS)}")
        made = self.store.create(kind, name, private, wish.get("sdk"))
        url = f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if not made:
            return JSONResponse({"error": f"You already created this {kind} repo", "url": url}, 409)
        return {"url": url, "name": name, "id": name}

    def _delete(self, request: Request, body: bytes) -> dict:
        _, kind, name = self._named(body)
        self._writer(request, name)
        self.store.delete(kind, name)
        return {}

    def _settings(self, request: Request, body: bytes) -> dict:
        kind, name = self._writable(request)
        wish = _json(body)
        with self.store.lock:
            state = self.store.state(kind, name)
            state |= {key: wish[key] for key in ("private", "gated") if key in wish}
            state["private"] = wish.get("visibility", "private" if state["private"] else "public") == "private"
            self.store.save(kind, name, state)
        return {}

    def _validate(self, request: Request, body: bytes) -> Response | dict:
        wish, errors, data = _json(body), [], {}
        try:
            data = _front_matter(str(wish.get("content", "")))
        except yaml.YAMLError as error:
            errors = [{"message": " ".join(str(error).split())}]
        if wish.get("repoType") == "space" and not errors and data.get("sdk") not in SDKS:
            errors = [{"message": f'"sdk" must be one of {", ".join(SDKS)}'}]
        warnings = [] if data or errors else [{"message": "empty or missing yaml metadata in repo card"}]
        return JSONResponse({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _list(self, request: Request, body: bytes) -> list:
        kind, wish, found = KINDS[request.path_params["kind"]], request.query_params, []
        wanted = set(wish.getlist("filter")) | set(wish.getlist("pipeline_tag"))
        for name in self.store.names(kind):
            info = self.store.info(kind, name)
            if (
                (info["private"] and self._role(request) is None)
                or wish.get("author", info["author"]) != info["author"]
                or wish.get("search", "").lower() not in name.lower()
                or not wanted <= set(info["tags"])
            ):
                continue
            found.append(info)
        key = {"createdAt": "createdAt", "downloads": "downloads", "likes": "likes"}.get(
            wish.get("sort"), "lastModified"
        )
        found.sort(key=lambda info: info[key], reverse=True)
        return found[: int(wish.get("limit") or 1_000)]

    def _info(self, request: Request, body: bytes) -> dict:
        return self.store.info(*self._where(request), request.path_params.get("revision", "main"))

    def _refs(self, request: Request, body: bytes) -> dict:
        state = self.store.state(*self._where(request))

        def refs(key: str, where: str) -> list[dict]:
            named = state[key].items()
            return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": oid} for name, oid in named]

        return {"branches": refs("branches", "heads"), "tags": refs("tags", "tags"), "converts": [], "pullRequests": []}

    def _commits(self, request: Request, body: bytes) -> list:
        kind, name = self._where(request)
        commit, listed = self.store.commit_at(kind, name, request.path_params["revision"]), []
        while True:
            authors = [{"user": commit["author"]}]
            listed.append(
                {
                    "id": commit["oid"],
                    "title": commit["title"],
                    "message": "",
                    "date": commit["date"],
                    "authors": authors,
                }
            )
            if commit["parent"] is None:
                return listed
            commit = self.store.commit_at(kind, name, commit["parent"])

    def _files(self, request: Request) -> dict[str, File]:
        return self.store.commit_at(*self._where(request), request.path_params["revision"])["files"]

    def _tree(self, request: Request, body: bytes) -> list:
        path = request.path_params.get("path", "").strip("/")
        prefix = f"{path}/" if path else ""
        inside = {p: file for p, file in self._files(request).items() if p.startswith(prefix)}
        if prefix and not inside:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        folders, entries = set(), []
        for p, file in sorted(inside.items()):
            parts = p.removeprefix(prefix).split("/")
            parents = range(1, len(parts) if deep else min(2, len(parts)))
            folders |= {prefix + "/".join(parts[:depth]) for depth in parents}
            if deep or len(parts) == 1:
                entries.append(_entry(p, file))
        return [_folder(p) for p in sorted(folders)] + entries

    def _paths_info(self, request: Request, body: bytes) -> list:
        is_json = "json" in request.headers.get("content-type", "")
        asked = _json(body).get("paths", []) if is_json else parse_qs(body.decode()).get("paths", [])
        files, found = self._files(request), []
        for path in asked:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(p.startswith(path.rstrip("/") + "/") for p in files):
                found.append(_folder(path))
        return found

    def _resolve(self, request: Request, body: bytes) -> Response:
        at = request.path_params
        commit = self.store.commit_at(*self._where(request), at["revision"])
        headers = {"X-Repo-Commit": commit["oid"]}
        file = commit["files"].get(at["path"])
        if file is None:
            raise Refused(404, f"{at['path']} does not exist", "EntryNotFound", **headers)
        headers["ETag"] = f'"{file.oid}"'
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        return FileResponse(self.store.blob(file.sha256), headers=headers, media_type="application/octet-stream")

    def _runtime(self, request: Request, body: bytes) -> dict:
        return self.store.info(*self._where(request))["runtime"]

    def _auth_check(self, request: Request, body: bytes) -> dict:
        self._where(request)
        return {}

    # Writing ---------------------------------------------------------------------------------------------------------

    def _preupload(self, request: Request, body: bytes) -> dict:
        kind, name = self._writable(request)
        head = self.store.commit_at(kind, name, request.path_params["revision"])
        answers = []
        for wish in _json(body)["files"]:
            path = wish["path"]
            large = wish["size"] >= LARGE_BYTES or path.endswith(LARGE)
            answer = {"path": path, "shouldIgnore": False, "uploadMode": "lfs" if large else "regular"}
            answers.append(answer | ({"oid": head["files"][path].oid} if path in head["files"] else {}))
        return {"files": answers, "commitOid": head["oid"]}

    def _signature(self, oid: str) -> str:
        return hmac.new(self._secret, oid.encode(), hashlib.sha256).hexdigest()

    def _lfs_batch(self, request: Request, body: bytes) -> Response:
        self._writable(request)
        objects = []
        for wish in _json(body)["objects"]:
            oid, size = wish["oid"], wish["size"]
            if not re.fullmatch(r"[0-9a-f]{64}", oid) or not 0 <= size <= MAX_FILE:
                raise Refused(413 if size > MAX_FILE else 400, f"A file may have at most {MAX_FILE:,} bytes")
            target = {"href": f"{self.url}/lfs/{oid}?size={size}&signature={self._signature(f'{oid} {size}')}"}
            there = self.store.blob(oid).exists()
            objects.append({"oid": oid, "size": size} | ({} if there else {"actions": {"upload": target}}))
        answer = {"transfer": "basic", "objects": objects}
        return JSONResponse(answer, media_type="application/vnd.git-lfs+json")

    async def _lfs_put(self, request: Request) -> Response:
        """Receive a large file, to where a signed address allows it, and only whole and unaltered."""
        oid, size = request.path_params["oid"], request.query_params.get("size", "")
        signature = request.query_params.get("signature", "")
        if not hmac.compare_digest(signature.encode(), self._signature(f"{oid} {size}").encode()):
            raise Refused(403, "This address was not given out for an upload.")
        blob, digest, received = self.store.blob(oid), hashlib.sha256(), 0
        blob.parent.mkdir(parents=True, exist_ok=True)
        draft = blob.with_name(f".{oid}.{secrets.token_hex(4)}")
        try:
            with draft.open("wb") as stream:
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > int(size):
                        raise Refused(413, f"More than the announced {size} bytes")
                    digest.update(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            if digest.hexdigest() != oid:
                raise Refused(400, "What arrived has another SHA-256 than announced")
            draft.replace(blob)
        finally:
            draft.unlink(missing_ok=True)
        return Response()

    def _commit(self, request: Request, body: bytes) -> dict:
        kind, name = self._writable(request)
        if "create_pr" in request.query_params:
            raise Refused(400, "Pull requests exist on the real Hub only")
        lines = [_json(line) for line in body.splitlines() if line.strip()]
        header = next((line["value"] for line in lines if line.get("key") == "header"), {})

        def change(files: dict[str, File]) -> None:
            for line in lines:
                self._apply(line["key"], line["value"], files)

        title, parent = header.get("summary", ""), header.get("parentCommit")
        oid = self.store.commit(kind, name, request.path_params["revision"], change, title, self.user, parent)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}", "hookOutput": ""}

    def _apply(self, key: str, value: dict, files: dict[str, File]) -> None:
        """One line of a commit."""
        if key == "file":
            files[_safe(value["path"])] = self.store.add(base64.b64decode(value["content"], validate=True))
        elif key == "lfsFile":
            oid = value["oid"]
            blob = self.store.blob(oid) if re.fullmatch(r"[0-9a-f]{64}", oid) else None
            if blob is None or not blob.exists():
                raise Refused(400, f"The large file {oid[:64]} was not uploaded")
            files[_safe(value["path"])] = File(oid, blob.stat().st_size, oid, True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, f"{value['path']} does not exist", "EntryNotFound")
        elif key == "deletedFolder":
            for path in [p for p in files if p.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]

    def _change_ref(self, request: Request, where: str, ref: str, revision: str | None) -> dict:
        kind, name = self._writable(request)
        with self.store.lock:
            state = self.store.state(kind, name)
            if revision is None:
                if where == "branches" and ref == "main":
                    raise Refused(400, "The branch main stays")
                if state[where].pop(ref, None) is None:
                    raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")
            elif ref in state[where]:
                raise Refused(409, "Reference already exists")
            else:
                state[where][_safe(ref)] = self.store.commit_at(kind, name, revision)["oid"]
            self.store.save(kind, name, state)
        return {}

    def _branch(self, request: Request, body: bytes) -> dict:
        start = _json(body or b"{}").get("startingPoint") or "main"
        return self._change_ref(
            request, "branches", request.path_params["ref"], start if request.method == "POST" else None
        )

    def _tag(self, request: Request, body: bytes) -> dict:
        ref = request.path_params["ref"]  # the tag when it is deleted, else the revision that gets one
        if request.method == "DELETE":
            return self._change_ref(request, "tags", ref, None)
        return self._change_ref(request, "tags", str(_json(body).get("tag", "")), ref)


def _refuse(request: Request, refused: Exception) -> Response:
    return JSONResponse({"error": str(refused)}, refused.status, refused.headers)


def _refuse_disk(request: Request, error: OSError) -> Response:
    return _refuse(request, Refused(507, f"The disk of this Hub: {error.strerror or error}"))


def _json(body: bytes) -> dict:
    try:
        content = _plain(json.loads(body))
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON") from None
    if not isinstance(content, dict):
        raise Refused(400, "A JSON object was expected")
    return content


def _entry(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    return entry | ({"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.large else {})


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


class _Kind(StringConvertor):
    regex = "|".join(KINDS)


register_url_convertor("kind", _Kind())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where repositories are kept")
    parser.add_argument("--port", type=int, default=5005)
    options = parser.parse_args()
    try:
        hub = LocalHub(options.folder, options.port)
    except WorkshopError as error:
        print(f"\u2717 {error}", file=sys.stderr)
        return 1
    print(f"A stand-in for the Hub, not the Hub: export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1")
    print(f"Tokens to log in with are in {options.folder / 'tokens.json'}; Ctrl-C ends.", flush=True)
    hub.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
