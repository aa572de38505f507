"""Set-up with one line for every way it can fail. `make` runs it as a script; on Colab `workshop.start` calls it.

Only the standard library, and no syntax newer than Python 3.6 above `main`, so that an old Python gets a sentence.
"""

import hashlib
import http.client
import importlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_GB = 4
# what a running Colab or Kaggle kernel has loaded already: changing it there breaks the kernel
FROZEN = ("torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "protobuf", "ipython", "ipykernel")
FROZEN += ("tornado", "pyzmq", "jupyter_client", "traitlets")
# what pip may replace there, as long as it is not imported yet
REPLACED = ("transformers", "datasets", "tokenizers", "huggingface_hub", "accelerate", "peft", "evaluate", "gradio")
# Colab and Kaggle bring their own notebook, and nobody tests there
NOT_IN_COLAB = ("jupyterlab", "nbclient", "nbconvert", "nbval", "pytest", "pytest-xdist", "hypothesis", "ruff")


def stop(message):
    """Print one line and leave with exit status 1."""
    print("\u2717 " + message, file=sys.stderr)
    sys.exit(1)


def unsupported_python():
    """A sentence if this Python is too old or too new, else None."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return None
    have = ".".join(map(str, sys.version_info[:3]))
    return (
        "Python {} at {} does not fit: the workshop needs {}.{} to {}.{}. Name another one: make PYTHON=python3.12 …"
    ).format(have, sys.executable, *OLDEST, *NEWEST)


def fingerprint():
    """Changes when the requirements do: an environment with this stamp needs no work."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def python_in(venv):
    """The interpreter of a virtual environment."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(venv, folder, name)


def why_pip_failed(log):
    """One sentence for the log of a failed pip."""
    if re.search(r"No space left on device|Errno 28|not enough space on the disk", log):
        return (
            "The disk is full: the packages need about {} GB. Free some space and run the same command again.".format(
                NEEDED_GB
            )
        )
    if re.search(
        r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|ReadTimeoutError|"
        r"Temporary failure in name resolution|Connection refused|Network is unreachable",
        log,
    ):
        return (
            "The package registry cannot be reached. Check the network (or pip's index and proxy), then run it again."
        )
    conflict = re.search(r"(?m)^ +(\S+ .*depends on .*)$", log)
    fixed = re.search(r"The user requested \(constraint\) (\w\S*)==(\S+)", log)
    if conflict and fixed:
        return (
            "The packages do not fit this session: {}, but it has {} {}. "
            "Choose a newer runtime (on Kaggle: environment), then run this cell again."
        ).format(conflict.group(1), *fixed.groups())
    last = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines() or ["no output"]
    return "pip failed: {}".format(last[-1][:200])


def pip(python, log_file, command, *arguments):
    """Run `pip install` or `pip wheel` with a line of progress; leave with one line if it fails."""
    run = [python, "-m", "pip", command, "--disable-pip-version-check", "--retries", "2", *arguments]
    begun, count, log = time.time(), 0, []
    with open(log_file, "a", encoding="utf-8") as file:
        process = subprocess.Popen(
            run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
        )
        for line in process.stdout:
            file.write(line)
            log.append(line)
            if line.startswith("Collecting"):
                count += 1
            if sys.stdout.isatty() and (line.startswith("Collecting") or line.startswith("Installing")):
                print("\r  {:3d} packages, {:3.0f} s ".format(count, time.time() - begun), end="", flush=True)
    if process.wait():
        stop("{}  (whole log: {})".format(why_pip_failed("".join(log)), log_file))
    installed = [line for line in log if line.startswith("Successfully installed")]
    done = len("".join(installed).split()[2:]) if command == "install" else count
    print("\r  {} packages in {:.0f} s".format(done, time.time() - begun))


def reachable(url):
    """Whether a package index answers within 3 seconds."""
    import urllib.request

    try:
        urllib.request.urlopen(url, timeout=3).close()
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def wants_cpu_torch(index):
    """Whether to take PyTorch from `index`: plain `torch` brings gigabytes of CUDA packages on Linux, of no use without a GPU."""
    return bool(index) and sys.platform == "linux" and not shutil.which("nvidia-smi") and reachable(index)


def this_machine():
    """What wheels must fit: Python, system and processor."""
    return "Python {}.{} on {} {}".format(*sys.version_info[:2], platform.system(), platform.machine())


def use_bundled_wheels():
    """In an unpacked `make bundle`: install from its folder `wheels`, and from nowhere else. Returns whether it is one."""
    folder = os.path.join(ROOT, "wheels")
    if not os.path.isdir(folder):
        return False
    with open(os.path.join(folder, "made-for.txt"), encoding="utf-8") as file:
        fits = file.read()
    if fits != this_machine():
        stop("The packages in wheels/ are for {}, this is {}. Ask for another bundle.".format(fits, this_machine()))
    os.environ["PIP_NO_INDEX"] = "1"
    os.environ["PIP_FIND_LINKS"] = pathlib.Path(folder).as_uri()  # pip splits plain paths at spaces
    return True


def main():
    """`install.py VENV [TORCH_INDEX]`: create the virtual environment and install the tested closure into it."""
    if len(sys.argv) < 2:
        stop("usage: python utils/install.py VENV [TORCH_INDEX]")
    venv, torch_index = os.path.abspath(sys.argv[1]), (sys.argv[2:] or [""])[0]
    stamp, wanted = os.path.join(venv, "installed"), fingerprint()
    if os.path.exists(stamp):
        with open(stamp) as file:
            if file.read() == wanted:
                return
        os.unlink(stamp)
    problem = unsupported_python()
    if problem:
        stop(problem)
    if os.path.isdir(venv) and os.listdir(venv) and not os.path.exists(os.path.join(venv, "pyvenv.cfg")):
        stop("{} is not empty and no virtual environment: name another folder (make VENV=…).".format(venv))
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        stop("Only {:.1f} GB are free on this disk: the packages need about {} GB. Free some.".format(free, NEEDED_GB))
    bundled = use_bundled_wheels()
    print("Setting up {} (about 3 minutes, once) …".format(venv))
    python, log_file = python_in(venv), os.path.join(venv, "install.log")
    try:
        if not os.path.exists(python) or subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL):
            subprocess.check_output([sys.executable, "-m", "venv", "--clear", venv], stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        if b"ensurepip" in error.output:
            stop("Python's venv module is incomplete: sudo apt install python{}.{}-venv".format(*sys.version_info[:2]))
        stop("The virtual environment cannot be made: {}".format(error.output.decode(errors="replace").strip()[-200:]))
    except OSError as error:
        stop("{} cannot be written: {}.".format(venv, error.strerror))
    constraints = ["--constraint", os.path.join(ROOT, "constraints.txt")]
    if not bundled and wants_cpu_torch(torch_index):
        pip(python, log_file, "install", *constraints, "--no-deps", "--index-url", torch_index, "torch")
    pip(python, log_file, "install", *constraints, "--requirement", os.path.join(ROOT, "requirements.txt"))
    with open(stamp, "w") as file:
        file.write(wanted)
    if bundled:
        print("Ready. Next: make lab, or {} -m jupyter lab".format(python))


def unmet(without=()):
    """The lines of requirements.txt that this environment does not meet: [(requirement, installed version or None)].

    Packages named in `without` are not looked for.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    missing = []
    with open(os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    for line in filter(None, lines):
        requirement = Requirement(line)
        if requirement.name in without:
            continue
        try:
            have = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append((line, None))
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            missing.append((line, have))
    return missing


def missing_packages():
    """On Colab and Kaggle: install what is missing, without changing what the running kernel has loaded."""
    from importlib import metadata

    from utils import WorkshopError

    missing = [line for line, _ in unmet(NOT_IN_COLAB)]
    if missing:
        install_beside_the_frozen(missing)
    # not only after an installation: who runs the cell again without a restart has not restarted
    changed = [name for name in REPLACED if getattr(sys.modules.get(name), "__version__", None)]
    changed = [name for name in changed if sys.modules[name].__version__ != metadata.version(name)]
    if changed:
        raise WorkshopError(
            "{} changed under the running kernel: choose Restart session, then run this cell again.".format(
                ", ".join(changed)
            )
        )


def install_beside_the_frozen(requirements):
    """Run pip in the environment of the running kernel; what is `FROZEN` keeps its version."""
    from importlib import metadata

    from utils import WorkshopError

    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        for name in FROZEN:
            try:
                file.write("{}=={}\n".format(name, metadata.version(name)))
            except metadata.PackageNotFoundError:
                continue
    print("installing", ", ".join(requirements), "…")
    command = [sys.executable, "-m", "pip", "install", "--no-color", "--retries", "2", "--constraint", file.name]
    done = subprocess.run(
        [*command, *requirements], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    os.unlink(file.name)
    if done.returncode:
        raise WorkshopError(why_pip_failed(done.stdout))
    importlib.invalidate_caches()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted: the same command goes on from here")
    except OSError as error:
        stop("{}: {}".format(error.filename, error.strerror))
