"""Which device and which number format a model runs in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["cpu_multiplies_bf16", "resolve_device", "resolve_dtype", "upload"]


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises:
        UserError: an unknown name, or a device that this machine does not have.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(
            f"Unknown device '{name}': use --device auto, cpu, cuda or cuda:N with a number N."
        )
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        seen = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
        raise UserError(
            f"The device '{name}' is absent: PyTorch sees {seen} here; "
            "use --device cpu, or auto to take what there is."
        )
    return torch.device("cuda", index)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn ``auto``, ``fp32`` or ``bf16`` into the dtype of weights and activations.

    ``auto`` is bf16 where the hardware multiplies bf16 matrices: CUDA devices from compute
    capability 8.0 (Ampere) on, and CPUs that :func:`cpu_multiplies_bf16` knows, where whole-model
    bf16 gives about two to three times the sentences per second of fp32 at the same accuracy. It
    is fp32 elsewhere, because another CPU emulates bf16 and is slower with it. bf16 keeps 8 bits
    of mantissa: probabilities agree with fp32 to two or three digits, not more.

    Raises:
        UserError: an unknown name.
    """
    import torch

    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    if name != "auto":
        raise UserError(f"Unknown dtype '{name}': use --dtype auto, fp32 or bf16.")
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = cpu_multiplies_bf16()
    return torch.bfloat16 if fast else torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16: AMX tiles or AVX-512 BF16.

    The latter are in AMD's processors from Zen 4 on and in some of Intel's.
    """
    import torch

    # Private functions of PyTorch: a version without them counts as a CPU without the units.
    checks = (
        getattr(torch.cpu, name, None)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return any(check is not None and check() for check in checks)


def upload(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device; to a GPU without waiting for what it is still doing.

    A plain copy to a GPU goes behind all work in its queue and Python waits for it, so that the
    next batch is made only after the last one is done. From page-locked memory it need not.
    On the CPU the tensor shares the array's memory.
    """
    import torch

    tensor = torch.from_numpy(array)
    if device.type != "cuda" or not array.size:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
