"""Names that the installed libraries no longer have, found before any cell runs, and without importing a library.

What a library offers is read from its source. What its source cannot tell, because a function takes `**kwargs` or an object
comes from elsewhere, stands in the tables below. Sources: MIGRATION_GUIDE_V5.md of transformers, the 1.0 migration guide
of huggingface_hub, the release notes of datasets 4.0, the Gradio 6 migration guide.
"""

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import notebooks

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {"transformers", "datasets", "tokenizers", "accelerate", "huggingface_hub", "evaluate", "peft", "gradio"}

# keyword arguments and methods: what to write instead
KEYWORDS = {
    "use_auth_token": "token=",
    "trust_remote_code": "nothing: data sets run no scripts any more, and our models bring no code",
    "torch_dtype": "dtype=",
    "grouped_entities": 'aggregation_strategy="simple"',
    "return_all_scores": "top_k=None",
    "framework": "nothing: there is only PyTorch",
    "safe_serialization": "nothing: weights are always saved as safetensors",
    "use_temp_dir": "nothing",
    "ignore_verifications": "verification_mode=",
    "allow_flagging": "flagging_mode=",
    "concurrency_count": "default_concurrency_limit=",
    "enable_queue": "demo.queue()",
    "show_api": "api_visibility= of the event",
}
METHODS = {
    "encode_plus": "tokenizer(…)",
    "batch_encode_plus": "tokenizer(…)",
    "as_target_tokenizer": "tokenizer(…, text_target=)",
    "additional_special_tokens": "extra_special_tokens",
    "prune_heads": "nothing",
}
# arguments of Trainer and TrainingArguments: those that exist are read from the source, these are the new names
RENAMED = {
    "evaluation_strategy": "eval_strategy=",
    "tokenizer": "processing_class=",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "no_cuda": "use_cpu=",
    "warmup_ratio": "warmup_steps= with a fraction",
    "group_by_length": 'train_sampling_strategy="group_by_length"',
    "include_inputs_for_metrics": "include_for_metrics=",
    "push_to_hub_model_id": "hub_model_id=",
    "push_to_hub_token": "hub_token=",
    "overwrite_output_dir": "nothing",
    "save_safetensors": "nothing",
}
CODE = ("local_hub", "tests", "tools", "utils")


def file_of(module):
    """The source file of a module, or None; nothing is imported."""
    package, *parts = module.split(".")
    path = Path(importlib.util.find_spec(package).origin).parent.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def offered(module):
    """The names that `from module import …` finds: bound in its source, listed there for loading when needed, or modules."""
    file = file_of(module)
    if file is None:
        return set()
    names = {path.stem for path in file.parent.iterdir() if file.name == "__init__.py"}
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # the tables of lazy packages are made of strings
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
            star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and node.level == 1 and node.module
            if star and module != "transformers":  # see below: it would read a thousand files
                names |= offered(f"{module}.{node.module}")
    if module == "transformers":  # it gathers these lists when it is imported
        for path in (file.parent / "models").rglob("*.py"):
            for listed in re.findall(r"(?ms)^__all__ = (\[.*?\])", path.read_text(encoding="utf-8")):
                names |= set(re.findall(r'"(\w+)"', listed))
    return names


@functools.cache
def training_parameters():
    """What TrainingArguments and Trainer take, by the name of the class."""
    arguments = next(
        n
        for n in ast.walk(tree_of(file_of("transformers.training_args")))
        if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments"
    )
    trainer = next(
        n
        for n in ast.walk(tree_of(file_of("transformers.trainer")))
        if isinstance(n, ast.ClassDef) and n.name == "Trainer"
    )
    start = next(n for n in trainer.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return {
        "TrainingArguments": {n.target.id for n in arguments.body if isinstance(n, ast.AnnAssign)},
        "Trainer": {argument.arg for argument in start.args.args + start.args.kwonlyargs},
    }


@functools.cache
def tasks():
    """What `pipeline(…)` takes as its first argument: the keys of two dictionaries in its source."""
    found = set()
    for node in ast.walk(tree_of(file_of("transformers.pipelines"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("SUPPORTED_TASKS", "TASK_ALIASES"):
            found |= {key.value for key in node.value.keys}
    return found


def findings(code):
    """One line for each use of a name that the installed libraries do not have."""
    found, aliases = [], {}
    tree = ast.parse("\n".join("pass" if line.startswith(("%", "!")) else line for line in code.splitlines()))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in (alias for alias in node.names if alias.name.split(".")[0] in LIBRARIES):
                if file_of(name.name) is None:
                    found.append(f"line {node.lineno}: there is no module {name.name}")
                aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
            missing = [alias.name for alias in node.names if alias.name not in offered(node.module)]
            found += [f"line {node.lineno}: {node.module} has no {name}" for name in missing]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = aliases.get(getattr(node.value, "id", None))
            if module and node.attr not in offered(module):
                found.append(f"line {node.lineno}: {module} has no {node.attr}")
            if node.attr in METHODS:
                found.append(f"line {node.lineno}: {node.attr} is gone, write {METHODS[node.attr]}")
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            takes = training_parameters().get(called)
            for keyword in filter(None, (keyword.arg for keyword in node.keywords)):
                if keyword in KEYWORDS:
                    found.append(f"line {node.lineno}: {keyword}= is gone, write {KEYWORDS[keyword]}")
                elif takes and keyword not in takes:
                    instead = f", write {RENAMED[keyword]}" if keyword in RENAMED else ""
                    found.append(f"line {node.lineno}: {called} takes no {keyword}={instead}")
            task = (
                node.args[0].value
                if called == "pipeline" and node.args and isinstance(node.args[0], ast.Constant)
                else None
            )
            if task and task not in tasks():
                found.append(f"line {node.lineno}: pipeline has no task {task}")
    return found


def sources():
    for path in notebooks.paths():
        cells = nbformat.read(path, as_version=4).cells
        yield path.name, "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for path in sorted(path for folder in CODE for path in ROOT.glob(f"{folder}/**/*.py")):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "code"), [pytest.param(*source, id=source[0]) for source in sources()])
def test_nothing_that_the_libraries_no_longer_have(name, code):
    assert findings(code) == []


PLANTED = {
    "from transformers import AdamW": "transformers has no AdamW",
    "from transformers import AutoModelWithLMHead": "transformers has no AutoModelWithLMHead",
    "from transformers import TFAutoModel": "transformers has no TFAutoModel",
    "from transformers import SummarizationPipeline": "transformers has no SummarizationPipeline",
    "from transformers.models.bert import TFBertModel": "transformers.models.bert has no TFBertModel",
    "from datasets import load_metric": "datasets has no load_metric",
    "import datasets\ndatasets.list_datasets()": "line 2: datasets has no list_datasets",
    "from huggingface_hub import Repository": "huggingface_hub has no Repository",
    "from huggingface_hub import InferenceApi, HfApi": "huggingface_hub has no InferenceApi",
    "from huggingface_hub.inference_api import InferenceApi": "huggingface_hub.inference_api has no InferenceApi",
    "from peft import prepare_model_for_int8_training": "peft has no prepare_model_for_int8_training",
    "import gradio as gr\ngr.inputs.Textbox()": "line 2: gradio has no inputs",
    "import gradio.outputs": "there is no module gradio.outputs",
    "TrainingArguments('x', evaluation_strategy='epoch')": "no evaluation_strategy=, write eval_strategy=",
    "TrainingArguments('x', logging_dir='x')": "TrainingArguments takes no logging_dir=",
    "TrainingArguments('x', overwrite_output_dir=True)": "takes no overwrite_output_dir=",
    "Trainer(model, tokenizer=tokenizer)": "Trainer takes no tokenizer=, write processing_class=",
    "AutoModel.from_pretrained('x', use_auth_token=True)": "use_auth_token= is gone, write token=",
    "AutoModel.from_pretrained('x', torch_dtype='auto')": "torch_dtype= is gone, write dtype=",
    "load_dataset('x', trust_remote_code=True)": "trust_remote_code= is gone",
    "gr.Interface(f, allow_flagging='never')": "allow_flagging= is gone, write flagging_mode=",
    "pipeline('summarization', model=name)": "pipeline has no task summarization",
    "pipeline('question-answering')": "pipeline has no task question-answering",
    "tokenizer.encode_plus('x')": "encode_plus is gone, write tokenizer(…)",
}


@pytest.mark.parametrize("code", PLANTED)
def test_planted_cells_are_found(code):
    (line,) = findings(code)
    assert PLANTED[code] in line


def test_the_new_names_exist_and_the_old_ones_do_not():
    known = set.union(*training_parameters().values())
    assert {"output_dir", "eval_strategy", "processing_class", "model", "compute_metrics"} <= known
    assert not known & set(RENAMED)
    for new in RENAMED.values():
        name = re.match(r"(\w+)=", new)
        assert name is None or name[1] in known
    assert {"text-classification", "ner", "fill-mask"} <= tasks()


def test_the_gate_imports_no_library():
    code = (
        "import sys; from tests import test_static as gate; [gate.findings(code) for _, code in gate.sources()]; "
        "print(sorted(({'torch', 'numpy'} | gate.LIBRARIES) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout == "[]\n", done.stderr
