"""A hash of a model's weights, to prove that an attack left them alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["fingerprint"]


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over a module's state dict, in the order of the sorted names.

    For each entry the name, the dtype, the shape and the bytes (little-endian, row-major) are
    hashed, each preceded by its length, so that neither a renamed nor a reshaped nor a cast weight
    goes unnoticed. The same weights have the same fingerprint on every device.
    """
    import torch

    digest = hashlib.sha256()

    def add(data: bytes | memoryview) -> None:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    for name, tensor in sorted(module.state_dict().items()):
        add(name.encode("utf-8"))
        add(str(tensor.dtype).encode("ascii"))
        add(",".join(str(size) for size in tensor.shape).encode("ascii"))
        # NumPy has no bf16, so every dtype is read as bytes.
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        add(memoryview(raw.numpy()))
    return digest.hexdigest()
