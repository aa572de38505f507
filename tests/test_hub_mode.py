"""Hub mode, without the Hub: every notebook runs against a local Hub full of tiny models of noise.

What they say is nonsense; that every call finds its model, tokenizer and labels is what this proves. Claims about quality
are skipped by the notebooks' own conditions.
"""

import os

import pytest
from tqdm.auto import tqdm

from local_hub import LocalHub
from tests import hub_models
from tools import notebooks


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub")) as running:
        hub_models.fill(running)
        yield running


@pytest.mark.parametrize("path", notebooks.paths(), ids=[path.stem for path in notebooks.paths()])
def test_hub_mode(hub, path, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    settings = hub.environment(tmp_path) | {"WORKSHOP_SOURCE": "hub", "HF_TOKEN": hub.token()}
    settings["WORKSHOP_OUTPUT"] = str(tmp_path / "output")  # nbval may run the same notebook at this moment
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with tqdm(disable=True) as bar:
        outcome = notebooks.execute(path, bar)
    assert outcome["status"] == "ok"
    first = next(cell for cell in outcome["notebook"].cells if cell.cell_type == "code")
    assert "source: hub" in first.outputs[0].text
