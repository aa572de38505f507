"""The checkpoint `protein`: which amino acid belongs in the gap? A small ESM trained from scratch.

    python -m utils.recipes.protein --data FOLDER        # hours on two CPU cores, two minutes on a GPU

In the folder `protein` of FOLDER: alignments of three protein families and variants of a fourth, as the ESM repository ships them
(MIT; sequences of UniRef, CC BY 4.0), and the sequences of FLIP's secondary structure task (AFL 3.0). Every tenth sequence
measures.
"""

from __future__ import annotations

import gzip
import io
import zipfile
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
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES, "X", "<mask>"]
WINDOW = 254
EPOCHS = 20
HELD_OUT = 10
FAMILIES = {
    "1a3a": "mannitol permease, IIA domain",
    "1xcr": "ester hydrolase C11orf54",
    "5ahw": "universal stress protein",
}


def fasta(text: str) -> list[str]:
    """The sequences of a FASTA or A3M text, gaps removed, insertions like the rest, rare letters as X."""
    records = (record.partition("\n")[2] for record in ("\n" + text).split("\n>")[1:])
    plain = (record.replace("\n", "").replace("-", "").replace(".", "").upper() for record in records)
    return ["".join(letter if letter in RESIDUES else "X" for letter in sequence) for sequence in plain]


def sources(data: Path) -> dict[str, list[str]]:
    """Distinct sequences by source."""
    folder = data / "protein"
    found = {name: fasta(gzip.decompress((folder / f"{name}_1_A.a3m.gz").read_bytes()).decode()) for name in FAMILIES}
    found["beta-lactamase variants"] = fasta((folder / "P62593.fasta").read_text(encoding="utf-8"))[::10]
    with zipfile.ZipFile(folder / "flip-secondary-structure.zip") as archive:
        found["diverse"] = fasta(io.TextIOWrapper(archive.open("splits/sequences.fasta"), encoding="utf-8").read())
    return {name: list(dict.fromkeys(s for s in rows if len(s) >= 30)) for name, rows in found.items()}


def split(rows: list[str], held_out: bool) -> list[str]:
    return [row for number, row in enumerate(rows) if (number % HELD_OUT == 1) == held_out]


def main() -> None:
    arguments = options(__doc__, NAME)
    vocabulary = work_folder(NAME).parent / "protein-vocabulary.txt"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("\n".join(VOCABULARY), encoding="utf-8")
    tokenizer = EsmTokenizer(str(vocabulary), model_max_length=WINDOW + 2)
    rows = []
    for name, sequences in sources(arguments.data).items():
        kept = split(sequences, held_out=False)
        print(f"{name}: {len(kept):,} sequences")
        windows = [s[i : i + WINDOW] for s in kept for i in range(0, max(len(s) - 40, 1), WINDOW)]
        rows += [{"input_ids": ids} for ids in tokenizer(windows)["input_ids"]] * (3 if name in FAMILIES else 1)
    model = EsmForMaskedLM(
        EsmConfig(
            vocab_size=len(VOCABULARY),
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id,
            hidden_size=160,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=640,
            hidden_dropout_prob=0.05,
            attention_probs_dropout_prob=0.0,
            position_embedding_type="rotary",
            token_dropout=False,
            emb_layer_norm_before=False,
            max_position_embeddings=1_026,
            tie_word_embeddings=True,
        )
    )
    print(f"{len(rows):,} windows, {model.num_parameters() / 1e6:.2f} million parameters")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    fit(model, rows, collator, NAME, epochs=EPOCHS, learning_rate=2e-3, batch_size=256)
    save_model(model, tokenizer, arguments.output)


@torch.inference_mode()
def accuracy(path: str, sequences: list[str]) -> float:
    """How often a masked residue is guessed, in percent: every tenth of each sequence is masked, one at a time in ten passes."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForMaskedLM.from_pretrained(path).eval()
    right = total = 0
    for chunk in batches(sequences, 32):
        batch = tokenizer([sequence[:WINDOW] for sequence in chunk], padding=True, return_tensors="pt")
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
    [(best, _)] = Counter("".join(train)).most_common(1)
    text = "".join(test)
    return 100 * text.count(best) / len(text)


def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on masked residues of held-out sequences of the families, and of proteins that resemble no other."""
    measured = [("own check: beta-lactamase TEM-1, accuracy, %", accuracy(path, [TEM_1]))]
    if data:
        found = sources(data)
        families = {name: found[name] for name in FAMILIES}
        test = [s for rows in families.values() for s in split(rows, held_out=True)]
        train = [s for rows in families.values() for s in split(rows, held_out=False)]
        measured += [
            (f"three families, {len(test)} held-out sequences, accuracy, %", accuracy(path, test)),
            ("the same by the most frequent residue, %", frequency_baseline(train, test)),
        ]
        for name, rows in families.items():
            measured.append((f"{FAMILIES[name]}, accuracy, %", accuracy(path, split(rows, held_out=True))))
        diverse = split(found["diverse"], held_out=True)[:300]
        measured += [
            (f"diverse proteins, {len(diverse)} held-out sequences, accuracy, %", accuracy(path, diverse)),
            (
                "the same by the most frequent residue, %",
                frequency_baseline(split(found["diverse"], held_out=False), diverse),
            ),
        ]
    return measured


# the enzyme that makes bacteria resist penicillin (UniProt P62593, CC BY 4.0)
TEM_1 = (
    "MSIQHFRVALIPFFAAFCLPVFAHPETLVKVKDAEDQLGARVGYIELDLNSGKILESFRPEERFPMMSTFKVLLCGAVLSRVDAGQEQLGRRIHYSQNDLVEYSPVTEKHLTDG"
    "MTVRELCSAAITMSDNTAANLLLTTIGGPKELTAFLHNMGDHVTRLDRWEPELNEAIPNDERDTTMPAAMATTLRKLLTGELLTLASRQQLIDWMEADKVAGPLLRSALPAGW"
    "FIADKSGAGERGSRGIIAALGPDGKPSRIVVIYTTGSQATMDERNRQIAEIGASLIKHW"
)


if __name__ == "__main__":
    main()
