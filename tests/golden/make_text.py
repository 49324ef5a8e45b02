r"""Make roberta*.safetensors: a small RobertaForMaskedLM of Hugging Face's.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_text.py

roberta.safetensors is the model as `save_pretrained` writes it, with random numbers
in every parameter; roberta_values.safetensors has tokens and labels. The rows are of
different lengths: what is short ends in padding. For each epsilon of the layer norms,
that of the published roberta-base (1e-5) and that of `RobertaConfig()` (1e-12), there
are loss and logits, and in files of their own the gradients; names of what belongs to
1e-12 end with it. Embeddings are as small as they start, so that it makes a difference.
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
EPSILONS = {"": 1e-5, "_1e-12": 1e-12}  # end of the names -> epsilon


def main() -> None:
    """Write the files beside this one."""
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
            middle = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            scale = 0.02 if "embeddings.weight" in name else 0.3
            value.copy_(middle + scale * torch.randn(value.shape))
    tokens = torch.full((len(LENGTHS), max(LENGTHS)), 1)
    labels = torch.full_like(tokens, -100)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = torch.randint(2, 60, (length,))
        labels[row, :length:3] = torch.randint(2, 60, (len(range(0, length, 3)),))
    mask = (tokens != 1).long()
    values = {"tokens": tokens, "mask": mask, "labels": labels}
    for end, eps in EPSILONS.items():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = eps
        model.zero_grad()
        out = model(input_ids=tokens, attention_mask=mask, labels=labels)
        out.loss.backward()
        values[f"loss{end}"] = out.loss.detach()
        values[f"logits{end}"] = out.logits.detach()
        save_file(
            {name: p.grad for name, p in model.named_parameters()},
            HERE / f"roberta_gradients{end}.safetensors",
        )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shutil.copy(Path(folder, "model.safetensors"), HERE / "roberta.safetensors")
    save_file(values, HERE / "roberta_values.safetensors")


if __name__ == "__main__":
    main()
