"""GPT against Hugging Face's GPT-NeoX; and what a causal model may not see."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lrjax import tasks
from lrjax.core import UsageError
from lrjax.tasks import causal_text, models, tokens
from lrjax.tasks.models import gpt
from lrjax.tasks.options import Text

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "gpt.safetensors")
SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 64,
}
MODEL = models.GPT(**SIZES)
TOKENS = jnp.asarray(GOLDEN["tokens"], jnp.int32)


def tree_of(prefix):
    """Parameters, or gradients, of GPT-NeoX as our tree."""

    def take(name):
        return GOLDEN[f"{prefix}.gpt_neox.{name}"]

    def dense(name):
        return {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}

    def norm(name):
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def three(x):  # theirs are [head, query key value, size]: ours turns the first two
        return np.moveaxis(x.reshape(2, 3, 8, -1), 1, 0).reshape(48, -1)

    tree = {
        "words": {"embedding": take("embed_in.weight")},
        "final_norm": norm("final_layer_norm"),
    }
    for layer in range(2):
        start = f"layers.{layer}"
        qkv = f"{start}.attention.query_key_value"
        tree[f"layer{layer}"] = {
            "attention_norm": norm(f"{start}.input_layernorm"),
            "qkv": {
                "kernel": three(take(f"{qkv}.weight")).T,
                "bias": three(take(f"{qkv}.bias"))[:, 0],
            },
            "projection": dense(f"{start}.attention.dense"),
            "mlp_norm": norm(f"{start}.post_attention_layernorm"),
            "fc1": dense(f"{start}.mlp.dense_h_to_4h"),
            "fc2": dense(f"{start}.mlp.dense_4h_to_h"),
        }
    return jax.tree.map(jnp.asarray, tree)


PARAMS = tree_of("model")


@functools.partial(jax.jit, static_argnames="model")
def logits(params, tokens, model=MODEL, segments=None):
    return model.apply({"params": params}, tokens, train=False, segments=segments)


def test_logits_and_gradients_are_those_of_gpt_neox():
    np.testing.assert_allclose(
        logits(PARAMS, TOKENS), GOLDEN["logits"], rtol=0, atol=2e-4
    )

    def loss(params):
        logs = jax.nn.log_softmax(logits(params, TOKENS)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logs, TOKENS[:, 1:, None], -1))

    found = jax.grad(loss)(PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        found,
        tree_of("gradient"),
    )


def test_parameters_are_those_of_the_model():
    ids = jnp.zeros((1, 2), jnp.int32)
    init = jax.jit(MODEL.init, static_argnames="train")
    made = init(jax.random.key(0), ids, train=False)["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, PARAMS)
    # Weights are tied: there is one table of tokens, and no other of its size.
    sizes = [x.size for x in jax.tree.leaves(made)]
    assert sizes.count(30 * 16) == 1
    wide = models.GPT(**SIZES | {"hidden_size": 128, "intermediate_size": 512})
    init = jax.jit(wide.init, static_argnames="train")
    made = jax.device_get(init(jax.random.key(0), ids, train=False)["params"])
    deviation = {
        k: float(v["kernel"].std()) for k, v in made["layer0"].items() if "kernel" in v
    }
    expected = {"qkv": 0.02, "projection": 0.01, "fc1": 0.02, "fc2": 0.01}
    assert deviation == pytest.approx(expected, rel=0.03)


def test_rotation_is_by_angles_in_closed_form():
    x = np.random.RandomState(0).randn(2, 7, 3, 8).astype(np.float32)
    found = np.asarray(gpt.rotated(jnp.asarray(x)))
    # A pair of features is a complex number, which is turned.
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = np.arange(7)[:, None] / 10_000 ** (np.arange(4) / 4)
    turned = pairs * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(found[..., :4], turned.real, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[..., 4:], turned.imag, rtol=0, atol=1e-6)


def test_products_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(1), (2, 1, 1, 1, 8))
    same = [jnp.broadcast_to(x, (1, 9, 1, 8)) for x in (query, key)]
    products = jnp.einsum("rthd,rshd->ts", *map(gpt.rotated, same))
    for distance in range(-8, 9):
        found = jnp.diagonal(products, distance)
        np.testing.assert_allclose(found, found[0], rtol=0, atol=1e-5)
    assert abs(products[0, 1] - products[0, 5]) > 1e-2


@pytest.mark.parametrize("at", [0, 5, 11])
def test_no_token_sees_a_later_one(at):
    changed = TOKENS.at[:, at].set((TOKENS[:, at] + 1) % 30)
    before, after = logits(PARAMS, TOKENS), logits(PARAMS, changed)
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    assert (jnp.abs(before - after)[:, at:].max(axis=(0, 2)) > 1e-3).all()


def test_packed_documents_do_not_see_each_other():
    first, second = TOKENS[0, :7], TOKENS[1, :5]
    packed = jnp.concatenate([first, second])[None]
    segments = jnp.asarray([[1] * 7 + [2] * 5])
    found = logits(PARAMS, packed, segments=segments)
    for part, where in ((first, slice(0, 7)), (second, slice(7, 12))):
        alone = logits(PARAMS, part[None])
        np.testing.assert_allclose(found[:, where], alone, rtol=0, atol=1e-4)
    mixed = logits(PARAMS, packed)
    assert np.abs(mixed[:, 7:] - found[:, 7:]).max() > 1e-2


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_loop_over_layers_gives_the_same_numbers(remat):
    with jax.enable_x64(True):
        options = {"dropout": 0.2, "param_dtype": "float64", "remat": remat}
        params = jax.tree.map(lambda x: x.astype("float64"), PARAMS)

        def loss(params, scan_layers):
            model = models.GPT(**SIZES, **options, scan_layers=scan_layers)
            rngs = {"dropout": jax.random.key(3)}
            out = model.apply({"params": params}, TOKENS, train=True, rngs=rngs)
            return jnp.mean(jnp.square(out))

        both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        plain, looped = (both(params, scan) for scan in (False, True))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), plain, looped
        )


# Tasks


DOCUMENTS = [f"Chapter {i}: ä word, {i % 7} of {i % 11}." for i in range(60)]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("books") / "book.txt"
    path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    return path


def made(path, name="text/gpt_micro", **options):
    text = Text(corpus=str(path), length=options.pop("length", None))
    return tasks.make_task(name, tasks.TaskOptions(text=text, **options))


def test_tokens_are_bytes(book):
    recipe = causal_text.RECIPES["text/gpt_tiny"]
    corpus = tokens.load_tokens(
        Text(corpus=str(book)), None, recipe.vocab_size, True, False
    )
    assert corpus.vocabulary.size == recipe.vocab_size
    documents = np.split(corpus.tokens, corpus.ends[:-1])
    pairs = set()
    for document, expected in zip(documents, DOCUMENTS, strict=True):
        pairs |= set(zip(document.tolist(), expected.encode(), strict=True))
    # The same byte is the same token everywhere, and no other is.
    assert len(pairs) == len(dict(pairs)) == len({byte for _, byte in pairs}) > 20


def by_hand(task, params, rows):
    """Mean loss of each token after the first of its document, with NumPy."""
    model = causal_text.make_model("text/gpt_micro", 32, tasks.TaskOptions())
    total, count = 0.0, 0
    for row in np.asarray(task.train["tokens"][:rows]):
        starts = np.flatnonzero(row == 0)
        for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
            document = row[start:stop]
            document = document[document != 1]
            scores = logits(params, jnp.asarray(document, jnp.int32)[None], model)[0]
            logs = np.asarray(jax.nn.log_softmax(scores))
            total -= sum(logs[i, t] for i, t in enumerate(document[1:]))
            count += len(document) - 1
    return total / count, count


def test_the_loss_is_the_mean_over_tokens_that_follow_in_their_document(book):
    task = made(book, length=32, batch_size=4)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: 3 * x, params)
    batch = {"tokens": task.train["tokens"][:4], "mask": jnp.asarray([1.0, 1, 1, 0])}
    value, (_, found) = jax.jit(task.loss)(params, (), jax.random.key(1), batch)
    expected, count = by_hand(task, params, 3)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert int(found["count"]) == count
    sums = jax.jit(task.evaluate)(params, (), batch)
    assert float(sums["loss"] / sums["count"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    ["text/gpt_micro", pytest.param("text/gpt_tiny", marks=pytest.mark.slow)],
)
def test_an_untrained_model_knows_nothing(name):
    task = tasks.make_task(name, tasks.TaskOptions(text=Text(corpus="pydoc")))
    params, _ = jax.jit(task.init)(jax.random.key(0))
    # Of a text that repeats itself it would know a little: weights are tied.
    shape = (8, task.valid["tokens"].shape[1])
    tokens = jax.random.randint(jax.random.key(1), shape, 5, 261)
    rows = {"tokens": tokens, "mask": jnp.ones(8)}
    sums = jax.jit(task.evaluate)(params, (), rows)
    assert float(sums["loss"] / sums["count"]) == pytest.approx(math.log(261), abs=0.1)


def test_sizes_of_the_models():
    found = {}
    for name in causal_text.RECIPES:
        model = causal_text.make_model(name, 64, tasks.TaskOptions())
        ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        init = functools.partial(model.init, jax.random.key(0), train=False)
        params = jax.eval_shape(init, ids)
        found[name] = sum(x.size for x in jax.tree.leaves(params))
    assert found == {
        "text/gpt_micro": 69_168,
        "text/gpt_tiny": 360_768,
        # GPT-2's 124,439,808 have 786,432 of positions, and 8 tokens less.
        "text/gpt_small": 124_439_808 - 786_432 + 8 * 768,
    }


def test_rows_may_be_shorter_and_not_longer(book):
    assert made(book, length=32).train["tokens"].shape[1] == 32
    for length in (2, 65):
        with pytest.raises(UsageError, match=f"length={length}: text/gpt_micro has"):
            made(book, length=length)
