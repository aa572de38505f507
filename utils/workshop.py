"""`workshop.start("09")`: the one place for the environment, the source of models, the device, the seed and budgets.

Notebook 00 explains the switch between embedded and Hub models. Call `start` before any library is imported: some of
them read their environment only once.
"""

from __future__ import annotations

import os
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import WorkshopError, catalog, requirements

if TYPE_CHECKING:
    import torch

    from local_hub import LocalHub

ROOT = Path(__file__).resolve().parent.parent
SEED = 42
QUIET = {
    # no usage statistics, no update checks
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    # no warning about forked tokenizers
    "TOKENIZERS_PARALLELISM": "false",
    # idle OpenMP threads that spin cost up to 10 times the speed where cores are shared
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    # NumPy's matrices are small here (PyTorch computes the large ones): on two threads scikit-learn took 25 times the CPU
    "OPENBLAS_NUM_THREADS": "1",
}
# without these, every load waits 46 seconds for a Hub that a broken wifi cannot reach
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
_started: dict[str, float] = {}
_own_choice: str | None = None  # what an earlier start in this kernel wrote into WORKSHOP_SOURCE without being asked
_local_hub: LocalHub | None = None


def index() -> dict[str, Any]:
    """The parsed `notebooks/index.toml`: one entry per notebook, and the settings of the collection."""
    return catalog.read_toml(ROOT / "notebooks" / "index.toml")


def platform() -> str:
    """Where this runs: "colab", "kaggle" or "local"."""
    if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "local"


def start(notebook: str, source: str | None = None) -> None:
    """Prepare the kernel for one notebook, and print one line that says how.

    Args:
        notebook: its number, such as "09".
        source: "embedded" or "hub"; None takes `WORKSHOP_SOURCE`, else "hub" on Colab and Kaggle, else "embedded".

    Raises:
        WorkshopError: the notebook or the source is unknown, the Hub was asked for and does not answer, or this Python is
            too old or lacks our packages.
    """
    if sys.version_info[:2] < requirements.OLDEST:
        raise WorkshopError(requirements.unsupported_python())
    notebooks = index()["notebook"]
    if notebook not in notebooks:
        raise WorkshopError(f'There is no notebook "{notebook}". There are: {", ".join(notebooks)}.')
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _bypass_proxies()
    if platform() != "local":
        requirements.missing_packages()
    try:
        note = _choose_source(source, notebooks[notebook].get("local_hub", False))
        where = device()
        seed_everything()
    except ModuleNotFoundError as error:
        raise WorkshopError(
            f"This kernel is {sys.executable}, which lacks {error.name}: choose the workshop's kernel, or run: make lab"
        ) from None
    _started[notebook] = time.perf_counter()
    entry = notebooks[notebook]
    line = f"source: {catalog.source()} · device: {where} · seed: {SEED}"
    print(line + (f" · about {entry['seconds']} s on two CPU cores" if "seconds" in entry else "") + note)


def _bypass_proxies() -> None:
    """Reach servers on this machine directly: the local Hub, the demo, the API server."""
    proxies = urllib.request.getproxies_environment()
    hosts = proxies.pop("no", "")
    if proxies and not {"*", "127.0.0.1"} & set(hosts.split(",")):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},127.0.0.1,localhost".lstrip(",")


def _choose_source(source: str | None, local_hub: bool) -> str:
    """Settle the source in the environment; returns what is to be said beside it."""
    if _local_hub and os.environ.get("HF_ENDPOINT") == _local_hub.url:
        del os.environ["HF_ENDPOINT"]  # of an earlier start in this kernel
    global _own_choice
    if _own_choice and os.environ.get("WORKSHOP_SOURCE") == _own_choice:
        del os.environ["WORKSHOP_SOURCE"]
    asked = source or os.environ.get("WORKSHOP_SOURCE")
    os.environ["WORKSHOP_SOURCE"] = asked or ("embedded" if platform() == "local" else "hub")
    note = ""
    if catalog.source() == "hub":
        endpoint = catalog.hub_address()
        if catalog.reachable(endpoint):
            for name in OFFLINE:
                os.environ.pop(name, None)
            _own_choice = None if asked else "hub"
            return f"\nHub: {endpoint}" if local_hub else ""
        if asked:
            raise WorkshopError(f"{endpoint} does not answer. {catalog.USE_EMBEDDED}")
        os.environ["WORKSHOP_SOURCE"] = "embedded"
        note = f"\n{endpoint} does not answer: using the embedded models."
    _own_choice = None if asked else catalog.source()
    os.environ.update(OFFLINE)
    for name, address in urllib.request.getproxies_environment().items():
        if address.startswith("socks"):  # of no use without a network, but the Hub's client would ask for a package
            for variable in (f"{name}_proxy", f"{name}_proxy".upper()):
                os.environ.pop(variable, None)
    if local_hub:
        del os.environ["HF_HUB_OFFLINE"]  # it would forbid calls to our own server, too
        os.environ.update(_start_local_hub())
        note += "\nHub: one of our own on this machine, to rehearse on; it is gone when the kernel stops"
    return note


def _start_local_hub() -> dict[str, str]:
    """Run a Hub on this machine for as long as the kernel lives; returns the environment that leads the libraries there."""
    global _local_hub
    if _local_hub is None:
        from local_hub import rehearsal

        _local_hub = rehearsal()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):  # yours is for the real Hub, and void here
        os.environ.pop(name, None)
    return _local_hub.environment()


def device() -> torch.device:
    """The fastest device here: a CUDA GPU, Apple's MPS, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def budget(cpu: int, gpu: int) -> int:
    """How much work to do here: `cpu` items without a GPU, `gpu` items with one. Both numbers stand in the cell."""
    return cpu if device().type == "cpu" else gpu


def seed_everything(seed: int = SEED) -> None:
    """Seed Python, NumPy and PyTorch. `start` calls it; call it again before a cell that must repeat exactly."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def output_folder(name: str) -> Path:
    """A folder under `build/`, or under `WORKSHOP_OUTPUT`, for what a notebook saves, such as a trained model; it is made here.

    Raises:
        WorkshopError: it cannot be made.
    """
    folder = Path(os.environ.get("WORKSHOP_OUTPUT") or ROOT / "build") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkshopError(
            f"{folder} cannot be written ({error.strerror}). Copy the workshop to your own folder."
        ) from error
    return folder


def finish(notebook: str) -> None:
    """Print what the notebook cost so far: time since `start`, and the kernel's peak memory."""
    if notebook not in _started:
        raise WorkshopError(f'Notebook "{notebook}" was not started in this kernel: run its first code cell.')
    seconds = time.perf_counter() - _started[notebook]
    print(f"{seconds:.0f} s since the first cell · peak memory {peak_memory_mb():,.0f} MB")


def peak_memory_mb() -> float:
    """The largest resident memory of this process so far, in megabytes (10^6 bytes)."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # macOS reports bytes, Linux KiB
