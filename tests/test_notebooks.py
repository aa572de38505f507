"""The form of the committed notebooks, and the runner. nbval runs their cells, see conftest.py."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from tools import notebooks
from utils import WorkshopError, exercises, workshop

PATHS = notebooks.paths()
NOTEBOOKS = [(path, nbformat.read(path, as_version=4)) for path in PATHS]
each = pytest.mark.parametrize(("path", "notebook"), NOTEBOOKS, ids=[path.stem for path in PATHS])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each
def test_form(path, notebook):
    committed = path.read_text(encoding="utf-8")
    assert committed == nbformat.writes(notebooks.normalise(nbformat.reads(committed, 4))) + "\n", "run: make format"
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [o for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "error"]


@each
def test_nothing_of_the_machine_shows(path, notebook):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work|opt)/\w", text)
    assert not re.search(r"hf_[A-Za-z0-9]{20,}", text)


@each
def test_set_up_is_the_same_everywhere(path, notebook):
    number = path.stem[:2]
    first = notebooks.paths()[0]
    reference = code_cells(nbformat.read(first, as_version=4))[0].source
    set_up = code_cells(notebook)[0].source
    assert set_up == reference.replace(f'"{first.stem[:2]}"', f'"{number}"')
    settings = workshop.index()
    assert f'"https://github.com/{settings["repository"]}", "{settings["tag"]}"' in set_up
    assert f"{settings['repository']}/blob/{settings['tag']}/notebooks/{path.name}" in notebook.cells[0].source
    assert code_cells(notebook)[-1].source == f'workshop.finish("{number}")'


@each
def test_prose_introduces_every_cell_and_cells_are_short(path, notebook):
    for before, cell in zip(notebook.cells, notebook.cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source
            assert cell.source.count("\n") < 30, cell.source


@each
def test_figures_have_alt_texts_and_headings_their_order(path, notebook):
    figures = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(figures) >= 2
    assert all(len(figure.metadata["image/png"]["alt"]) > 40 for figure in figures)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    levels = [len(hashes) for hashes in re.findall(r"(?m)^(#+) ", prose)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(levels, levels[1:]))


@each
def test_exercises_stand_in_their_notebook(path, notebook):
    number = path.stem[:2]
    source = "\n".join(cell.source for cell in notebook.cells)
    known = [name for name in exercises.names() if name.startswith(number)]
    assert re.findall(r'= check\("(\d\d\.\d)"', source) == known
    assert re.findall(r"\*\*Exercise (\d\d\.\d)\*\* \(\d+ minutes?, (?:easy|medium|hard)\)", source) == known
    assert workshop.index()["notebook"][number]["exercises"] == len(known)


@each
def test_links_between_notebooks_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\(((?!https?:)[^)#]+)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), target


@each
def test_some_outputs_are_compared(path, notebook):
    tagged = [cell for cell in code_cells(notebook) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert tagged
    assert all(cell.outputs for cell in tagged)


def make(tmp_path, *sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    path = tmp_path / "trial.ipynb"
    nbformat.write(notebook, path)
    return path


def run(path):
    from tqdm.auto import tqdm

    with tqdm(disable=True) as bar:
        return notebooks.execute(path, bar)


def test_a_run_reports_cost_and_failures(tmp_path):
    fine = run(make(tmp_path, "import time; block = b'x' * 300_000_000; time.sleep(1)", "print(len(block))"))
    assert fine["status"] == "ok"
    assert fine["peak_mb"] > 300
    assert fine["notebook"].cells[1].outputs[0].text == "300000000\n"
    assert run(make(tmp_path, "1", "1 / 0"))["status"] == "cell 2: ZeroDivisionError: division by zero"
    dead = run(make(tmp_path, "import os; os._exit(1)"))
    assert dead["status"] == "cell 1: the kernel died (out of memory?)"


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells what a process shares")
def test_memory_that_two_processes_share_counts_once(tmp_path):
    source = "import os, time; block = b'x' * 400_000_000; child = os.fork(); time.sleep(2); child or os._exit(0)"
    outcome = run(make(tmp_path, source))
    assert outcome["status"] == "ok"
    assert 400 < outcome["peak_mb"] < 700


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    ran = []

    def execute(path, bar, threads):
        ran.append(path.stem)
        if len(ran) == 2:
            time.sleep(0.5)  # the first one is finished by now
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
            time.sleep(0.5)
        notebook = nbformat.v4.new_notebook()
        return {"notebook": notebook, "seconds": 1.0, "peak_mb": 1, "status": "ok"}

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "BUILD", tmp_path / "build")
    monkeypatch.setattr(sys, "argv", ["notebooks", "run", "--jobs", "1"])
    assert notebooks.main() == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on from here\n"
    assert notebooks.main() == 0
    stems = [path.stem for path in PATHS]
    assert ran == [stems[0], stems[1], *stems[1:]]
    assert "total" in capsys.readouterr().out
    notebooks.run(None, in_place=False)  # a finished run starts anew
    assert len(ran) == 1 + len(stems) + len(stems)


def test_side_by_side_with_shares_of_the_cores(tmp_path, monkeypatch, capsys):
    both, order, shares = threading.Barrier(2), [], []

    def execute(path, bar, threads):
        order.append(path.stem[:2])
        shares.append(threads)
        both.wait(timeout=60)  # only if two are here at a time
        return {"notebook": nbformat.v4.new_notebook(), "seconds": 1.0, "peak_mb": 1, "status": "ok"}

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "BUILD", tmp_path / "build")
    monkeypatch.setattr(notebooks, "cores", lambda: 6)
    assert notebooks.run(["00", "01", "09", "12"], in_place=False, jobs=2) == 0
    assert set(order[:2]) == {"09", "12"} and shares == [3] * 4  # the longest first
    assert "0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cores", "free", "asked", "jobs"),
    [(2, 8e9, (), 2), (1, 8e9, (), 1), (2, 5e9, (), 1), (8, 5e9, ("--jobs", "3"), 3), (2, 8e9, ("--in-place",), 1)],
)
def test_two_side_by_side_where_they_fit(cores, free, asked, jobs, monkeypatch):
    monkeypatch.setattr(notebooks, "cores", lambda: cores)
    monkeypatch.setattr(notebooks, "LIMITS", ())
    monkeypatch.setattr(notebooks.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(sys, "argv", ["notebooks", "run", *asked])
    used = []
    monkeypatch.setattr(notebooks, "run", lambda numbers, in_place, jobs: used.append(jobs) or 0)
    assert notebooks.main() == 0
    assert used == [jobs]


def test_what_this_process_may_use_counts_and_not_what_the_machine_has(tmp_path, monkeypatch):
    for name, limit in (("memory.max", "max\n"), ("memory.limit_in_bytes", "1000000\n")):
        (tmp_path / name).write_text(limit)
    monkeypatch.setattr(notebooks, "LIMITS", (tmp_path / "none", *sorted(tmp_path.iterdir())))
    assert notebooks.free_memory() == 1e6
    command = [sys.executable, "-c", "from tools import notebooks; print(notebooks.cores())"]
    done = subprocess.run(["taskset", "-c", "0", *command], cwd=notebooks.ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n"


def test_normalising_removes_what_differs_between_machines():
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("x", execution_count=7, metadata={"tags": ["a"], "trusted": True})
    cell.outputs = [
        output("stream", name="stderr", text="50%|#####"),
        output("stream", name="stdout", text=f"{notebooks.ROOT}/build/x\n"),
        output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Map: 0%"}),
        output("display_data", data={"text/plain": "Map:   0%|          | 0/220 [00:00<?, ? examples/s]"}),
        output("display_data", data={"text/plain": "Generating: 0 examples [00:00, ? examples/s]"}),
    ]
    normal = notebooks.normalise(nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})).cells[0]
    assert normal.metadata == {"tags": ["a"]}
    assert [o.text for o in normal.outputs] == ["build/x\n"]
    assert normal.execution_count == 1


def test_an_unknown_notebook_is_named():
    with pytest.raises(WorkshopError, match="There is no notebook 77. There are: 00"):
        notebooks.paths(["77"])


def test_the_readme_table_is_generated():
    text = (notebooks.ROOT / "README.md").read_text(encoding="utf-8")
    assert notebooks.replace_between(text, "notebooks", notebooks.table()) == text, "run: make format"


def test_nothing_is_unfinished():
    root = notebooks.ROOT
    for file in [root / "README.md", *root.glob("data/**/*.md"), *PATHS]:
        text = re.sub(r'"[A-Za-z0-9+/=\\n]{200,}"', "", file.read_text(encoding="utf-8"))  # without pictures
        assert not re.search(r"\b[A-Z]+_(TEXT|MB|QUALITY)\b|TODO|<!-- (\w+) -->\s*<!-- /", text), file
    assert all(entry["seconds"] and entry["peak_mb"] for entry in workshop.index()["notebook"].values())
