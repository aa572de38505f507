"""Is this machine ready for the workshop? `python -m utils.doctor [--deep]`: one line each, with what to type where it is not.

Starts on the standard library alone. Exit status 0 if nothing failed; warnings do not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time

from utils import WorkshopError, requirements

OK, WARN, FAIL = "ok", "warn", "fail"
SIGNS = {OK: "\u2713", WARN: "!", FAIL: "\u2717"}
Finding = tuple  # state, what was found, what to type


def verdict(fine: bool, found: str, mend: str, otherwise: str = FAIL) -> Finding:
    """What was found, with what to type only where it is not fine."""
    return (OK, found, "") if fine else (otherwise, found, mend)


def python() -> Finding:
    """The version of Python."""
    problem = requirements.unsupported_python()
    found = f"{platform.python_version()}, {platform.system()}, {platform.machine()}"
    return (FAIL, problem, "install Python 3.12, then: make PYTHON=python3.12 lab") if problem else (OK, found, "")


def packages() -> Finding:
    """The packages of requirements.txt."""
    try:
        from utils import workshop

        missing = requirements.unmet(() if workshop.platform() == "local" else requirements.NOT_IN_COLAB)
    except ModuleNotFoundError as error:
        return FAIL, f"no package {error.name}", "make lab"
    if missing:
        text = ", ".join(f"{line} (have {have or 'nothing'})" for line, have in missing)
        return FAIL, "not met: " + text, f"{sys.executable} -m pip install -r requirements.txt -c constraints.txt"
    return OK, "all of requirements.txt", ""


def kernel() -> Finding:
    """Whether notebooks run in this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    mend = f"{sys.executable} -m ipykernel install --sys-prefix --name python3"
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return FAIL, "there is no python3 kernel", mend
    # a bare name means "the Python that starts it", as ipykernel installs it
    folders = [os.path.realpath(os.path.dirname(path)) for path in (program, sys.executable)]
    same = os.sep not in program or folders[0] == folders[1]
    return verdict(same, "this Python" if same else f"it is {program}, not this Python", mend)


def memory() -> Finding:
    """Free memory."""
    import psutil

    free = psutil.virtual_memory().available / 1e9
    return verdict(free >= 3, f"{free:.1f} GB free", "close browser tabs and programs: 3 GB are comfortable", WARN)


def disk() -> Finding:
    """Free disk space."""
    free = shutil.disk_usage(requirements.ROOT).free / 1e9
    return verdict(free >= 2, f"{free:.0f} GB free", "free some space: the workshop needs 2 GB beside its packages")


def device() -> Finding:
    """What computes here."""
    import torch

    from utils import workshop

    where = workshop.device()
    without = f"{where}, {torch.get_num_threads()} threads (no GPU is needed)"
    return OK, torch.cuda.get_device_name() if where.type == "cuda" else without, ""


def model() -> Finding:
    """A forward and a backward pass of the base model, and how fast they are."""
    import torch
    from transformers import AutoModel

    from utils.catalog import _courier  # the embedded files, whatever the source of models is

    try:
        encoder = AutoModel.from_pretrained(str(_courier("minilm")))
    except WorkshopError as error:
        return FAIL, str(error), ""
    tokens = torch.full((8, 64), 2023)
    begun = time.perf_counter()
    encoder(tokens).last_hidden_state.mean().backward()
    per_second = tokens.numel() / (time.perf_counter() - begun)
    found = f"MiniLM trains at {per_second:.0f} tokens per second"
    return verdict(per_second >= 300, found, "close other programs, plug in the charger, or use Colab", WARN)


def cache() -> Finding:
    """The folder for merged checkpoints."""
    from utils.catalog import cache_folder

    folder = cache_folder()
    mend = "export WORKSHOP_CACHE=<a folder with 1 GB free>"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "probe"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        return FAIL, f"{folder} cannot be written ({error.strerror})", mend
    free = shutil.disk_usage(str(folder)).free / 1e9
    shown = str(folder).replace(os.path.expanduser("~"), "~", 1)
    return verdict(free >= 1, f"{shown}, {free:.0f} GB free", mend)


def hub() -> Finding:
    """Whether the Hugging Face Hub answers; only hub mode needs it."""
    from utils.catalog import hub_address, reachable

    there = reachable(hub_address())
    return OK, "reachable: hub mode works here" if there else "not reachable: the embedded models need no network", ""


def ports() -> Finding:
    """Whether a server of this machine can be reached from it: notebooks, demo and API need that."""
    import socket
    import urllib.request

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(3)
        port = server.getsockname()[1]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=3).close()
            server.accept()[0].close()
        except OSError as error:
            return FAIL, f"127.0.0.1:{port} cannot be reached ({error})", "allow Python in your firewall"
    if urllib.request.getproxies().get("http") and not urllib.request.proxy_bypass("127.0.0.1"):
        return WARN, "a proxy stands between this machine and itself", "export NO_PROXY=127.0.0.1,localhost"
    return OK, "servers on 127.0.0.1 can be reached", ""


def notebook() -> Finding:
    """Notebook 00 from the first to the last cell; only with --deep."""
    from tqdm.auto import tqdm

    from tools import notebooks

    with tqdm(bar_format="{desc} {bar:20}", leave=False) as bar:
        outcome = notebooks.execute(notebooks.paths(["00"])[0], bar)
    found = f"00 took {outcome['seconds']:.0f} s and {outcome['peak_mb']:.0f} MB: {outcome['status']}"
    return verdict(outcome["status"] == "ok", found, "make setup")


CHECKS = (python, packages, kernel, memory, disk, device, model, cache, hub, ports)


def examine(deep: bool = False) -> list:
    """Run all checks: [(name, state, found, what to type)]. A check that breaks is a failure, never a traceback."""
    results = []
    for check in CHECKS + (notebook,) * deep:
        try:
            state, found, mend = check()
        except Exception as error:
            state, found, mend = FAIL, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", "make lab"
        results.append((check.__name__, state, found, mend))
        if check is python and state == FAIL:
            break  # nothing else can be trusted
    return results


def main() -> int:
    """Print the findings; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deep", action="store_true", help="also run a notebook")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # some Windows consoles have no check marks
    results = examine(options.deep)
    for name, state, found, mend in results:
        print(f"{SIGNS[state]} {name:9} {found}")
        if mend:
            print(f"{'':11} -> {mend}")
    failed = sum(state == FAIL for _, state, _, _ in results)
    print("Ready." if not failed else f"{failed} to mend.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
