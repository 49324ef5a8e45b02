"""Accelerators that XLA compiles for without one: how to name them, and what they do.

TPUs need the package `libtpu`, NVIDIA's cards `jax-cuda12-plugin` and the CUDA
libraries that it brings (requirements-aot.txt has both). Nothing runs on a device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

# A TPU's compiler would ask the cloud which host this is, and lets one process in.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class Chip(NamedTuple):
    """What a chip can do, by its data sheet.

    Attributes:
      kind: 'gpu' or 'tpu'.
      halves: operations per second of matrix units on bfloat16.
      mixed: the same on float32 that is rounded before it is multiplied, JAX's default:
        to TF32 on NVIDIA's cards, to bfloat16 on TPUs.
      floats: the same on float32 as it is; of TPUs six passes in bfloat16.
      bandwidth: bytes per second of its memory.
      memory: bytes.
      integers: operations on 32-bit integers per second, which random numbers are made
        of.
      least: seconds that a kernel takes however little it does.
      name: as JAX has it, `jax.Device.device_kind`.
    """

    kind: str
    halves: float
    mixed: float
    floats: float
    bandwidth: float
    memory: float
    integers: float
    least: float
    name: str


def _tpu(
    name: str, halves: float, bandwidth: float, memory: float, integers: float
) -> Chip:
    rates = (halves, halves, halves / 6, bandwidth, memory, integers)
    return Chip("tpu", *rates, least=0.3e-6, name=name)


_CORES = 132  # streaming multiprocessors of both cards
_CUDA_INTEGERS = _CORES * 64 * 1.75e9
# The vector unit of a TPU has 8 x 128 lanes with four units each, of which integer
# operations get about half.
CHIPS = {
    "v4": _tpu("TPU v4", 275e12, 1.2e12, 32e9, 4096 * 1.05e9),
    "v5e": _tpu("TPU v5 lite", 197e12, 0.82e12, 16e9, 2048 * 0.94e9),
    "v5p": _tpu("TPU v5", 459e12, 2.765e12, 95e9, 4096 * 1.75e9),
    "v6e": _tpu("TPU v6 lite", 918e12, 1.64e12, 32e9, 4096 * 0.94e9),
    "h100": Chip(
        *("gpu", 989e12, 495e12, 67e12, 3.35e12, 84942979072, _CUDA_INTEGERS, 2e-6),
        "NVIDIA H100 80GB HBM3",
    ),
    "h200": Chip(
        *("gpu", 989e12, 495e12, 67e12, 4.8e12, 151397597184, _CUDA_INTEGERS, 2e-6),
        "NVIDIA H200 141GB HBM3e",
    ),
}


def chip_of(target: str) -> Chip:
    """The chip of a target such as 'h200', 'h100:8' or 'v5e:2x4'.

    Raises:
      ValueError: for an unknown one.
    """
    name = target.split(":")[0]
    if name not in CHIPS:
        raise ValueError(f"--for={target}: there are {', '.join(CHIPS)}")
    return CHIPS[name]


def missing(target: str) -> str:
    """The package that a target needs and that is not installed; or ''."""
    package = "libtpu" if chip_of(target).kind == "tpu" else "jax_cuda12_plugin"
    return "" if importlib.util.find_spec(package) else package.replace("_", "-")


def devices_of(target: str) -> Sequence[Any]:
    """Descriptions of a target's devices, to compile for."""
    from jax.experimental import topologies

    chip, (name, _, shape) = chip_of(target), target.partition(":")
    if chip.kind == "tpu":
        more: dict[str, Any] = {}
        if shape in ("", "1x1"):  # XLA knows hosts of four chips, unless told otherwise
            shape, more = "1x1", {"chips_per_host_bounds": (1, 1, 1)}
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{shape}", **more
        )
    else:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name=name,
            topology=f"1x1x{shape or 1}",
            target_config=_cuda_target(chip),
        )
    return found.devices


def prepare() -> None:
    """Set what compilers of absent devices need; before JAX is imported."""
    os.environ.update(ENVIRONMENT)


# XLA's description of a card (GpuTargetConfigProto), from NVIDIA's data sheets of the
# H100 and its tuning guide of Hopper.
_HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "threads_per_core_limit": 2048,
    "core_count": _CORES,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "device_address_bits": 64,
    "pcie_bandwidth": 32 * 2**30,
}
# Number of a type in XLA -> units of a core, and operations of a unit per cycle.
_VECTOR_UNITS = {
    **dict.fromkeys((4, 8), (64, 1)),  # 32-bit integers
    **dict.fromkeys((10, 16), (128, 2)),  # float16 and bfloat16
    11: (128, 1),  # float32
    12: (64, 1),  # float64
}
_MATRIX_UNITS = {
    **dict.fromkeys((2, 6, 19, 20, 23, 24, 25, 28, 29, 33, 35, 36), (4, 1024)),  # bytes
    **dict.fromkeys((10, 16), (4, 512)),
    11: (4, 256),
    12: (4, 32),
}


def _cuda_target(chip: Chip) -> str:
    """Describe a card to XLA's GPU compiler, as a text protocol buffer."""

    def rates(field: str, clock: float, units: dict[int, tuple[int, int]]) -> str:
        rows = [
            f"rate_infos {{ key: {kind} value {{ clock_rate_ghz: {clock} "
            f"units_per_core: {count} ops_per_clock: {rate} }} }}"
            for kind, (count, rate) in units.items()
        ]
        return "\n".join([f"{field} {{", *rows, "}"])

    numbers = _HOPPER | {
        "memory_bandwidth": int(chip.bandwidth),
        "device_memory_size": int(chip.memory),
    }
    lines = [
        *(f"{name}: {value}" for name, value in numbers.items()),
        "cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }",
        "ecc_enabled: true",
        f'name: "{chip.name}"',
        'driver_version: "13.0.0"',
        'runtime_version: "12.8.0"',
        'compile_time_toolkit_version: "12.8.0"',
        'dnn_version: "9.10.0"',
        rates("scalar_unit_description", 1.98, _VECTOR_UNITS),
        rates("matrix_unit_description", 1.83, _MATRIX_UNITS),
    ]
    inner = "\n".join(lines)
    return (
        f'gpu_device_info {{\n{inner}\n}}\nplatform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
        f'device_description_str: "{chip.name}"\n'
    )
