"""RoBERTa against Hugging Face's; and what packing may not change."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lrjax import machine
from lrjax.core import UsageError
from lrjax.tasks import TaskOptions, models, text
from lrjax.tasks.models import attention, roberta

GOLDEN = Path(__file__).parent.parent / "golden"
WEIGHTS = GOLDEN / "roberta.safetensors"
OPTIONS = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 24,
    "max_positions": 16,
}
MODEL = models.Roberta(**OPTIONS, dropout=0.0)
VALUES = load_file(GOLDEN / "roberta_values.safetensors")
TOKENS, MASK, LABELS = (
    jnp.asarray(VALUES[name], jnp.int32) for name in ("tokens", "mask", "labels")
)


def logits(params, tokens=TOKENS, mask=MASK, model=MODEL, **options):
    call = jax.jit(functools.partial(model.apply, train=False))
    return call({"params": params}, tokens, mask, **options)


def loss(params, model):
    chosen = LABELS >= 0
    logs = jax.nn.log_softmax(logits(params, model=model))
    own = jnp.take_along_axis(logs, jnp.maximum(LABELS, 0)[..., None], -1)[..., 0]
    return -jnp.mean(own, where=chosen)


@pytest.fixture(scope="module")
def params():
    return roberta.load_weights(WEIGHTS, MODEL)


@pytest.mark.parametrize(("eps", "end"), [(1e-5, ""), (1e-12, "_1e-12")])
def test_logits_and_gradients_are_those_of_hugging_face(params, eps, end):
    model = MODEL.clone(layer_norm_eps=eps)
    expected = VALUES[f"logits{end}"]
    np.testing.assert_allclose(logits(params, model=model), expected, rtol=0, atol=1e-5)
    value, found = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, model)
    np.testing.assert_allclose(value, VALUES[f"loss{end}"], rtol=1e-5)
    gradients = roberta.load_weights(
        GOLDEN / f"roberta_gradients{end}.safetensors", model
    )
    for a, b in zip(*map(jax.tree.leaves, (found, gradients)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # The test can tell: the other epsilon gives others.
    wrong = {1e-5: 1e-12, 1e-12: 1e-5}[eps]
    other = logits(params, model=MODEL.clone(layer_norm_eps=wrong))
    assert abs(other - expected).max() > 1e-4


def test_the_epsilon_is_that_of_the_protocol():
    study = TaskOptions(protocol="study")
    for name in text.RECIPES:
        assert text.make_model(name, TaskOptions()).layer_norm_eps == 1e-5
        assert text.make_model(name, study).layer_norm_eps == 1e-12


def test_the_epsilon_of_a_checkpoint_decides(tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(WEIGHTS, path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"layer_norm_eps": 1e-12}))
    with pytest.raises(
        UsageError, match="layer_norm_eps is 1e-12, the model's is 1e-05"
    ):
        roberta.load_weights(path, MODEL)
    roberta.load_weights(path, MODEL.clone(layer_norm_eps=1e-12))
    for content in ("{}", "[1]"):
        config.write_text(content)
        roberta.load_weights(path, MODEL)
    config.write_text("{")
    with pytest.raises(UsageError, match=r"config\.json: cannot be read"):
        roberta.load_weights(path, MODEL)
    config.unlink()
    os.mkfifo(config)
    with pytest.raises(UsageError, match=r"config\.json: .*not a regular file"):
        roberta.load_weights(path, MODEL)


def test_logits_at_some_positions_only(params):
    at = jnp.asarray([[3, 0], [8, 2], [0, 0], [5, 5]])
    some = logits(params, at=at)
    every = jnp.take_along_axis(logits(params), at[..., None], 1)
    np.testing.assert_allclose(some, every, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_packed_documents_do_not_see_each_other(pre_norm):
    model = models.Roberta(**OPTIONS, dropout=0.0, pre_norm=pre_norm)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(1), TOKENS, MASK)["params"]
    params = jax.tree.map(lambda x: 5 * x, params)  # so that what is seen counts
    first, second = TOKENS[1, :9], TOKENS[0, :3]
    packed = jnp.concatenate([first, second, jnp.full(2, roberta.PAD)])[None]
    segments = jnp.asarray([[1] * 9 + [2] * 3 + [0] * 2])
    mask = (packed != roberta.PAD).astype(jnp.int32)
    found = logits(params, packed, mask, model, segments=segments)
    for part, where in ((first, slice(0, 9)), (second, slice(9, 12))):
        alone = logits(params, part[None], jnp.ones((1, len(part))), model)
        np.testing.assert_allclose(found[:, where], alone, rtol=0, atol=1e-5)
    # The test can tell: without segments they do.
    mixed = logits(params, packed, mask, model)
    assert np.abs(mixed[:, 9:12] - found[:, 9:12]).max() > 1e-2


def test_positions_of_segments():
    ids = jnp.asarray([[0, 7, 2, 0, 9, 9, 2, 1], [0, 7, 2, 1, 1, 1, 1, 1]])
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
    expected = [[2, 3, 4, 2, 3, 4, 5, 1], [2, 3, 4, 1, 1, 1, 1, 1]]
    assert roberta.positions(ids, segments).tolist() == expected
    assert roberta.positions(ids)[0].tolist() == [2, 3, 4, 5, 6, 7, 8, 1]


def test_attention_with_dropout_is_the_same_attention(params):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 4, 14, 2, 8))
    mask = MASK.astype(bool)[:, None, None, :]
    plain = jax.nn.dot_product_attention(query, key, value, mask=mask)
    ours = attention.attention_with_dropout(
        query, key, value, mask, lambda weights: weights
    )
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


@pytest.fixture
def lanes():
    """Attention's inputs for two lanes and three seeds: [3, 2, rows, tokens, ...]."""
    query, key, value, pull = jax.random.normal(
        jax.random.key(0), (4, 3, 2, 4, 14, 2, 8)
    )
    segments = jnp.arange(14) * jnp.arange(1, 5)[:, None] // 14
    return query, key, value, pull, (segments[:, :, None] == segments[:, None])[:, None]


def _value_and_gradients(fused, query, key, value, pull, mask):
    def one(query, key, value, pull):
        def of(*args):
            return attention.attention(*args, mask, fused)

        out, back = jax.vjp(of, query, key, value)
        return out, back(pull)

    return jax.vmap(jax.vmap(one))(query, key, value, pull)


def _as_cudnn(kernel):
    """Let a kernel keep its inputs and output for its derivative, as cuDNN's does."""

    def forward(*args):
        output = kernel(*args)
        return output, (args, output)

    def backward(kept, slopes):
        (*args, mask), output = kept
        pull = jax.vjp(lambda *args: kernel(*args, mask), *args)[1]
        # The output of the first pass must be what comes here.
        same = jnp.abs(output - kernel(*args, mask)).max() < 1e-5
        return (*pull(jnp.where(same, slopes, jnp.nan)), None)

    differentiable = jax.custom_vjp(kernel)
    differentiable.defvjp(forward, backward)
    return differentiable


def test_lanes_of_fused_attention_are_rows(lanes, monkeypatch):
    rows = []

    def kernel(query, key, value, mask):
        rows.append((query.shape[0], mask.shape[0]))
        return jax.nn.dot_product_attention(query, key, value, mask=mask)

    monkeypatch.setattr(attention, "_kernel", _as_cudnn(kernel))
    monkeypatch.setattr(attention, "_forward", attention._more_rows(kernel))
    found = _value_and_gradients(True, *lanes)
    assert set(rows) >= {(24, 24)}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5),
        found,
        _value_and_gradients(False, *lanes),
    )


def test_cudnn_takes_the_shapes_of_a_population(lanes, monkeypatch):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    halves = [x.astype(jnp.bfloat16) for x in lanes[:4]]
    for mask in (lanes[4], jnp.ones((4, 1, 1, 14), bool)):  # packed, padded
        out, gradients = jax.eval_shape(
            functools.partial(_value_and_gradients, True), *halves, mask
        )
        assert {x.shape for x in (out, *gradients)} == {halves[0].shape}


@pytest.fixture
def on_tpu(monkeypatch):
    """The kernel for TPUs, which Pallas interprets on CPUs."""
    monkeypatch.setattr(machine, "kind", lambda: "tpu")


def _masks():
    """Of two rows of 32 tokens: segments, and segments with padding behind them."""
    segments = jnp.asarray([[1] * 5 + [2] * 20 + [3] * 7, [1] * 19 + [2] * 13])
    real = jnp.arange(32) < jnp.asarray([[32], [27]])
    return {
        "segments": roberta._may_attend(jnp.ones((2, 32)), segments),
        "padding": roberta._may_attend(real, segments),
        "padding alone": roberta._may_attend(real, None),
        "nothing": roberta._may_attend(real & jnp.asarray([[True], [False]]), segments),
    }


@pytest.mark.parametrize("which", ["segments", "padding", "padding alone", "nothing"])
def test_the_kernel_for_tpus_is_the_same_attention(which, on_tpu):
    """Two levels of vmap; heads in several blocks; rows with nothing to see, too."""
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 2, 2, 32, 3, 96))
    mask = _masks()[which]
    found = jax.jit(functools.partial(_value_and_gradients, True))(*inputs, mask)
    plain = jax.jit(functools.partial(_value_and_gradients, False))(*inputs, mask)
    for ours, expected in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_devices_that_share_rows_compute_the_plain_form():
    from lrjax.tasks.models import tpu_attention

    inputs = jax.random.normal(jax.random.key(0), (4, 2, 32, 2, 16))
    mask = (_masks()["segments"][:, 0]).astype(jnp.int8)
    for plain, kernel, args in (
        (tpu_attention._plain, tpu_attention._attend, (*inputs[:3], mask)),
        (tpu_attention._plain_gradients, tpu_attention._gradients, (*inputs, mask)),
    ):
        found = jax.jit(lambda *x: (plain(*x), kernel(*x)))(*args)  # noqa: B023
        for ours, expected in zip(*found, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_padding_of_the_kernel_for_tpus_reaches_nothing(on_tpu):
    """Numbers at padding change nothing elsewhere, and get no gradient."""
    query, key, value, pull = jax.random.normal(
        jax.random.key(0), (4, 1, 1, 2, 32, 2, 16)
    )
    mask, real = _masks()["padding"], jnp.arange(32)[:, None, None] < 27
    pull = jnp.where(real, pull, 0)  # the loss reads no padding
    out, gradients = _value_and_gradients(True, query, key, value, pull, mask)
    query, key, value = (jnp.where(real, x, 1e4) for x in (query, key, value))
    other = _value_and_gradients(True, query, key, value, pull, mask)
    for x in jax.tree.leaves(other):
        assert jnp.isfinite(x).all()
    second = (0, 0, 1)
    np.testing.assert_array_equal(out[second][:27], other[0][second][:27])
    for ours, theirs in zip(gradients, other[1], strict=True):
        np.testing.assert_array_equal(ours[second][:27], theirs[second][:27])
        assert not theirs[second][27:].any()


def test_what_the_kernel_for_tpus_is_used_for(on_tpu, monkeypatch):
    fits = functools.partial(attention.can_fuse, heads=2, dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):  # for the plain form's derivative
        assert fits(tokens=32, size=16)
    assert not attention.can_fuse(32, 2, 16, jnp.float16)
    assert not attention.can_fuse(32, 2, 16, None)
    monkeypatch.setattr(attention, "_works", None)
    assert not fits(tokens=514, size=16)  # scores need more than fast memory
    assert not fits(tokens=33, size=16)
    assert not fits(tokens=32, size=12)  # no whole tiles
    monkeypatch.setattr(machine, "is_here", lambda: False)
    assert fits(tokens=512, size=64)


def test_a_wrong_kernel_for_tpus_is_not_used(on_tpu, monkeypatch):
    from lrjax.tasks.models import tpu_attention

    def wrong(query, key, value, mask, cotangent):
        return query, key, value

    monkeypatch.setattr(tpu_attention, "gradients", wrong)
    said = "the TPU kernel's attention is replaced by a slower form: its numbers"
    with (
        jax.numpy_dtype_promotion("standard"),  # as above
        pytest.warns(UserWarning, match=said),
    ):
        assert not attention.can_fuse(48, 2, 16, jnp.bfloat16)


def test_pallas_is_imported_where_it_is_used():
    code = (
        "import sys, lrjax.tasks.models.attention, lrjax.tasks.models.roberta; "
        "print('jax.experimental.pallas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_kernel_that_fails_or_is_wrong_is_not_used(monkeypatch):
    assert not attention.can_fuse(16, 2, 8, jnp.bfloat16)  # no GPU
    monkeypatch.setattr(machine, "kind", lambda: "gpu")
    assert not attention.can_fuse(14, 2, 8, None)  # no half precision

    def tried(tokens, kernel):
        monkeypatch.setattr(attention, "_kernel", _as_cudnn(kernel))
        monkeypatch.setattr(attention, "_forward", attention._more_rows(kernel))
        # Batched kernels are traced later, where JAX needs to promote again.
        with jax.numpy_dtype_promotion("standard"):
            return attention.can_fuse(tokens, 2, 8, jnp.bfloat16)

    def plain(query, key, value, mask):
        return jax.nn.dot_product_attention(query, key, value, mask=mask)

    assert tried(18, plain)
    with pytest.warns(UserWarning, match="numbers are off by"):
        assert not tried(20, lambda q, k, v, mask: plain(q, k, v, None))
    with pytest.warns(UserWarning, match="off by nan"):
        assert not tried(22, lambda q, k, v, mask: jnp.nan * plain(q, k, v, mask))
    with pytest.warns(UserWarning, match="slower form: no such kernel"):
        assert not tried(
            24, lambda *_: (_ for _ in ()).throw(ValueError("no such kernel"))
        )


def test_dropout_is_the_only_noise(params):
    @functools.partial(jax.jit, static_argnames=("dropout", "attention_dropout"))
    def trained(key, **rates):
        model = models.Roberta(**OPTIONS, **rates)
        rngs = {"dropout": jax.random.key(key)}
        return model.apply({"params": params}, TOKENS, MASK, train=True, rngs=rngs)

    same = trained(0, dropout=0.0)
    np.testing.assert_allclose(same, VALUES["logits"], rtol=0, atol=1e-4)
    for rates in ({"dropout": 0.5}, {"dropout": 0.0, "attention_dropout": 0.5}):
        assert np.abs(trained(0, **rates) - trained(1, **rates)).max() > 1e-2


def test_bfloat16_computes_only(params):
    model = models.Roberta(**OPTIONS, dtype=jnp.bfloat16)
    found = logits(params, model=model)
    assert found.dtype == jnp.float32
    error = np.abs(found - VALUES["logits"]).max()
    assert 0 < error < 0.1 * np.abs(VALUES["logits"]).max()


@pytest.mark.slow
def test_bfloat16_adds_up_gradients_of_embeddings_in_float32():
    options = OPTIONS | {"vocab_size": 8, "max_positions": 34, "num_layers": 1}
    tokens = jax.random.randint(jax.random.key(0), (256, 32), 4, 8)
    seen = jnp.ones_like(tokens)
    params = models.Roberta(**options).init(jax.random.key(1), tokens, seen, False)
    pull = 0.1 + jax.random.normal(jax.random.key(2), (256, 32, 8))

    def gradients(dtype):
        def loss(params):
            out = models.Roberta(**options, dtype=dtype).apply(
                params, tokens, seen, False
            )
            return (jax.nn.log_softmax(out) * pull).sum()

        return jax.jit(jax.grad(loss))(params)["params"]

    halves, wanted = gradients(jnp.bfloat16), gradients(None)
    for name in ("positions", "kind"):
        (found,), (exact,) = map(jax.tree.leaves, (halves[name], wanted[name]))
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert error < 0.01, name


def test_size_of_the_base_model():
    model = models.Roberta(50265, 768, 12, 12, 3072, 514)
    ids = jnp.zeros((1, 16), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, False))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 124_697_433


def changed(tmp_path, change):
    tensors = load_file(WEIGHTS)
    change(tensors)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def test_weights_of_other_shapes_and_names_are_refused(tmp_path):
    cases = {
        "no tensor lm_head.bias": lambda t: t.pop("lm_head.bias"),
        "other is not part of the model": lambda t: t.update(
            other=np.zeros(3, np.float32)
        ),
        r"words.embedding has shape \(9, 16\)": lambda t: t.update(
            {"roberta.embeddings.word_embeddings.weight": np.zeros((9, 16), np.float32)}
        ),
    }
    for message, change in cases.items():
        with pytest.raises(UsageError, match=message):
            roberta.load_weights(changed(tmp_path, change), MODEL)


def test_files_that_are_no_weights_are_refused(tmp_path):
    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        roberta.load_weights(pickled, MODEL)
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        roberta.load_weights(tmp_path / "absent", MODEL)
    with pytest.raises(UsageError, match="pre_norm"):
        roberta.load_weights(WEIGHTS, MODEL.clone(pre_norm=True))


def test_weights_of_a_larger_model_are_not_read(tmp_path):
    path = changed(tmp_path, lambda t: t.update(other=np.zeros(10**6, np.float32)))
    with pytest.raises(UsageError, match=r"tensors have 1,\d\d\d,\d\d\d numbers, the"):
        roberta.load_weights(path, MODEL)


def test_rows_longer_than_positions_are_refused(params):
    with pytest.raises(ValueError, match="15 tokens in a row"):
        logits(params, jnp.ones((1, 15), jnp.int32), jnp.ones((1, 15)))
