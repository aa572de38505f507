"""Recipes: one that was interrupted ends where it would have ended; the table reader refuses what it cannot read."""

import pandas as pd
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from utils import WorkshopError
from utils.catalog import checkpoint
from utils.recipes import table, training
from utils.workshop import seed_everything

STEPS = 300  # a run saves after 250


def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids[:, 1] % 2}


def tiny():
    seed_everything()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=20, max_position_embeddings=8, hidden_dropout_prob=0, **size)
    return training.with_lora(BertForSequenceClassification(config), ("classifier.",), rank=2)


def trained(collator):
    model = tiny()
    rows = [{"input_ids": [1, number % 20, 2, 3]} for number in range(STEPS)]
    training.fit(model, rows, collator, "trial", epochs=1, learning_rate=0.01, batch_size=1)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_an_interrupted_run_of_a_recipe_goes_on_with_its_adapter_and_its_head(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "work_folder", lambda name: tmp_path / name)
    straight = trained(collate)
    seen = iter(range(270))

    def breaks(rows):
        if next(seen, None) is None:
            raise KeyboardInterrupt
        return collate(rows)

    with pytest.raises(KeyboardInterrupt):
        trained(breaks)
    assert (tmp_path / "trial" / "checkpoint-250").exists()
    resumed = trained(collate)
    assert any("lora" in name for name in resumed) and any("classifier" in name for name in resumed)
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "trial").exists()


def test_a_question_that_leaves_no_room_for_a_row_is_refused():
    clubs = pd.DataFrame({"club": ["Northgate", "Halfmoon"], "gold": ["7", "5"]})
    path = checkpoint("table")
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForTokenClassification.from_pretrained(path)
    with pytest.raises(WorkshopError, match="has 1200 tokens: ask in 80 at most"):
        table.answer(model, tokenizer, clubs, "most golds please " * 300)
    for question in ("", "?", "\0", "金" * 70, "most gold" + " really" * 70):
        cells, operation = table.answer(model, tokenizer, clubs, question)
        assert cells and operation in range(len(table.OPERATIONS))
