"""`python -m tools.install VENV [TORCH_INDEX]`: the virtual environment, with one line for every way to fail.

Only the standard library, and no syntax newer than Python 3.6, so that an old Python gets a sentence.
"""

import hashlib
import http.client
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

from utils.requirements import NEEDED_GB, ROOT, unsupported_python, why_pip_failed


def stop(message):
    """Print one line and leave with exit status 1."""
    print("\u2717 " + message, file=sys.stderr)
    sys.exit(1)


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
                print(f"\r  {count:3d} packages, {time.time() - begun:3.0f} s ", end="", flush=True)
    if process.wait():
        stop("{}  (whole log: {})".format(why_pip_failed("".join(log)), log_file))
    installed = [line for line in log if line.startswith("Successfully installed")]
    done = len("".join(installed).split()[2:]) if command == "install" else count
    print(f"\r  {done} packages in {time.time() - begun:.0f} s")


def reachable(url):
    """Whether a package index answers within 3 seconds (a name lookup that hangs takes longer)."""
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
        stop(f"The packages in wheels/ are for {fits}, this is {this_machine()}. Ask for another bundle.")
    os.environ["PIP_NO_INDEX"] = "1"
    os.environ["PIP_FIND_LINKS"] = pathlib.Path(folder).as_uri()  # pip splits plain paths at spaces
    return True


def main():
    """Create the virtual environment and install the tested closure into it."""
    if len(sys.argv) < 2:
        stop("usage: python -m tools.install VENV [TORCH_INDEX]")
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
        stop(f"{venv} is not empty and no virtual environment: name another folder (make VENV=…).")
    place = venv
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free / 1e9
    if free < NEEDED_GB:
        stop(f"Only {free:.1f} GB are free on this disk: the packages need about {NEEDED_GB} GB. Free some.")
    bundled = use_bundled_wheels()
    print(f"Setting up {venv} (about 3 minutes, once) …")
    python, log_file = python_in(venv), os.path.join(venv, "install.log")
    try:
        if not os.path.exists(python) or subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL):
            subprocess.check_output([sys.executable, "-m", "venv", "--clear", venv], stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        if b"ensurepip" in error.output:
            stop("Python's venv module is incomplete: sudo apt install python{}.{}-venv".format(*sys.version_info[:2]))
        stop("The virtual environment cannot be made: {}".format(error.output.decode(errors="replace").strip()[-200:]))
    except OSError as error:
        stop(f"{venv} cannot be written: {error.strerror}.")
    constraints = ["--constraint", os.path.join(ROOT, "constraints.txt")]
    if not bundled and wants_cpu_torch(torch_index):
        pip(python, log_file, "install", *constraints, "--no-deps", "--index-url", torch_index, "torch")
    pip(python, log_file, "install", *constraints, "--requirement", os.path.join(ROOT, "requirements.txt"))
    with open(stamp, "w") as file:
        file.write(wanted)
    if bundled:
        print(f"Ready. Next: make lab, or {python} -m jupyter lab")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop("interrupted: the same command goes on from here")
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}")
