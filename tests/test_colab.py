"""The set-up cell on Colab and Kaggle: started for real in a kernel, in an empty folder, with git and pip led to local folders.

Only what cannot be had here is replaced: the package `google.colab` is empty, GitHub is a repository in a folder, and the
package index is a folder of wheels of two files. The kernel's environment lies over this one, so pip changes nothing here.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

from tools import notebooks
from utils import workshop

ROOT = Path(__file__).resolve().parent.parent
CLOSED = "http://127.0.0.1:9/"  # refuses connections
SET_UP = next(c.source for c in nbformat.read(notebooks.paths()[0], as_version=4).cells if c.cell_type == "code")
COLAB = "import google.colab"
STARTED = rf"source: embedded · device: .*\n{CLOSED} does not answer: using the embedded models.\n"


def wheel(folder, name, version, requires=()):
    """A wheel of one module that knows its version; returns its path."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{module}/__init__.py", f"__version__ = {version!r}\n")
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{module}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


class Machine:
    """An empty folder in which kernels start, a Python that has all that this one has, a repository and an index."""

    def __init__(self, folder, requirement="workshop-tiny>=1"):
        self.content, self.wheels, self.venv = folder / "content", folder / "wheels", folder / "venv"
        self.content.mkdir()
        wheel(self.wheels, "workshop-tiny", "1.0")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        self.python = self.venv / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(self.venv)}))
        here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(folder / "stand-ins")}
        (self.packages / "beneath.pth").write_text("\n".join(sorted(here)))
        (folder / "stand-ins" / "google" / "colab").mkdir(parents=True)
        (folder / "stand-ins" / "google" / "colab" / "__init__.py").touch()
        self.git = self.repository(folder / "repository", requirement)
        self.environment = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.git.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"https://github.com/{workshop.index()['repository']}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "HF_ENDPOINT": CLOSED,
            "IPYTHONDIR": str(folder / "ipython"),
        }

    def repository(self, folder, requirement):
        """What `start` needs of this one, with one more requirement, committed on the branch that the cell asks for."""
        shutil.copytree(ROOT / "utils", folder / "utils", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "notebooks").mkdir()
        shutil.copy(ROOT / "notebooks" / "index.toml", folder / "notebooks")
        text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
        (folder / "requirements.txt").write_text(f"{text}\n{requirement}  # not in the kernel\n", encoding="utf-8")
        git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
        for command in (
            ["init", "--quiet", "-b", workshop.index()["tag"]],
            ["add", "."],
            ["commit", "--quiet", "-m", "test"],
        ):
            subprocess.run([*git, *command], check=True)
        return folder

    def place(self, name, version):
        """Lay this version of a package over the one that is here."""
        with zipfile.ZipFile(wheel(self.venv, name, version)) as file:
            file.extractall(self.packages)

    def offline(self):
        """From now on new kernels find neither git's server nor a package."""
        self.environment |= {"GIT_CONFIG_KEY_0": f"url.{CLOSED}.insteadOf", "PIP_FIND_LINKS": ""}

    def run(self, *cells, **environment):
        """What each cell shows in one fresh kernel: its printed text, or the lines in place of a traceback."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WORKSHOP_", "PIP_"))}
        manager = KernelManager()
        manager._kernel_spec = KernelSpec(
            argv=[str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        )
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = NotebookClient(notebook, km=manager, allow_errors=True, timeout=120)
        try:
            client.execute(cwd=str(self.content), env=clean | self.environment | environment)
        finally:
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)
        return [shown(cell) for cell in notebook.cells]


def shown(cell):
    text = ""
    for output in cell.outputs:
        text += "\n".join(output.traceback) if output.output_type == "error" else output.get("text", "")
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_colab_clones_and_installs_once_and_goes_on_without_a_network(tmp_path):
    machine = Machine(tmp_path)
    machine.place("ruff", "0.0.1")  # too old, but nobody needs it there
    cut = "import os; os.environ |= dict(GIT_CONFIG_COUNT='0', PIP_FIND_LINKS=''); import workshop_tiny"
    ask = "from utils import doctor; print(doctor.packages())"
    _, first, tiny, second, packages = machine.run(COLAB, SET_UP, cut, SET_UP, ask)
    assert re.fullmatch(r"installing workshop-tiny>=1 …\n" + STARTED, first)
    assert tiny == ""
    assert re.fullmatch(STARTED, second)
    assert packages == f"{('ok', 'all of requirements.txt', '')}\n"
    history = subprocess.run(["git", "-C", machine.content / "workshop", "log", "--format=%s"], capture_output=True)
    assert history.stdout == b"test\n"
    machine.offline()
    assert re.fullmatch(STARTED, machine.run(COLAB, SET_UP)[1])


@pytest.fixture
def older_transformers(tmp_path):
    machine = Machine(tmp_path, "workshop-tiny==1.0")
    wheel(machine.wheels, "transformers", "5.15.1")
    machine.place("transformers", "4.57.0")
    return machine


def test_kaggle_is_set_up_in_the_same_way_and_older_transformers_are_replaced_before_their_import(older_transformers):
    show = "import transformers; print(transformers.__version__)"
    first, version = older_transformers.run(SET_UP, show, KAGGLE_KERNEL_RUN_TYPE="Interactive")
    assert re.fullmatch(r"installing transformers>=5.15,<6, workshop-tiny==1.0 …\n" + STARTED, first)
    assert version == "5.15.1\n"


def test_older_transformers_that_are_imported_ask_for_a_restart_until_it_happens(older_transformers):
    _, _, first, second = older_transformers.run(COLAB, "import transformers", SET_UP, SET_UP)
    sentence = "✗ transformers changed under the running kernel: choose Restart session, then run this cell again."
    assert first == "installing transformers>=5.15,<6, workshop-tiny==1.0 …\n" + sentence
    assert second == sentence
    assert re.fullmatch(STARTED, older_transformers.run(COLAB, SET_UP)[1])


@pytest.mark.parametrize("needs", ["numpy<2", "numpy>=99"])
def test_what_would_change_numpy_under_the_kernel_is_refused(tmp_path, needs):
    machine = Machine(tmp_path, "workshop-greedy")
    wheel(machine.wheels, "workshop-greedy", "1.0", requires=[needs])
    for version in ("1.26.4", "99.0"):
        wheel(machine.wheels, "numpy", version)
    shown = machine.run(COLAB, SET_UP)[1]
    assert re.fullmatch(
        r"installing workshop-greedy …\n"
        rf"✗ The packages do not fit this session: workshop-greedy 1.0 depends on {needs}, but it has numpy [\d.]+\. "
        r"Choose a newer runtime \(on Kaggle: environment\), then run this cell again\.",
        shown,
    )
    assert not list(machine.packages.glob("numpy*"))


def test_a_package_index_that_does_not_answer_is_one_sentence(tmp_path):
    shown = Machine(tmp_path).run(COLAB, SET_UP, PIP_NO_INDEX="", PIP_INDEX_URL=CLOSED, PIP_FIND_LINKS="")[1]
    assert re.fullmatch(r"installing workshop-tiny>=1 …\n✗ The package registry cannot be reached\. .*", shown)


def test_what_git_cannot_fetch_is_one_sentence(tmp_path):
    machine = Machine(tmp_path)
    tag = f'"{workshop.index()["tag"]}"'
    assert SET_UP.count(tag) == 1
    missing = machine.run(SET_UP.replace(tag, '"v0.0"'))[0]
    assert re.fullmatch(r"✗ The workshop cannot be fetched: fatal: Remote branch v0\.0 not found .* Mend .*", missing)
    (machine.content / "workshop").mkdir()
    (machine.content / "workshop" / "mine.txt").touch()
    foreign = machine.run(SET_UP)[0]
    assert re.fullmatch(r"✗ The workshop cannot be fetched: fatal: destination path .*workshop' already .*", foreign)
    assert (machine.content / "workshop" / "mine.txt").exists()
    shutil.rmtree(machine.content / "workshop")
    machine.offline()
    assert re.fullmatch(r"✗ The workshop cannot be fetched: fatal: unable to access .*", machine.run(SET_UP)[0])
    assert not list(machine.content.iterdir())
