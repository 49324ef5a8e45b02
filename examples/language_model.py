"""Train a small causal transformer on Python's own documentation, letter by letter.

python examples/language_model.py
"""

from pydoc_data.topics import topics

import numpy as np
from flax import linen as nn

import lrjax

text = "".join(topics[name] for name in sorted(topics))[:100_000]
letters, tokens = np.unique(list(text), return_inverse=True)
rows = tokens[: len(tokens) // 33 * 33].reshape(-1, 33)
data = rows[:, :-1], rows[:, 1:]  # 32 letters, and the one that follows each


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        places = self.param("places", nn.initializers.normal(0.02), (32, 32))
        x = nn.Embed(len(letters), 32)(tokens) + places
        mask = nn.make_causal_mask(tokens)
        x += nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
        x += nn.Dense(32)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return nn.Dense(len(letters))(nn.LayerNorm()(x))


metrics = ["perplexity", "accuracy"]  # of the next letter
task = lrjax.Task.from_flax(
    Transformer(), "cross_entropy", train=data, batch_size=8, metrics=metrics
)
study = lrjax.compare(task, ["adamw_cosine", "prodigy"], seeds=2, epochs=3)
print(study)
