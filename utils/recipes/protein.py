"""The checkpoint `protein`: which amino acid belongs in the gap? A small ESM trained from scratch on three protein families.

    python -m utils.recipes.protein --data FOLDER        # half an hour on one CPU core

In the folder `protein` of FOLDER: alignments of three families, as the ESM repository ships them (MIT; sequences of UniRef,
CC BY 4.0). Every tenth sequence measures, the first of each family among them. Sequences stay aligned: a place means the same in each of a family, and what one
has lost is a gap, `-`. Without the alignment, a network of this size learned little but how frequent each amino acid is.
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
)

from utils.recipes.training import Result, batches, fit, options, save_model, work_folder

NAME = "protein"
RESIDUES = "LAGVSERTIDPKQNFYMHWC"
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES, "X", "-", "<mask>"]
LONGEST = 313
EPOCHS = 15
HELD_OUT = 10
FAMILIES = {
    "1a3a": "mannitol permease, IIA domain",
    "1xcr": "ester hydrolase C11orf54",
    "5ahw": "universal stress protein",
}


def aligned(text: str) -> list[str]:
    """The distinct rows of an A3M alignment: insertions (lower case) removed, rare letters as X, gaps kept."""
    records = (record.partition("\n")[2] for record in ("\n" + text).split("\n>")[1:])
    rows = ("".join(letter for letter in record if letter == "-" or letter.isupper()) for record in records)
    return list(dict.fromkeys("".join(c if c in RESIDUES or c == "-" else "X" for c in row) for row in rows))


def families(data: Path) -> dict[str, list[str]]:
    """The aligned sequences of each family, the one that the alignment was made for first."""
    return {
        name: aligned(gzip.decompress((data / "protein" / f"{name}_1_A.a3m.gz").read_bytes()).decode())
        for name in FAMILIES
    }


def split(rows: list[str], held_out: bool) -> list[str]:
    return [row for number, row in enumerate(rows) if (number % HELD_OUT == 0) == held_out]


def main() -> None:
    arguments = options(__doc__, NAME)
    vocabulary = work_folder(NAME).parent / "protein-vocabulary.txt"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("\n".join(VOCABULARY), encoding="utf-8")
    tokenizer = EsmTokenizer(str(vocabulary), model_max_length=LONGEST + 2)
    gap = tokenizer.convert_tokens_to_ids("-")
    rows = []
    for name, sequences in families(arguments.data).items():
        kept = split(sequences, held_out=False)
        print(f"{name}: {len(kept):,} sequences")
        for ids in tokenizer(kept)["input_ids"]:
            never = [int(i == gap or number in (0, len(ids) - 1)) for number, i in enumerate(ids)]  # to be masked
            rows.append({"input_ids": ids, "special_tokens_mask": never})
    model = EsmForMaskedLM(
        EsmConfig(
            vocab_size=len(VOCABULARY),
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.0,
            position_embedding_type="absolute",
            token_dropout=False,
            emb_layer_norm_before=False,
            max_position_embeddings=LONGEST + 4,
            initializer_range=0.08,
            tie_word_embeddings=True,
        )
    )
    print(f"{len(rows):,} rows, {model.num_parameters() / 1e6:.2f} million parameters")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    fit(model, rows, collator, NAME, epochs=EPOCHS, learning_rate=2e-3, batch_size=32)
    save_model(model, tokenizer, arguments.output)


@torch.inference_mode()
def accuracy(path: str, sequences: list[str]) -> float:
    """How often a masked residue is guessed, in percent: a tenth of each sequence is masked at a time, in four passes."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForMaskedLM.from_pretrained(path).eval()
    right = total = 0
    for chunk in batches(sequences, 32):
        batch = tokenizer(chunk, padding=True, return_tensors="pt")
        residue = (batch["input_ids"] >= 4) & (batch["input_ids"] < 4 + len(RESIDUES))
        places = torch.arange(batch["input_ids"].shape[1]).unsqueeze(0)
        for phase in range(0, 10, 3):
            hidden = residue & (places % 10 == phase)
            masked = batch["input_ids"].masked_fill(hidden, tokenizer.mask_token_id)
            scores = model(input_ids=masked, attention_mask=batch["attention_mask"]).logits
            right += (scores.argmax(-1)[hidden] == batch["input_ids"][hidden]).sum().item()
            total += hidden.sum().item()
    return 100 * right / total


def frequency_baseline(train: list[str], test: list[str]) -> float:
    """Accuracy in percent of always guessing the residue that is the most frequent in training."""
    best = max(RESIDUES, key="".join(train).count)
    text = "".join(test).replace("-", "")
    return 100 * text.count(best) / len(text)


def column_baseline(train: list[str], test: list[str]) -> float:
    """Accuracy in percent of guessing the residue that is the most frequent at each place of one family."""
    best = [
        Counter(letter for letter in column if letter in RESIDUES).most_common(1)[0][0]
        for column in zip(*train, strict=True)
    ]
    pairs = [(letter, best[place]) for row in test for place, letter in enumerate(row) if letter in RESIDUES]
    return 100 * sum(letter == guess for letter, guess in pairs) / len(pairs)


def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on masked residues of held-out sequences, beside two baselines that only count."""
    measured = [("own check: first sequence of 5ahw, accuracy, %", accuracy(path, [STRESS_PROTEIN]))]
    if data:
        found = families(data)
        test = {name: split(rows, held_out=True) for name, rows in found.items()}
        train = {name: split(rows, held_out=False) for name, rows in found.items()}
        all_test, all_train = [[row for rows in part.values() for row in rows] for part in (test, train)]
        by_column = [column_baseline(train[name], test[name]) * len(test[name]) for name in FAMILIES]
        measured += [
            (f"three families, {len(all_test)} held-out sequences, accuracy, %", accuracy(path, all_test)),
            ("the same by the most frequent residue, %", frequency_baseline(all_train, all_test)),
            ("the same by the most frequent residue of each place, %", sum(by_column) / len(all_test)),
        ]
        for name, title in FAMILIES.items():
            measured.append((f"{title}, accuracy, %", accuracy(path, test[name])))
    return measured


# a universal stress protein (PDB 5AHW, chain A): the sequence that its family's alignment was made for
STRESS_PROTEIN = (
    "SAYQTVVVGTDGSDSSLRAVDRAGQIAAASNAKLIIATAYFPAPIYAILREANDRAKAAGATDIEERPVVGAPVDALVELADEVKADLLVVGNVGLSTIA"
    "GRLLGSVPANVARRSKTDVLIVHTS"
)


if __name__ == "__main__":
    main()
