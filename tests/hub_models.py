"""Tiny random models for every Hub id of the catalog: architecture, tokenizer, labels as on the Hub, weights of noise.

`fill(hub)` puts them on a local Hub, so that hub mode's code path can be tried without the Hub. `python -m tests.hub_models`
runs one and waits.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from local_hub import File, LocalHub
from utils import catalog
from utils.recipes import protein, reviews

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TAGS = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


def _texts() -> list[str]:
    return [row["review_body"] for lang in ("en", "de", "fr") for row in reviews.written("train", lang)[:300]]


def _labels(names: list[str]) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def word_pieces() -> tf.PreTrainedTokenizerBase:
    return tf.AutoTokenizer.from_pretrained(str(catalog._courier("minilm")))


def byte_pairs(cls: type, special: list[str]) -> tf.PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_texts(), trainer)
    with tempfile.TemporaryDirectory() as folder:
        backend.model.save(folder)
        return cls(vocab=str(Path(folder) / "vocab.json"), merges=str(Path(folder) / "merges.txt"))


def unigrams(cls: type, special: list[str]) -> tf.PreTrainedTokenizerBase:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = next(token for token in special if "unk" in token.lower())
    trainer = trainers.UnigramTrainer(vocab_size=1_000, special_tokens=special, unk_token=unknown, show_progress=False)
    backend.train_from_iterator(_texts(), trainer)
    return cls(vocab=[tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]])


def build(name: str, folder: Path) -> None:
    """Write the stand-in for the catalog's checkpoint `name` to `folder`."""
    torch.manual_seed(0)
    roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    albert = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    bert = {"vocab_size": 30_522, **SIZE}
    if name in ("minilm", "qa", "nli", "reranker"):
        tokenizer = word_pieces()
        model = {
            "minilm": lambda: tf.BertModel(tf.BertConfig(**bert)),
            "qa": lambda: tf.BertForQuestionAnswering(tf.BertConfig(**bert)),
            "nli": lambda: tf.BertForSequenceClassification(
                tf.BertConfig(**bert, **_labels(["entailment", "not_entailment"]))
            ),
            "reranker": lambda: tf.BertForSequenceClassification(tf.BertConfig(**bert, **_labels(["LABEL_0"]))),
        }[name]()
    elif name == "reviews-base":
        tokenizer = unigrams(tf.XLMRobertaTokenizer, roberta)
        model = tf.BertModel(tf.BertConfig(**SIZE, vocab_size=len(tokenizer), pad_token_id=1))
    elif name in ("sentiment", "ner"):
        tokenizer = word_pieces()
        labels = _labels(["NEGATIVE", "POSITIVE"] if name == "sentiment" else TAGS)
        config = tf.DistilBertConfig(vocab_size=30_522, dim=32, n_layers=2, n_heads=4, hidden_dim=37, **labels)
        kind = "SequenceClassification" if name == "sentiment" else "TokenClassification"
        model = getattr(tf, f"DistilBertFor{kind}")(config)
    elif name == "mask":
        tokenizer = unigrams(tf.AlbertTokenizer, albert)
        model = tf.AlbertForMaskedLM(tf.AlbertConfig(**SIZE, embedding_size=16, vocab_size=len(tokenizer)))
    elif name == "coder":
        tokenizer = byte_pairs(tf.GPT2Tokenizer, ["<|endoftext|>"])
        config = tf.LlamaConfig(
            **SIZE, vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=0, eos_token_id=0
        )
        model = tf.LlamaForCausalLM(config)
    elif name == "vision":
        tokenizer = tf.ViTImageProcessor(size={"height": 32, "width": 32})
        names = _labels([f"thing {number}" for number in range(1_000)])
        model = tf.ViTForImageClassification(tf.ViTConfig(**SIZE, image_size=32, patch_size=16, **names))
    elif name == "protein":
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(protein.VOCABULARY), encoding="utf-8")
        tokenizer = tf.EsmTokenizer(str(vocabulary))
        config = tf.EsmConfig(
            **SIZE, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id, position_embedding_type="rotary",
        )  # fmt: skip
        model = tf.EsmForMaskedLM(config)
    elif name == "t5":
        tokenizer = unigrams(tf.T5Tokenizer, ["<pad>", "</s>", "<unk>"])
        config = tf.T5Config(
            d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, vocab_size=len(tokenizer), decoder_start_token_id=0
        )
        model = tf.T5ForConditionalGeneration(config)
    elif name == "clip":
        vocabulary = byte_pairs(tf.CLIPTokenizer, ["<|startoftext|>", "<|endoftext|>"])
        tokenizer = tf.CLIPProcessor(tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), vocabulary)
        text = SIZE | {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1}
        model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=SIZE | {"image_size": 32, "patch_size": 16}))
    else:
        raise KeyError(f"no stand-in for the checkpoint {name}: describe its Hub model here")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name == "minilm":  # the Hub's repository has it as well; TAPAS's tokenizer reads nothing else
        (folder / "vocab.txt").write_bytes((catalog._courier("minilm") / "vocab.txt").read_bytes())


def pin(hub: LocalHub, repo: str, revision: str) -> None:
    """Give the head of a repository the hash that the catalog pins: over the Hub's API, nobody can choose a hash."""
    commits = hub.store.repo("model", repo) / "commits"
    head = json.loads((commits / f"{hub.store.commit_at('model', repo)['oid']}.json").read_text())
    (commits / f"{revision}.json").write_text(json.dumps(head | {"oid": revision}))


def fill(hub: LocalHub) -> None:
    """Put a stand-in under the Hub id of every checkpoint."""
    for name, entry in catalog.entries()["checkpoint"].items():
        if "hub" not in entry:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            build(name, folder)
            card = f"---\nlicense: {entry.get('hub_licence', 'mit')}\nlibrary_name: transformers\n---\n# A stand-in\n"
            (folder / "README.md").write_text(card)
            added: dict[str, File] = {}
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                added[file.relative_to(folder).as_posix()] = hub.store.add(file.read_bytes())
            hub.store.create("model", entry["hub"])
            hub.store.commit("model", entry["hub"], "main", lambda files, new=added: files.update(new), "fill", "tests")
            pin(hub, entry["hub"], entry["revision"])


if __name__ == "__main__":
    with LocalHub(Path(tempfile.mkdtemp()), port=5005) as hub:
        fill(hub)
        print(hub.url)
        hub._thread.join()
