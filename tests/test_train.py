"""The training script of notebook 10: killed and resumed, one process and two, bad input, files for `accelerate`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from utils import train
from utils.train import newest_checkpoint, parse

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = [sys.executable, "-m", "utils.train", "--cpu"]
TWO = ["-m", "accelerate.commands.launch", "--config_file", "configs/two_processes.yaml", "-m", "utils.train", "--cpu"]
SHORT = ["--train-size", "24", "--steps", "7", "--batch-size", "8", "--checkpoint-every", "4"]  # a pass has 3 steps
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WORKSHOP_SOURCE": "embedded"}


def run(*command, **variables):
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | variables, text=True, capture_output=True)


def losses(folder):
    file = folder / "losses.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run(*SCRIPT, *SHORT, "--output", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 steps, processes: 1, accuracy on gold: 0.")
    return folder


def test_a_killed_run_resumes_to_the_same_losses(uninterrupted, tmp_path):
    command = [*SCRIPT, *SHORT, "--checkpoint-every", "2", "--output", tmp_path]
    killed = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    is_saving = False  # the checkpoint of step 6
    while not is_saving and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
        names = {path.name for path in tmp_path.glob("checkpoints/*")}
        is_saving = "step_4" in names and bool(names - {"step_2", "step_4"})
    killed.kill()
    assert killed.wait() == -9
    assert newest_checkpoint(tmp_path).name == "step_4"  # in the middle of the second pass
    assert not (tmp_path / "metrics.json").exists()
    file = tmp_path / "losses.jsonl"
    file.write_text(file.read_text().replace('"step": 4,', '"step": 4, "kept": true,'))
    resumed = run(*command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    resumed_losses = losses(tmp_path)
    assert resumed_losses[3].pop("kept")  # it went on from there, it did not begin again
    assert resumed_losses == losses(uninterrupted)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(
        (uninterrupted / "metrics.json").read_text()
    )


def test_two_processes_and_parts_give_the_losses_of_one(uninterrupted, tmp_path):
    done = run(sys.executable, *TWO, *SHORT, "--accumulate", "2", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = list(zip(losses(tmp_path), losses(uninterrupted), strict=True))
    assert [ours["step"] for ours, _ in pairs] == [1, 2, 3, 4, 5, 6, 7]
    assert all(ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3) for ours, theirs in pairs)
    two, one = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, uninterrupted))
    assert (two["processes"], one["processes"]) == (2, 1)
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.03)


def test_a_run_leaves_a_model_without_pickles(uninterrupted):
    files = {path.name for path in (uninterrupted / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files
    assert not any(name.endswith((".bin", ".pkl", ".pt")) for name in files)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse([*map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "there is no checkpoint in"),
        (["--language", "xx"], "--language xx: there are reviews in en, de, fr, es, ja."),
        (["--batch-size", "15"], "no multiple of --batch-size 15"),
        (["--batch-size", "16", "--accumulate", "3"], "take a multiple of 3"),
        (["--steps", "0"], "--steps is 0"),
        (["--steps", "many"], "invalid int value"),
        (["--nonsense"], "--help` lists the options"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    assert message in refused(capsys, "--output", tmp_path / "none", *arguments)


def test_the_output_is_needed(capsys):
    assert "--output" in refused(capsys)


def test_a_run_with_other_settings_is_not_resumed(tmp_path, capsys):
    (tmp_path / "checkpoints" / "step_8").mkdir(parents=True)
    settings = {name: value for name, value in vars(parse(["--output", "x"])).items() if name not in train.MAY_CHANGE}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert parse(["--output", str(tmp_path), "--resume", "--cpu"]).resume
    message = refused(capsys, "--output", tmp_path, "--resume", "--batch-size", "32")
    assert message.endswith("this run began with batch_size = 16, not 32.")


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(*SCRIPT, "--output", tmp_path / "file" / "run")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr


def test_a_wrong_source_is_one_line(tmp_path):
    done = run(*SCRIPT, "--output", tmp_path, WORKSHOP_SOURCE="embeded")
    assert done.returncode == 2
    assert done.stderr.startswith('✗ WORKSHOP_SOURCE is "embeded"') and done.stderr.count("\n") == 1


def test_the_newest_checkpoint_is_that_of_the_largest_step(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (8, 16, 100, 24):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    assert newest_checkpoint(tmp_path).name == "step_100"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_launch_files(file):
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    config = load_config_from_file(str(file))  # refuses keys that it does not know
    assert config.num_processes == yaml.safe_load(text)["num_processes"]
    assert config.num_processes % config.num_machines == 0


def test_accelerate_launches_fsdp_as_the_file_says(monkeypatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments = ["--config_file", str(ROOT / "configs" / "nodes_fsdp.yaml"), "--machine_rank", "1", "script.py"]
    arguments = _validate_launch_command(launch_command_parser().parse_args(arguments))[0]
    environment = prepare_multi_gpu_env(arguments)
    assert arguments.use_fsdp
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "BertLayer"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", 1)
