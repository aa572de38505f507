"""Which Python and packages the workshop needs, and on Colab and Kaggle the installation of those that are missing.

It starts on the standard library alone, without syntax newer than Python 3.6, so that an old Python gets a sentence.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile

from utils import WorkshopError

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_GB = 4
# what a running Colab or Kaggle kernel has loaded already: changing it there breaks the kernel
FROZEN = ("torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "protobuf", "ipython", "ipykernel")
FROZEN += ("tornado", "pyzmq", "jupyter_client", "traitlets")
# what pip may replace there, as long as it is not imported yet
REPLACED = ("transformers", "datasets", "tokenizers", "huggingface_hub", "accelerate", "peft", "evaluate", "gradio")
# Colab and Kaggle bring their own notebook, and nobody tests there
NOT_IN_COLAB = ("jupyterlab", "nbclient", "nbconvert", "nbval", "pytest", "pytest-xdist", "hypothesis", "ruff")
NO_REGISTRY = (
    "NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|ReadTimeoutError|"
    "Temporary failure in name resolution|Connection refused|Network is unreachable"
)


def unsupported_python():
    """A sentence if this Python is too old or too new, else None."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return None
    have, oldest, newest = (".".join(map(str, version)) for version in (sys.version_info[:3], OLDEST, NEWEST))
    need = f"the workshop needs {oldest} to {newest}. Name another one: make PYTHON=python3.12 …"
    return f"Python {have} at {sys.executable} does not fit: {need}"


def why_pip_failed(log):
    """One sentence for the log of a failed pip."""
    if re.search("No space left on device|Errno 28|not enough space on the disk", log):
        return f"The disk is full: the packages need about {NEEDED_GB} GB. Free some space, then run it again."
    if re.search(NO_REGISTRY, log):
        return "The package registry cannot be reached. Check the network (or pip's index), then run it again."
    last = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines() or ["no output"]
    return f"pip failed: {last[-1][:200]}"


def installed(name):
    """The version of a package in this environment; None if it is not there."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def unmet(without=()):
    """The lines of requirements.txt that this environment does not meet: [(requirement, installed version or None)].

    Packages named in `without` are not looked for.
    """
    from packaging.requirements import Requirement

    missing = []
    with open(os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    for line in filter(None, lines):
        requirement = Requirement(line)
        if requirement.name in without:
            continue
        have = installed(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            missing.append((line, have))
    return missing


def missing_packages():
    """On Colab and Kaggle: install what is missing, without changing what the running kernel has loaded."""
    missing = [line for line, _ in unmet(NOT_IN_COLAB)]
    if missing:
        install_beside_the_frozen(missing)
    # not only after an installation: who runs the cell again without a restart has not restarted
    changed = [name for name in REPLACED if getattr(sys.modules.get(name), "__version__", None)]
    changed = [name for name in changed if sys.modules[name].__version__ != installed(name)]
    if changed:
        mend = "choose Restart session, then run this cell again."
        raise WorkshopError(f"{', '.join(changed)} changed under the running kernel: {mend}")


def install_beside_the_frozen(requirements):
    """Run pip in the environment of the running kernel; what is `FROZEN` keeps its version."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.writelines(f"{name}=={installed(name)}\n" for name in FROZEN if installed(name))
    print("installing", ", ".join(requirements), "…")
    command = [sys.executable, "-m", "pip", "install", "--no-color", "--retries", "2", "--constraint", file.name]
    command += requirements
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    os.unlink(file.name)
    conflict = re.search(r"(?m)^ +(\S+ .*depends on .*)$", done.stdout)
    fixed = re.search(r"The user requested \(constraint\) (\w\S*)==(\S+)", done.stdout)
    why = why_pip_failed(done.stdout)
    if conflict and fixed:
        mend = "Choose a newer runtime (on Kaggle: environment), then run this cell again."
        why = f"The packages do not fit this session: {conflict[1]}, but it has {fixed[1]} {fixed[2]}. {mend}"
    if done.returncode:
        raise WorkshopError(why)
    importlib.invalidate_caches()
