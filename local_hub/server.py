"""The server: the paths that the client libraries call (https://huggingface.co/docs/hub/api and huggingface_hub's source)."""

from __future__ import annotations

import atexit
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
import tempfile
import threading
import time
from collections.abc import Callable
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

from local_hub.store import KINDS, LARGE, LARGE_BYTES, File, Refused, Store, front_matter, now, plain, safe_path, write
from utils import WorkshopError

MAX_BODY = 64_000_000  # bytes of one request, apart from large files
MAX_FILE = 2_000_000_000
REHEARSAL = "workshop-rehearsal-"
SDKS = ("gradio", "docker", "static")


class LocalHub:
    """The server. `with LocalHub(folder) as hub:` runs it in a thread; `hub.environment(home)` tells how to reach it.

    Args:
        folder: where repositories are kept; they are there again the next time.
        port: 0 takes a free one.
        user: who the tokens belong to: "read" cannot write, "write" writes to the user's own repositories, "admin" to all.

    Raises:
        WorkshopError: the port is in use, or another process serves the folder.
        OSError: the folder cannot be written.
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
            write(file, json.dumps(tokens).encode())
            file.chmod(0o600)
        self._roles: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        self._secret = secrets.token_bytes(32)
        app = Starlette(routes=self._routes(), exception_handlers={Refused: _refuse, OSError: _refuse_disk})
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))

    def token(self, role: str = "write") -> str:
        """The token with that role."""
        return next(token for token, its in self._roles.items() if its == role)

    @property
    def home(self) -> Path:
        """The clients' cache and log-in, where they are given no other place."""
        return self.store.folder / "home"

    def environment(self, home: Path | str | None = None) -> dict[str, str]:
        """The variables that send the client libraries here, with their cache in `home`. Set them before the import."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home or self.home), "HF_HUB_DISABLE_XET": "1"}

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
        token = {"displayName": "local", "role": role, "createdAt": now()}
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
            data = front_matter(str(wish.get("content", "")))
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
            files[safe_path(value["path"])] = self.store.add(base64.b64decode(value["content"], validate=True))
        elif key == "lfsFile":
            oid = value["oid"]
            blob = self.store.blob(oid) if re.fullmatch(r"[0-9a-f]{64}", oid) else None
            if blob is None or not blob.exists():
                raise Refused(400, f"The large file {oid[:64]} was not uploaded")
            files[safe_path(value["path"])] = File(oid, blob.stat().st_size, oid, True)
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
                state[where][safe_path(ref)] = self.store.commit_at(kind, name, revision)["oid"]
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


def rehearsal() -> LocalHub:
    """A Hub that runs until this process ends, in a folder of its own, where the user is logged in already.

    Raises:
        WorkshopError: there is no room for it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=REHEARSAL))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _clear_abandoned(folder.parent)
        hub = LocalHub(folder).__enter__()
        hub.home.mkdir()
        (hub.home / "token").write_text(hub.token(), encoding="utf-8")
    except OSError as error:
        raise WorkshopError(
            f"The rehearsal Hub finds no folder to write to ({error.strerror or error}). "
            "Free some disk space, or set TMPDIR to a folder that can be written."
        ) from None
    return hub


def _clear_abandoned(parent: Path) -> None:
    """Delete the folders of rehearsals whose process was killed: they are older than a minute, and nobody holds their lock."""
    for old in parent.glob(f"{REHEARSAL}*"):
        with contextlib.suppress(OSError, Timeout):  # another user's, or in use
            if time.time() - old.stat().st_mtime > 60:
                with FileLock(old / ".lock", timeout=0):
                    pass  # it was free
                shutil.rmtree(old, ignore_errors=True)


def _refuse(request: Request, refused: Exception) -> Response:
    return JSONResponse({"error": str(refused)}, refused.status, refused.headers)


def _refuse_disk(request: Request, error: OSError) -> Response:
    return _refuse(request, Refused(507, f"The disk of this Hub: {error.strerror or error}"))


def _json(body: bytes) -> dict:
    try:
        content = plain(json.loads(body))
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
