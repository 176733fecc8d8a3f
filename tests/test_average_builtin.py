"""The mean of runs as one parameter file."""

from __future__ import annotations

import torch
from script_loader import load_script


def test_the_mean_is_that_of_the_matrices_and_not_of_their_factors() -> None:
    torch.manual_seed(0)
    runs = [
        {"w.lora_A": torch.randn(2, 5), "w.lora_B": torch.randn(4, 2), "bias": torch.randn(4)}
        for _ in range(2)
    ]
    mean_of = load_script("average_builtin").mean_of
    whole = (
        runs[0]["w.lora_B"] @ runs[0]["w.lora_A"] + runs[1]["w.lora_B"] @ runs[1]["w.lora_A"]
    ) / 2

    found = mean_of(runs, 4)
    torch.testing.assert_close(found["w.lora_B"] @ found["w.lora_A"], whole)
    torch.testing.assert_close(found["bias"], (runs[0]["bias"] + runs[1]["bias"]) / 2)

    cut = mean_of(runs, 1)
    assert cut["w.lora_A"].shape == (1, 5)
    error = (cut["w.lora_B"] @ cut["w.lora_A"] - whole).square().sum()
    # What the best matrix of rank one leaves: all singular values but the first.
    torch.testing.assert_close(error, torch.linalg.svdvals(whole)[1:].square().sum())
