r"""Make classifier/: a small RobertaForSequenceClassification of Hugging Face's.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_classifier.py

The folder is what `save_pretrained` of the model writes, with random numbers in every
parameter, and the tokenizer of the checkpoint that comes with lrjax as its class writes
it. values.safetensors has the token numbers of TEXTS, as the tokenizer pads them, and
the model's logits.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
)

HERE = Path(__file__).parent
OURS = HERE.parent.parent / "lrjax" / "tasks" / "checkpoint"
TEXTS = (
    "Return the first line.",
    "",
    "Ünïcode, <mask>  and\n a text that is longer than the others are by far.",
)


def main() -> None:
    """Write the folder beside this file."""
    torch.manual_seed(0)
    folder = HERE / "classifier"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = RobertaTokenizer.from_pretrained(OURS, split_special_tokens=True)
    config = RobertaConfig(
        vocab_size=2048,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=3,
    )
    model = RobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            middle = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            value.copy_(middle + 0.3 * torch.randn(value.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = tokenizer(
        list(TEXTS), padding=True, truncation=True, max_length=18, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**given).logits
    values = {"tokens": given["input_ids"], "logits": logits}
    save_file(values, folder / "values.safetensors")


if __name__ == "__main__":
    main()
