"""The set-up of a notebook: one switch, one line, and no network unless it was asked for."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import WorkshopError, catalog, workshop

ROOT = Path(__file__).resolve().parent.parent
CLOSED = "http://127.0.0.1:9"  # refuses connections


def start(arguments, **environment):
    """What a fresh process prints for workshop.start(…), and its environment's HF_HUB_OFFLINE."""
    code = (
        f"from utils import workshop; workshop.start({arguments}); import os; print(os.environ.get('HF_HUB_OFFLINE'))"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WORKSHOP_"))}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean | environment, text=True, capture_output=True, timeout=120
    )
    return done, time.perf_counter() - begun


def test_a_laptop_gets_embedded_models_and_no_network():
    done, _ = start("'00'")
    line, offline = done.stdout.splitlines()
    assert line.startswith("source: embedded · device: ")
    assert offline == "1"


def test_a_notebook_that_pushes_gets_a_hub_on_this_machine():
    done, _ = start("'09'); from huggingface_hub import create_repo; print(create_repo('trial')")
    assert done.returncode == 0, done.stderr
    line, hub, url, offline = done.stdout.splitlines()
    assert line.startswith("source: embedded")
    assert hub.startswith("Hub: one of our own")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/workshop/trial", url)
    assert offline == "None"
    done, _ = start("'09'); workshop.start('00'); import os; print(os.environ.get('HF_ENDPOINT')")
    assert done.stdout.splitlines()[-2:] == ["None", "1"]


def test_an_unreachable_hub_falls_back_on_colab_in_one_line():
    done, _ = start("'09'", COLAB_RELEASE_TAG="test", HF_ENDPOINT=CLOSED)
    assert done.returncode == 0, done.stderr
    assert f"{CLOSED} does not answer: using the embedded models." in done.stdout
    assert done.stdout.startswith("source: embedded")


@pytest.mark.parametrize(
    ("arguments", "environment"), [("'09', source='hub'", {}), ("'09'", {"WORKSHOP_SOURCE": "hub"})]
)
def test_an_unreachable_hub_that_was_asked_for_is_an_error_that_offers_embedded(arguments, environment):
    done, seconds = start(arguments, HF_ENDPOINT=CLOSED, **environment)
    assert done.returncode == 1
    assert (
        f'{CLOSED} does not answer. Use the embedded models instead: workshop.start(..., source="embedded")'
        in done.stderr
    )
    assert seconds < 10  # of which 3 at most are spent waiting


def test_a_reachable_hub_is_used(monkeypatch):
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done, _ = start("'09', source='hub'", HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    line, hub, offline = done.stdout.splitlines()
    assert line.startswith("source: hub")
    assert hub == f"Hub: http://127.0.0.1:{server.server_port}"
    assert offline == "None"


def test_unknown_notebooks_and_sources_are_named():
    with pytest.raises(WorkshopError, match='There is no notebook "99". There are: 00'):
        workshop.start("99")
    done, _ = start("'00', source='internet'")
    assert 'WORKSHOP_SOURCE is "internet": set it to "embedded"' in done.stderr
    with pytest.raises(WorkshopError, match="was not started"):
        workshop.finish("12")


def test_errors_show_as_one_line_in_a_notebook():
    assert WorkshopError("what, value, fix")._render_traceback_() == ["\u2717 what, value, fix"]


def test_seeds_repeat():
    import torch

    workshop.seed_everything()
    first = torch.rand(3)
    workshop.seed_everything()
    assert torch.equal(first, torch.rand(3))


def test_budget_follows_the_device(monkeypatch):
    import torch

    monkeypatch.setattr(workshop, "device", lambda: torch.device("cpu"))
    assert workshop.budget(cpu=1, gpu=2) == 1
    monkeypatch.setattr(workshop, "device", lambda: torch.device("cuda"))
    assert workshop.budget(cpu=1, gpu=2) == 2


def test_importing_the_package_loads_no_library():
    code = "import sys, utils, utils.workshop, utils.catalog; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_cache_needs_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("WORKSHOP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert catalog.cache_folder().name == "computational-language-technologies"
