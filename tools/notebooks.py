"""Run the notebooks, and keep their committed form: `python -m tools.notebooks run | format | table`.

`make workshop`, `make outputs` and `make format` call this.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm.auto import tqdm

from utils import WorkshopError
from utils.recipes.files import replace_between
from utils.workshop import ROOT, index

FOLDER = ROOT / "notebooks"
BUILD = ROOT / "build" / "workshop"
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container
KEPT_METADATA = ("tags", "slideshow")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_SECONDS = 600  # a cell that takes longer is stuck


def paths(numbers: list[str] | None = None) -> list[Path]:
    """The notebook files, all or those with the given numbers, in order.

    Raises:
        WorkshopError: a number that no notebook has.
    """
    known = {number: FOLDER / f"{number}_{entry['name']}.ipynb" for number, entry in index()["notebook"].items()}
    if unknown := [number for number in numbers or [] if number not in known]:
        raise WorkshopError(f"There is no notebook {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [path for number, path in known.items() if not numbers or number in numbers]


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The committed form: stable ids, only the metadata we use, no widgets, timings or machine paths in the outputs."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in KEPT_METADATA if key in cell.metadata})
        if cell.cell_type == "code":
            cell.outputs = _merge_streams([o for o in map(_clean, cell.outputs) if o])
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number if cell.execution_count else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    return notebook


PROGRESS = re.compile(r"\[\d\d:\d\d(<|, ).*/s\]")  # the end of a bar of tqdm, such as [00:05<00:00, 3.1it/s]


def _clean(output: NotebookNode) -> NotebookNode | None:
    if output.get("name") == "stderr":
        return None  # progress bars and warnings: they differ from run to run
    if "text" in output:
        output.text = _portable(output.text)
    if "data" in output:
        is_widget = any(mime.startswith("application/vnd.jupyter.widget") for mime in output.data)
        if is_widget or PROGRESS.search(output.data.get("text/plain", "")):
            return None  # a progress bar: it shows only while something is computed for the first time
        for mime, value in output.data.items():
            if mime.startswith("text/") and isinstance(value, str):
                output.data[mime] = _portable(value)
        output.metadata = NotebookNode({key: v for key, v in output.metadata.items() if key.startswith("image/")})
    return output


def _portable(text: str) -> str:
    return re.sub(r"(?<![\w/])(/[\w.-]+)+/(?=site-packages/|notebooks/|data/|build/)", "", text.replace(f"{ROOT}/", ""))


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def write(notebook: NotebookNode, path: Path) -> None:
    """Validate a notebook and write it in one step, so that an interruption leaves the old one."""
    nbformat.validate(notebook)
    _write_text(path, nbformat.writes(notebook) + "\n")


def _write_text(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8", newline="\n")
    draft.replace(path)


class _Memory(threading.Thread):
    """Watches the memory of a kernel and of what it has started, and keeps the largest sum in MB.

    Processes share pages, those of libraries for one. Linux tells how large the share of each is (PSS); elsewhere, such
    pages count once for every process.
    """

    def __init__(self, client: NotebookClient) -> None:
        super().__init__(daemon=True)
        self.client, self.peak, self.done = client, 0.0, threading.Event()

    def processes(self) -> list[psutil.Process]:
        provisioner = self.client.km and self.client.km.provisioner
        if not provisioner or not provisioner.pid:
            return []  # not started yet, or gone
        with contextlib.suppress(psutil.Error):
            kernel = psutil.Process(provisioner.pid)
            return [kernel, *kernel.children(recursive=True)]
        return []

    def run(self) -> None:
        while not self.done.wait(0.2):
            total = 0
            for process in self.processes():
                try:
                    total += process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / 1e6)


def execute(path: Path, bar: tqdm, threads: int | None = None) -> dict[str, object]:
    """Run one notebook in a fresh kernel.

    Args:
        threads: for the kernel to compute with; all that there are by default.

    Returns:
        {"notebook": the executed copy, "seconds": float, "peak_mb": float, "status": "ok" or what went wrong}
    """
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bar.reset(total=len(code))
    begun, state = time.perf_counter(), {"cell": 0}

    def on_start(cell: NotebookNode, **_: object) -> None:
        if cell.cell_type == "code":
            state["cell"] += 1
            seconds = time.perf_counter() - begun
            bar.set_description_str(f"{path.stem} · cell {state['cell']}/{len(code)} · {seconds:.0f} s")

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # it warns each time that TCP is not encrypted
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=on_start,
        on_cell_complete=lambda cell, **_: bar.update(cell.cell_type == "code"),
        store_widget_state=False,
    )
    memory = _Memory(client)
    memory.start()
    status = "ok"
    try:
        client.execute(env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}))
    except CellExecutionError as error:
        status = f"cell {state['cell']}: {error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}"
    except CellTimeoutError:
        status = f"cell {state['cell']}: still running after {CELL_SECONDS} s"
    except DeadKernelError:
        status = f"cell {state['cell']}: the kernel died (out of memory?)"
    except Exception as error:  # no kernel at all, for one
        status = f"cell {state['cell']}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        memory.done.set()
    seconds = time.perf_counter() - begun
    return {"notebook": notebook, "seconds": round(seconds, 1), "peak_mb": round(memory.peak), "status": status}


def _inputs() -> str:
    """Changes when anything that a run depends on does: an interrupted run goes on only with the same inputs."""
    digest = hashlib.sha256()
    for pattern in ("notebooks/*", "utils/**/*.py", "local_hub/*.py", "tools/*.py", "configs/*", "data/**/*"):
        for file in sorted(ROOT.glob(pattern)):
            if file.is_file():
                digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    digest.update(os.environ.get("WORKSHOP_SOURCE", "").encode())
    return digest.hexdigest()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that are free here, or in this container."""
    free = [psutil.virtual_memory().available]
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such limit
            free.append(int(limit.read_text(encoding="ascii")))
    return min(free)


def fitting_jobs() -> int:
    """How many notebooks run side by side by default: two, where there are two cores and memory for the largest two."""
    return 2 if cores() >= 2 and free_memory() >= 7e9 else 1


def run(numbers: list[str] | None, in_place: bool, jobs: int = 1) -> int:
    """Run notebooks, write the executed copies, and print a table of their cost.

    An interrupted run goes on where it stopped. In place, the outputs go into the committed notebooks instead.

    Args:
        jobs: how many run side by side, each with its share of the cores: the whole takes less time, each notebook more.

    Returns:
        the number of notebooks that failed.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    state_file, inputs = BUILD / "state.json", f"{_inputs()} {jobs}"
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    done = state.get("done", {}) if state.get("inputs") == inputs and not in_place else {}
    wanted, results = paths(numbers), {}
    if all(path.stem in done for path in wanted):  # asking again after a whole run means running again
        for path in wanted:
            del done[path.stem]
    threads = max(1, cores() // jobs) if jobs > 1 else None
    bars = queue.SimpleQueue()
    for position in range(jobs):
        bars.put(tqdm(bar_format="{desc} {bar:20}", leave=False, position=position))

    def work(path: Path) -> dict[str, object]:
        bar = bars.get()
        try:
            outcome = execute(path, bar, threads)
        finally:
            bars.put(bar)
        _save(outcome.pop("notebook"), path, in_place and outcome["status"] == "ok")
        return outcome

    begun = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        # side by side, the longest come first: none of them is left alone at the end
        cost = {path: index()["notebook"][path.stem[:2]]["seconds"] for path in wanted}
        order = wanted if jobs == 1 else sorted(wanted, key=cost.__getitem__, reverse=True)
        running = {}
        try:
            for path in order:
                if path.stem in done:
                    results[path.stem] = done[path.stem]
                    tqdm.write(_row(path.stem, results[path.stem]))
                else:
                    running[pool.submit(work, path)] = path.stem
            for future in as_completed(running):
                stem = running[future]
                results[stem] = future.result()
                if results[stem]["status"] == "ok":
                    done[stem] = results[stem]
                _write_text(state_file, json.dumps({"inputs": inputs, "done": done}, indent=1))
                tqdm.write(_row(stem, results[stem]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in psutil.Process().children(recursive=True):  # kernels, and servers that they have started
                with contextlib.suppress(psutil.Error):
                    process.kill()
            raise
        finally:
            while not bars.empty():
                bars.get().close()
    if in_place and jobs == 1:  # beside another one, a notebook takes longer
        _write_costs({stem.split("_")[0]: result for stem, result in results.items() if result["status"] == "ok"})
    seconds, failed = sum(r["seconds"] for r in results.values()), sum(r["status"] != "ok" for r in results.values())
    print(f"{'total':<28} {seconds:>7.1f} s {max(r['peak_mb'] for r in results.values()):>7,} MB  {failed} failed")
    print(
        f"this run: {time.perf_counter() - begun:.0f} s"
        + (f", {jobs} at a time: each takes longer" if jobs > 1 else "")
    )
    print(f"executed copies and HTML: {BUILD.relative_to(ROOT)}")
    return failed


def _row(stem: str, result: dict[str, object]) -> str:
    return f"{stem:<28} {result['seconds']:>7.1f} s {result['peak_mb']:>7,} MB  {result['status']}"


def _save(notebook: NotebookNode, path: Path, in_place: bool) -> None:
    from nbconvert import HTMLExporter

    write(notebook, BUILD / path.name)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    (BUILD / path.with_suffix(".html").name).write_text(page, encoding="utf-8")
    if in_place:
        write(normalise(notebook), path)


def _write_costs(results: dict[str, dict[str, object]]) -> None:
    """Put measured seconds and peak memory into index.toml, which the README table and the timetable read."""
    file = FOLDER / "index.toml"
    text = file.read_text(encoding="utf-8")
    for number, result in results.items():
        head, section, tail = re.split(rf'(\[notebook\."{number}"\][^\[]*)', text, maxsplit=1)
        section = re.sub(r"(?m)^seconds = .*$", f"seconds = {round(result['seconds'])}", section)
        section = re.sub(r"(?m)^peak_mb = .*$", f"peak_mb = {result['peak_mb']}", section)
        text = head + section + tail
    file.write_text(text, encoding="utf-8", newline="\n")


def colab_badge(file: str) -> str:
    """The badge that opens a notebook of the published repository in Colab."""
    settings = index()
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    link = f"https://colab.research.google.com/github/{settings['repository']}/blob/{settings['tag']}/notebooks/{file}"
    return f"[![Open in Colab]({image})]({link})"


def binder_badge() -> str:
    """The badge that opens the published repository in Binder, at the first notebook."""
    settings = index()
    link = f"https://mybinder.org/v2/gh/{settings['repository']}/{settings['tag']}"
    return (
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({link}?urlpath=lab/tree/notebooks/{paths()[0].name})"
    )


def address(notebook: NotebookNode, path: Path, set_up: str) -> NotebookNode:
    """Write the badge, and the set-up cell of notebook 00 with this notebook's number and the settings of index.toml."""
    settings = index()
    where = f'REPOSITORY, TAG = "https://github.com/{settings["repository"]}", "{settings["tag"]}"'
    set_up = re.sub(r"(?m)^REPOSITORY, TAG = .*$", where, set_up)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = re.sub(r'workshop\.start\("\d\d"', f'workshop.start("{path.stem[:2]}"', set_up)
    head = notebook.cells[0]
    head.source = re.sub(r"(?m)^\[!\[Open in Colab\].*$", colab_badge(path.name), head.source)
    return notebook


def table() -> str:
    """The notebook table of the README, from index.toml."""
    settings = index()
    lines = ["| # | notebook | what it shows | minutes | runs in | memory | |", "|---|---|---|---|---|---|---|"]
    for number, entry in settings["notebook"].items():
        file = f"{number}_{entry['name']}.ipynb"
        lines.append(
            f"| {number} | [{entry['title']}](notebooks/{file}) | {entry['shows']} | {entry['minutes_self']} "
            f"| {entry['seconds']} s | {entry['peak_mb']:,} MB | {colab_badge(file)} |"
        )
    return "\n".join(lines)


def format_all() -> None:
    """Normalise all notebooks, and write what index.toml says into them and into the README."""
    set_up = next(c.source for c in nbformat.read(paths()[0], as_version=4).cells if c.cell_type == "code")
    for path in paths():
        write(normalise(address(nbformat.read(path, as_version=4), path, set_up)), path)
    readme = ROOT / "README.md"
    text = replace_between(readme.read_text(encoding="utf-8"), "notebooks", table())
    text = re.sub(r"\[!\[Open in Binder\]\S+", binder_badge(), text)
    text = re.sub(r"git clone \S+", f"git clone https://github.com/{index()['repository']}", text)
    readme.write_text(text, encoding="utf-8", newline="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run notebooks and print a table of their cost")
    runner.add_argument("numbers", nargs="*", help="such as 00 09; all by default")
    runner.add_argument("--in-place", action="store_true", help="write outputs and costs into the committed files")
    runner.add_argument("--jobs", type=int, help="how many side by side: by default 1 with --in-place, else what fits")
    commands.add_parser("format", help="bring notebooks and the README's table into their committed form")
    commands.add_parser("table", help="print the README's notebook table")
    options = parser.parse_args()
    try:
        if options.command == "run":
            jobs = options.jobs or (1 if options.in_place else fitting_jobs())
            return min(run(options.numbers, options.in_place, max(1, jobs)), 1)
        if options.command == "format":
            format_all()
        else:
            print(table())
    except WorkshopError as error:
        print(f"\u2717 {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
