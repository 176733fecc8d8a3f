"""Devices, dtypes, packing and fingerprints."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from robustlab.errors import UserError
from robustlab.models.batching import default_batch_tokens, pack
from robustlab.models.device import resolve_device, resolve_dtype, upload
from robustlab.models.fingerprint import fingerprint

CPU = torch.device("cpu")


def test_auto_takes_cuda_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


def test_an_absent_or_unknown_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda' is absent: PyTorch sees no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="'cuda:1' is absent: PyTorch sees 1 CUDA device here"):
        resolve_device("cuda:1")
    with pytest.raises(UserError, match="Unknown device 'tpu'"):
        resolve_device("tpu")


def test_auto_dtype_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for present in units:
        for name in units:
            there = name == present
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
        assert resolve_dtype("auto", CPU) == torch.bfloat16
    for name in units:
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert resolve_dtype("auto", CPU) == torch.float32
    for name in units:
        monkeypatch.delattr(torch.cpu, name)
    assert resolve_dtype("auto", CPU) == torch.float32
    for capability, expected in (((9, 0), torch.bfloat16), ((7, 5), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert resolve_dtype("auto", torch.device("cuda", 0)) == expected


def test_dtype_by_name() -> None:
    assert resolve_dtype("fp32", CPU) == torch.float32
    assert resolve_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="Unknown dtype 'int8'"):
        resolve_dtype("int8", CPU)


def test_a_gpu_gets_larger_batches() -> None:
    assert default_batch_tokens(CPU) == 4096
    assert default_batch_tokens(torch.device("cuda", 1)) == 16_384


def test_an_upload_to_the_cpu_copies_nothing() -> None:
    array = np.array([[1, 2], [3, 4]])
    tensor = upload(array, CPU)
    array[0, 0] = 7
    assert tensor.tolist() == [[7, 2], [3, 4]]


def test_pack_sorts_by_length_and_fills_the_budget() -> None:
    # Sorted: 1 2 2 3 7 9. 3 rows x 2 = 6 fit in 8, a fourth of length 3 would make 12.
    assert pack([7, 2, 3, 2, 1, 9], batch_tokens=8) == [[4, 1, 3], [2], [0], [5]]


def test_pack_is_exact_at_the_budget_and_breaks_ties_by_index() -> None:
    assert pack([4, 4, 4, 4], batch_tokens=8) == [[0, 1], [2, 3]]
    assert pack([4, 4, 4, 4], batch_tokens=7) == [[0], [1], [2], [3]]
    assert pack([4, 4, 4, 4], batch_tokens=1000) == [[0, 1, 2, 3]]
    assert pack([], batch_tokens=8) == []
    with pytest.raises(ValueError, match="at least 1"):
        pack([1], batch_tokens=0)


class _Pair(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.b = torch.nn.Parameter(torch.zeros(2, 3, dtype=dtype))
        self.register_buffer("a", torch.ones((), dtype=dtype))


def test_fingerprint_is_the_hash_it_says() -> None:
    def sized(data: bytes) -> bytes:
        return len(data).to_bytes(8, "little") + data

    one = b"\x00\x00\x80\x3f"
    expected = hashlib.sha256(
        sized(b"a")
        + sized(b"torch.float32")
        + sized(b"")
        + sized(one)
        + sized(b"b")
        + sized(b"torch.float32")
        + sized(b"2,3")
        + sized(bytes(24))
    ).hexdigest()
    assert fingerprint(_Pair()) == expected


def test_fingerprint_sees_values_shapes_dtypes_and_names() -> None:
    seen = {fingerprint(_Pair()), fingerprint(_Pair(torch.bfloat16))}
    changed = _Pair()
    with torch.no_grad():
        changed.b[1, 2] = 1e-30
    seen.add(fingerprint(changed))
    reshaped = _Pair()
    reshaped.b = torch.nn.Parameter(torch.zeros(3, 2))
    seen.add(fingerprint(reshaped))
    renamed = _Pair()
    renamed.c = renamed.b
    del renamed.b
    seen.add(fingerprint(renamed))
    assert len(seen) == 5
    transposed = _Pair()
    transposed.b = torch.nn.Parameter(torch.zeros(3, 2).t())
    assert fingerprint(transposed) == fingerprint(_Pair())
