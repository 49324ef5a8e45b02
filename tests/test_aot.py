"""What programs cost on devices that are not here: reading HLO, and compiling it.

`pytest -m aot` needs requirements-aot.txt; without it these tests are skipped.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import aot, chips, hlo

ROOT = Path(__file__).parent.parent
H200 = chips.CHIPS["h200"]


def needs(target):
    absent = chips.missing(target)
    reason = f"{absent} is not installed (requirements-aot.txt)"
    return pytest.mark.skipif(bool(absent), reason=reason)


def kernels_of(function, *args):
    text = jax.jit(function).lower(*args).compile().as_text()
    return hlo.Module(text).kernels()


def test_operations_of_products_and_convolutions():
    a, b = jnp.ones((3, 16, 32)), jnp.ones((3, 32, 24))
    found = kernels_of(jnp.matmul, a, b)
    assert sum(k.flops for k in found) == 2 * 3 * 16 * 32 * 24

    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    found = kernels_of(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        images,
        kernel,
    )
    # Each of 2 x 8 x 8 x 5 numbers is a sum over 3 x 3 x 3, padding included.
    assert sum(k.flops for k in found) == 2 * 2 * 64 * 5 * 27


HLO = """HloModule jit_step

%fused (p0: bf16[64,1000], p1: s32[8]) -> bf16[8,1000] {
  %p0 = bf16[64,1000]{1,0} parameter(0)
  %p1 = s32[8]{0} parameter(1)
  ROOT %gather.1 = bf16[8,1000]{1,0} gather(%p0, %p1), offset_dims={1}
}

%body (state: (s32[], f32[256,256])) -> (s32[], f32[256,256]) {
  %state = (s32[], f32[256,256]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %w = f32[256,256]{1,0} get-tuple-element(%state), index=1
  %dot.1 = f32[256,256]{1,0} dot(%w, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}, operand_precision={highest,highest}
  ROOT %tuple.1 = (s32[], f32[256,256]{1,0}) tuple(%n, %dot.1)
}

%cond (state: (s32[], f32[256,256])) -> pred[] {
  %state = (s32[], f32[256,256]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (a: bf16[64,1000], i: s32[8], s: (s32[], f32[256,256])) -> f32[] {
  %a = bf16[64,1000]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  %s = (s32[], f32[256,256]{1,0}) parameter(2)
  %fusion = bf16[8,1000]{1,0} fusion(%a, %i), kind=kLoop, calls=%fused
  %near = bf16[8,1000]{1,0:T(8,128)S(1)} copy(%fusion)
  %conv.1 = (bf16[64,32,32,256]{3,2,1,0}, u8[16]{0}) custom-call(%a, %a), \
window={size=32x32 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, \
custom_call_target="__cudnn$convForward"
  %while.1 = (s32[], f32[256,256]{1,0}) while(%s), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
  %gathered = bf16[8,128,768]{2,1,0} all-gather(%near), dimensions={0}
  %sum.1 = f32[1000]{0} all-reduce(%near), to_apply=%cond
  ROOT %end = f32[] constant(0)
}
"""


def test_kernels_of_a_module():
    found = {k.instruction.name: k for k in hlo.Module(HLO, num_devices=8).kernels()}
    assert set(found) == {"fusion", "near", "conv.1", "dot.1", "gathered", "sum.1"}
    product = found["dot.1"]
    assert (product.times, product.flops, product.units) == (12, 2 * 256**3, "floats")
    assert product.seconds(H200) == max(2 * 256**3 / H200.floats, H200.least)
    # 128 kB fit; a gather reads its rows, and a TPU's fast memory costs nothing.
    assert found["fusion"].bytes == 8 * 4 + 2 * 8 * 1000 * 2
    assert found["near"].bytes == 8 * 1000 * 2
    assert found["gathered"].received == 7 / 8 * 2 * 8 * 128 * 768
    assert found["sum.1"].received == 2 * 7 / 8 * 4 * 1000


OF_SLICES = """HloModule jit_step

%parts (p: bf16[64,1000]) -> bf16[64,24] {
  %p = bf16[64,1000]{1,0} parameter(0)
  %seen = bf16[64,10,100]{2,1,0} bitcast(%p)
  %first = bf16[64,1,12]{2,1,0} slice(%seen), slice={[0:64],[0:1],[0:12]}
  %wide = f32[64,1000]{1,0} convert(%p)
  %second = f32[64,12]{1,0} slice(%wide), slice={[0:64],[12:24]}
  ROOT %both = bf16[64,24]{1,0} concatenate(%first, %second), dimensions={1}
}

%whole (p: bf16[64,1000]) -> bf16[64,1000] {
  %p = bf16[64,1000]{1,0} parameter(0)
  %part = bf16[64,12]{1,0} slice(%p), slice={[0:64],[0:12]}
  ROOT %negated = bf16[64,1000]{1,0} negate(%p)
}

%moved (p: bf16[64,1000]) -> bf16[64,1000] {
  %p = bf16[64,1000]{1,0} parameter(0)
  ROOT %copied = bf16[64,1000]{0,1} copy(%p)
}

%row (p: bf16[64,1000], n: s32[]) -> bf16[1,1000] {
  %p = bf16[64,1000]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %turned = bf16[64,1000]{0,1} fusion(%p), kind=kLoop, calls=%moved
  %zero = s32[] constant(0)
  ROOT %one = bf16[1,1000]{1,0} dynamic-slice(%turned, %n, %zero)
}

%inside (p: bf16[64,1000]) -> f32[64,12] {
  %p = bf16[64,1000]{1,0} parameter(0)
  ROOT %few = f32[64,12]{1,0} fusion(%p), kind=kLoop, calls=%some
}

%some (p: bf16[64,1000]) -> f32[64,12] {
  %p = bf16[64,1000]{1,0} parameter(0)
  %few = bf16[64,12]{1,0} slice(%p), slice={[0:64],[0:12]}
  ROOT %wider = f32[64,12]{1,0} convert(%few)
}

%body (state: (s32[], bf16[64,1000])) -> (s32[], bf16[64,1000]) {
  %state = (s32[], bf16[64,1000]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %data = bf16[64,1000]{1,0} get-tuple-element(%state), index=1
  %taken = bf16[1,1000]{1,0} fusion(%data, %n), kind=kLoop, calls=%row
  ROOT %next = (s32[], bf16[64,1000]{1,0}) tuple(%n, %data)
}

%below (state: (s32[], bf16[64,1000])) -> pred[] {
  %limit = s32[] constant(16)
  %state = (s32[], bf16[64,1000]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}

ENTRY %main (a: bf16[64,1000], s: (s32[], bf16[64,1000])) -> f32[] {
  %a = bf16[64,1000]{1,0} parameter(0)
  %s = (s32[], bf16[64,1000]{1,0}) parameter(1)
  %rows = (s32[], bf16[64,1000]{1,0}) while(%s), condition=%below, body=%body
  %cut = bf16[64,24]{1,0} fusion(%a), kind=kLoop, calls=%parts
  %all = bf16[64,1000]{1,0} fusion(%a), kind=kLoop, calls=%whole
  %nested = f32[64,12]{1,0} fusion(%a), kind=kOutput, calls=%inside
  ROOT %end = f32[] constant(0)
}
"""


def test_of_what_is_cut_the_cuts_alone_are_read():
    found = {k.instruction.name: k for k in hlo.Module(OF_SLICES).kernels()}
    assert found["cut"].bytes == pytest.approx(2 * (64 * 24 + 64 * 24))
    assert found["all"].bytes == 2 * (64 * 1000 + 64 * 1000)
    assert found["nested"].bytes == pytest.approx((2 + 4) * 64 * 12)
    # In a loop whose rounds XLA does not note, through a fusion that copies all.
    assert found["taken"].times == 16
    assert found["taken"].bytes == pytest.approx(2 * (1000 + 1000) + 4)


OF_TPUS = """HloModule jit_step

ENTRY %main (q: bf16[32,768,512], m: s8[32,512,512], x: bf16[64,16,1,1]) -> f32[] {
  %q = bf16[32,768,512]{2,1,0} parameter(0)
  %m = s8[32,512,512]{2,1,0} parameter(1)
  %near = bf16[32,768,512]{2,1,0:T(8,128)(2,1)S(1)} bitcast(%q)
  %out = bf16[32,768,512]{2,1,0} custom-call(%q, %near, %near, %m), \
custom_call_target="tpu_custom_call"
  %by = (bf16[32,768,512]{2,1,0}, bf16[32,768,512]{2,1,0}, bf16[32,768,512]{2,1,0}) \
custom-call(%q, %near, %near, %out, %m), custom_call_target="tpu_custom_call"
  %x = bf16[64,16,1,1]{3,2,1,0} parameter(2)
  %w = bf16[3,12,16,8]{3,2,1,0} constant({...})
  %conv = bf16[64,3,12,8]{3,2,1,0} convolution(%x, %w), \
window={size=3x12 pad=2_2x11_11 rhs_reversal=1x1}, dim_labels=bf01_01io->b01f
  ROOT %end = f32[] constant(0)
}
"""


def test_kernels_of_tpus():
    found = {k.instruction.name: k for k in hlo.Module(OF_TPUS).kernels()}
    product, array = 2 * 32 * 768 * 512**2, 2 * 32 * 768 * 512
    forward, backward = found["out"], found["by"]
    assert (forward.flops, backward.flops) == (2 * product, 5 * product)
    assert forward.units == backward.units == "halves"
    # What lies in fast memory costs nothing; the mask has a byte for each pair.
    assert forward.bytes == 2 * array + 32 * 512**2
    assert backward.bytes == 5 * array + 32 * 512**2
    # A product with two more axes: of its window, one place meets the image.
    assert found["conv"].flops == 2 * 64 * 3 * 12 * 8 * 16


WRITES = """HloModule jit_step

%put (p: bf16[64,1000], q: bf16[64,1000], r: bf16[1,1000]) -> \
(bf16[64,1000], f32[1,1000], bf16[64,1000]) {
  %p = bf16[64,1000]{1,0} parameter(0)
  %q = bf16[64,1000]{1,0:S(1)} parameter(1)
  %r = bf16[1,1000]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %wide = f32[1,1000]{1,0} convert(%r)
  %first = bf16[64,1000]{1,0} dynamic-update-slice(%p, %r, %zero, %zero)
  %second = bf16[64,1000]{1,0:S(1)} dynamic-update-slice(%q, %r, %zero, %zero)
  ROOT %all = (bf16[64,1000]{1,0}, f32[1,1000]{1,0}, bf16[64,1000]{1,0:S(1)}) \
tuple(%first, %wide, %second)
}

ENTRY %main (a: bf16[64,1000], r: bf16[1,1000]) -> f32[] {
  %a = bf16[64,1000]{1,0} parameter(0)
  %r = bf16[1,1000]{1,0} parameter(1)
  %rows = (bf16[64,1000]{1,0}, f32[1,1000]{1,0}, bf16[64,1000]{1,0:S(1)}) \
fusion(%a, %a, %r), kind=kLoop, calls=%put
  %to = (bf16[64,1000]{1,0:S(1)}, bf16[64,1000]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %by = (bf16[64,1000]{1,0}, bf16[64,1000]{0,1}, u32[]{:S(2)}) copy-start(%a)
  %part = ((bf16[64,1000]{1,0}), bf16[16,1000]{1,0:S(1)}, s32[]{:S(2)}) \
slice-start(%a), slice={[16:32], [0:1000]}
  ROOT %end = f32[] constant(0)
}
"""


def test_of_what_is_updated_or_copied_the_part_that_moves_is_counted():
    found = {k.instruction.name: k for k in hlo.Module(WRITES).kernels()}
    size = 2 * 64 * 1000
    assert found["to"].bytes == size
    assert found["by"].bytes == 2 * size
    assert found["part"].bytes == size / 4
    # Two arrays are updated in a row, one of them in fast memory; one result is new.
    assert found["rows"].bytes == 2 * 1000 + 2 * 1000 + 4 * 1000


def test_what_is_warned_of():
    kernels = hlo.Module(HLO, 8).kernels()
    said = "\n".join(aot.kernel_warnings(kernels, H200, "bfloat16", [1000], 8))
    assert "products of float32" in said
    assert "1 forward convolutions with windows of up to 32" in said
    assert "1 arrays that are no parameters pass between devices" in said
    assert "bf16[8, 128, 768]" in said
    of_params = aot.kernel_warnings(kernels, H200, "float32", [8 * 128 * 768], 8)
    assert not any("pass between devices" in text for text in of_params)


THUNKS = """000: kCopy [source | sink] kCopy
001: kWhile        [prev=000 (1) | sink        ]
condition:
    002: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    003: kWhile         [prev=000 (1) | next=016 (1)]
condition:
        004: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
      body:
        005: kCustomKernel [source | sink] of_the_order grid: [1, 1, 1]
    006: kWhile         [prev=000 (1) | next=016 (1)]
condition:
        007: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
      body:
        000: kCommandBuffer [source | sink]
            008: kCustomKernel [source | sink] a grid: [1, 1, 1]
            009: kCustomKernel [source | sink] b grid: [1, 1, 1]
            010: kCustomKernel [source | sink] c grid: [1, 1, 1]
        011: kConvolution [source | sink] d
"""
STEP = """000: kCommandBuffer [source | sink]
    001: kCustomKernel [source | sink] a grid: [1, 1, 1]
    002: kCustomKernel [source | sink] b grid: [1, 1, 1]
    003: kCustomKernel [source | sink] c grid: [1, 1, 1]
004: kConvolution [source | sink] d
"""


def test_launches_of_a_step(tmp_path):
    def read(name, text):
        path = tmp_path / f"module_1.jit_{name}.thunk_sequence_after_thunk_passes.txt"
        path.write_text(text)
        return aot.thunks(tmp_path, name)

    assert aot.thunks(tmp_path, "step") is None  # what TPUs leave
    step, whole = read("step", STEP), read("its_segment", THUNKS)
    # Whether the loop has ended, a buffer of three kernels, and a convolution.
    assert aot.launches(step, whole) == 3
    indented = "\n".join(f"    {line}" for line in THUNKS.splitlines())
    buffered = read("buffered", f"000: kCommandBuffer [source]\n{indented}")
    assert aot.launches(step, buffered) == 0


def test_ceilings_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(aot, "CEILINGS", tmp_path / "ceilings.json")
    row = {"target": "h200", "task": "digits/wrn", "runs": 8, "precision": "bfloat16"}
    aot.keep([row | {"examples_per_s": 1234.5}, row | {"failed": "no", "runs": 1}])
    aot.keep([row | {"examples_per_s": 2345.6}, row | {"target": "h200:8"}])
    del row["target"]
    assert json.loads((tmp_path / "ceilings.json").read_text()) == {
        "rows": [{"device": "h200", **row, "examples_per_s": 2350.0}]
    }


def test_missing_wheels_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    row = aot.row_of(aot.Case("v5e", "libsvm/iris", 1), minutes=1)
    assert "libtpu is not installed" in aot.shown(row, 3)[0]
    assert chips.missing("h100:8") == "jax-cuda12-plugin"
    with pytest.raises(ValueError, match="--for=b9: there are v4, "):
        chips.chip_of("b9")


def table(*flags):
    command = [sys.executable, "benchmarks/aot.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rows(tmp_path, *flags):
    text = table(*flags, f"--json={tmp_path / 'rows.json'}")
    found = json.loads((tmp_path / "rows.json").read_text())
    for row in found:
        assert "failed" not in row, row
        assert row["fits"]
    assert text.splitlines()[0].split() == aot.HEADER.split()
    return found


@needs("v5e")
def test_a_small_model_on_a_tpu(tmp_path):
    (row,) = rows(tmp_path, "--for=v5e", "--tasks=libsvm/letter", "--runs=8")
    assert row["precision"] == "float32"
    assert row["warnings"] == []


BATCH = """
from benchmarks import chips
chips.prepare()
import jax, jax.numpy as jnp
from lrjax import machine
from lrjax.engine import order
(device,) = chips.devices_of("v5e")
place = jax.sharding.SingleDeviceSharding(device)
def of(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
part = {"images": of((50_000, 32, 32, 3), "uint8")}
def mean(source, rows):
    batch = order.taken(source, rows, part)
    return batch["images"].astype(jnp.bfloat16).mean((1, 2))
def bytes_of(source):
    jax.clear_caches()
    made = jax.jit(mean).lower(source, of((64,), "int32")).compile()
    return made.memory_analysis().temp_size_in_bytes
print(bytes_of(part))
with machine.compiling_for("tpu"):
    print(bytes_of(part))
    shapes = jax.eval_shape(order.laid_out, part)
    print(bytes_of(jax.tree.map(lambda x: of(x.shape, x.dtype), shapes)))
"""


@needs("v5e")
def test_a_batch_of_images_costs_a_tpu_no_copy_of_all():
    command = [sys.executable, "-c", BATCH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    gathered, taken, from_rows = (int(x) for x in done.stdout.split()[-3:])
    assert gathered > 50_000 * 32 * 32 * 3  # once it is less, XLA gathers well itself
    assert max(taken, from_rows) < 50 * 64 * 32 * 32 * 3


@needs("h200")
@pytest.mark.aot
@pytest.mark.slow
def test_small_models_are_launched_once_per_round(tmp_path):
    found = rows(tmp_path, "--for=h200", "--tasks=libsvm/iris,libsvm/letter")
    for row in found:
        assert row["precision"] == "float32"
        assert row["launches"] == 0
        assert row["warnings"] == []


@needs("h200")
@pytest.mark.aot
@pytest.mark.slow
def test_a_population_of_networks_on_gpus(tmp_path):
    flags = ("--for=h100,h200", "--tasks=digits/wrn", "--runs=1,8")
    for row in rows(tmp_path, *flags):
        assert row["precision"] == "bfloat16"
        assert row["kernels"] < 190
        said = " ".join(row["warnings"])
        for cured in ("forward convolutions", "products of float32", "scatters"):
            assert cured not in said


@needs("v5e")
@pytest.mark.aot
@pytest.mark.slow
def test_a_population_of_networks_on_a_tpu(tmp_path):
    flags = ("--for=v5e", "--tasks=digits/wrn", "--runs=8", "--step-only")
    (row,) = rows(tmp_path, *flags)
    assert row["precision"] == "bfloat16"
    assert not any("products of float32" in text for text in row["warnings"])


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=needs(t)) for t in ("v5e:2x4", "h100:8")],
)
@pytest.mark.aot
@pytest.mark.slow
def test_devices_that_share_a_language_model_exchange_parameters_alone(
    tmp_path, target
):
    flags = ("--tasks=bookwiki/roberta_tiny", "--runs=1", "--batch=64")
    flags += (f"--for={target}", "--shard=batch,params", "--step-only")
    batch, params = rows(tmp_path, *flags)
    for row in (batch, params):
        assert not any("pass between devices" in text for text in row["warnings"])
    # Gathering what is split costs half as much again as adding gradients.
    assert params["received"] < 2 * batch["received"]
    assert params["memory"] < batch["memory"]


def test_the_page_says_what_the_command_can_do():
    """Each flag of the command's own help is in its docstring."""
    flags = set(re.findall(r'"(--[a-z-]+)"', Path(aot.__file__).read_text()))
    for flag in flags - {"--one", "--folder"}:
        assert flag in aot.__doc__, flag
