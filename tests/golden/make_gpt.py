r"""Make gpt.safetensors: a small GPT-NeoX of Hugging Face's, its logits and gradients.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_gpt.py

The model has no parallel residuals, rotates all features of a head, and its output is
the token embedding. Every parameter has random numbers. Names begin with `model.` for
weights, `gradient.` for the gradients of the mean loss of the next token; `tokens` and
`logits` are there, too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

HERE = Path(__file__).parent


def main() -> None:
    """Write the file beside this one."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=False,
        tie_word_embeddings=True,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attn_implementation="eager",
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value.copy_(middle + 0.3 * torch.randn(value.shape))
    tokens = torch.randint(2, 30, (3, 12))
    out = model(input_ids=tokens, labels=tokens)
    out.loss.backward()
    values = {"tokens": tokens, "logits": out.logits.detach()}
    for name, value in model.named_parameters():
        values[f"model.{name}"] = value.detach()
        values[f"gradient.{name}"] = value.grad
    save_file({k: v.contiguous() for k, v in values.items()}, HERE / "gpt.safetensors")
    print(sorted(values), model.gpt_neox.rotary_emb.inv_freq.shape)


if __name__ == "__main__":
    main()
