r"""Make roberta*.safetensors: a small RobertaForMaskedLM of Hugging Face's.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_text.py

roberta.safetensors is the model as `save_pretrained` writes it, with random numbers
in every parameter; roberta_gradients.safetensors has the gradients by the same names;
roberta_values.safetensors has tokens, labels, loss and logits. The rows are of
different lengths: what is short ends in padding.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import RobertaConfig, RobertaForMaskedLM

HERE = Path(__file__).parent
LENGTHS = (14, 9, 1, 12)


def main() -> None:
    """Writes the files beside this one."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = RobertaForMaskedLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            value.copy_(scale + 0.3 * torch.randn(value.shape))
    tokens = torch.full((len(LENGTHS), max(LENGTHS)), 1)
    labels = torch.full_like(tokens, -100)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = torch.randint(2, 60, (length,))
        labels[row, :length:3] = torch.randint(2, 60, (len(range(0, length, 3)),))
    mask = (tokens != 1).long()
    out = model(input_ids=tokens, attention_mask=mask, labels=labels)
    out.loss.backward()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copy(Path(folder, "model.safetensors"), HERE / "roberta.safetensors")
    save_file(
        {name: p.grad for name, p in model.named_parameters()},
        HERE / "roberta_gradients.safetensors",
    )
    save_file(
        {
            "tokens": tokens,
            "mask": mask,
            "labels": labels,
            "loss": out.loss.detach(),
            "logits": out.logits.detach(),
        },
        HERE / "roberta_values.safetensors",
    )


if __name__ == "__main__":
    main()
