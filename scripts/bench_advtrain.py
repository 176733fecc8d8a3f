#!/usr/bin/env python3
"""What adversarial training costs, measured against plain training and against TextAttack.

    python scripts/bench_advtrain.py                                  # all that fits a CPU
    python scripts/bench_advtrain.py inner bucketing --device cuda
    python scripts/bench_advtrain.py throughput --device cuda --out build/bench.json

``inner``: an update of each method against plain forward-backward passes of the same batch.
``bucketing``: examples a second by length buckets against padding to a fixed length.
``a2t``: training examples a second against TextAttack's own ``Attacker`` with the same search,
words and constraints, on the same model; TextAttack pads every text to a fixed length, which is 512
tokens where ``textattack train`` is not told otherwise, and 128 where a careful user says so.
``throughput``: examples a second and model FLOP utilisation of each method, for a classifier of
BERT-base's size and a decoder of half a billion parameters with random weights; not part of the
default on a CPU.

Rivals take turns, and a ratio is the median over
the turns, so that what else the machine does hits all alike. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

if TYPE_CHECKING:
    import torch

PADDINGS = (128, 512)
"""Tokens that TextAttack pads to: a careful user's choice and the default of its ``train``."""

METHODS = {"pgd": 0.5, "freelb": 0.5, "trades": 1.0, "smart": 1.0}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12}
"""Dense bf16 operations a second, by a part of the GPU's name; from the makers' data sheets."""


def note(text: str) -> None:
    """A sign of life on stderr."""
    print(text, file=sys.stderr, flush=True)


def wait(device: torch.device) -> None:
    """Let a GPU finish, so that a clock tells the truth."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    ways: Mapping[str, Callable[[], None]], device: torch.device, turns: int
) -> dict[str, list[float]]:
    """Seconds of every way in each of several turns, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            wait(device)
            begun = time.perf_counter()
            way()
            wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratios(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over the turns of first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def update_of(task: Any, method: Any, batch: Any, bf16: bool) -> Callable[[], None]:
    """One update's gradients, as the trainer takes them."""
    import torch

    def run() -> None:
        task.module.zero_grad(set_to_none=True)
        task.module.train()
        with torch.autocast(task.device.type, torch.bfloat16, enabled=bf16):
            method.update(task, batch, lambda loss: loss.backward(), seed=1)

    return run


def bench_inner(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Each method's update in plain passes of the same batch, all parameters trained."""
    from robustlab.training.families import TaskPlan, load_task, make_method

    data = str(ROOT / "corpora" / "reviews")
    task = load_task("classifier", TaskPlan("builtin:classifier", data, device))
    batch = task.collate(sorted(task.batches(0, 0), key=len)[-1][: options.batch])
    plain = make_method("none", 0.0, task)
    methods: dict[str, Any] = {
        name: make_method(name, strength, task) for name, strength in METHODS.items()
    }
    ways = {"none": update_of(task, plain, batch, options.bf16)}
    ways |= {n: update_of(task, method, batch, options.bf16) for n, method in methods.items()}
    seconds = in_turn(ways, device, options.turns)
    found: dict[str, Any] = {"plain_seconds": statistics.median(seconds["none"])}
    for name, method in methods.items():
        cost = ratios(seconds[name], seconds["none"])
        share = cost / (method.steps + 1)
        found[name] = {"steps": method.steps, "plain_passes": cost, "of_k_plus_1": share}
    return found


def bench_bucketing(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The same batches of examples at their own length, and padded to the longest of all."""
    import torch

    from robustlab.training.families import TaskPlan, load_task, make_method
    from robustlab.training.tasks import Batch

    task: Any = load_task("classifier", TaskPlan("builtin:classifier", options.data, device))
    plain = make_method("none", 0.0, task)
    rows = task.batches(0, 0)[: options.updates]
    lengths = [task.collate([row]).inputs["input_ids"].shape[1] for one in rows for row in one]
    fixed = 128 if max(lengths) <= 128 else max(lengths)

    def padded(batch: Batch) -> Batch:
        inputs = {
            name: torch.nn.functional.pad(t, (0, fixed - t.shape[1])) if t.dim() == 2 else t
            for name, t in batch.inputs.items()
        }
        return Batch(batch.rows, inputs)

    def way(change: Callable[[Batch], Batch]) -> Callable[[], None]:
        def run() -> None:
            for one in rows:
                update_of(task, plain, change(task.collate(one)), options.bf16)()

        return run

    seconds = in_turn(
        {"bucketed": way(lambda batch: batch), "fixed": way(padded)}, device, options.turns
    )
    count = sum(map(len, rows))
    return {
        "fixed_length": fixed,
        "mean_length": statistics.mean(lengths),
        "examples_per_second": {n: count / statistics.median(s) for n, s in seconds.items()},
        "faster": ratios(seconds["fixed"], seconds["bucketed"]),
    }


def bench_a2t(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Training examples a second: ours through the engine, TextAttack through its Attacker."""
    from robustlab.attack.examples import AttackExample
    from robustlab.attack.goals import UntargetedClassification
    from robustlab.models.device import resolve_dtype
    from robustlab.models.load import load_target
    from robustlab.training.families import TaskPlan, load_task
    from robustlab.training.tokens import attack_texts, training_methods

    task: Any = load_task("classifier", TaskPlan("builtin:classifier", options.data, device))
    rows = task.examples[: options.examples]
    dtypes = ["fp32", *(["bf16"] if "bfloat16" in str(resolve_dtype("auto", device)) else [])]
    (method,) = training_methods("a2t", min_cosine=None)
    examples = [
        AttackExample(row.id, row.contents, UntargetedClassification(row.label), row.label)
        for row in rows
    ]
    changed: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        task.save(folder)

        def ours(dtype: str) -> Callable[[], None]:
            target = load_target(str(folder), device=str(device), dtype=dtype)

            def run() -> None:
                texts = attack_texts(target, examples, [method] * len(examples), seed=0)
                pairs = zip(texts, examples, strict=True)
                changed[f"robustlab, {dtype}"] = sum(text != one.text for text, one in pairs)

            return run

        rivals = {
            f"textattack, padded to {length}": textattack_a2t(folder, rows, device, changed, length)
            for length in PADDINGS
        }
        ways = rivals | {f"robustlab, {dtype}": ours(dtype) for dtype in dtypes}
        seconds = in_turn(ways, device, options.a2t_turns)
    return {
        "examples": len(examples),
        "examples_per_second": {n: len(rows) / statistics.median(s) for n, s in seconds.items()},
        "changed": changed,
        "faster": {
            f"{own} against {rival}": ratios(seconds[rival], seconds[own])
            for own in ways
            if own not in rivals
            for rival in rivals
        },
    }


def textattack_a2t(
    folder: Path,
    rows: Sequence[Any],
    device: torch.device,
    changed: dict[str, int],
    padding: int,
) -> Callable[[], None]:
    """TextAttack's gradient-ranked greedy search over our neighbours, in its own Attacker."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from robustlab.attack.textattack_resources import import_textattack
    from robustlab.training.tokens import training_methods

    textattack = import_textattack()
    from textattack.constraints.overlap import MaxWordsPerturbed
    from textattack.constraints.pre_transformation import (
        RepeatModification,
        StopwordModification,
    )
    from textattack.goal_functions import UntargetedClassification
    from textattack.search_methods import GreedyWordSwapWIR
    from textattack.transformations import WordSwap

    made: tuple[Any, ...] = training_methods("a2t", min_cosine=None)
    (method,) = made
    change = method.perturbations[0]

    class Neighbours(WordSwap):  # type: ignore[misc]
        """Our offline neighbour space as one of TextAttack's transformations."""

        def _get_replacement_words(self, word: str) -> list[str]:
            from robustlab.attack.words import Words

            return list(change(Words.of(word), 0, None))

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=padding)
    wrapper = textattack.models.wrappers.HuggingFaceModelWrapper(model, tokenizer)
    attack = textattack.Attack(
        UntargetedClassification(wrapper, use_cache=True),
        [
            RepeatModification(),
            StopwordModification(stopwords=set(method.constraints.stopwords)),
            MaxWordsPerturbed(max_percent=0.2),
        ],
        Neighbours(),
        GreedyWordSwapWIR(wir_method="gradient"),
    )
    dataset = textattack.datasets.Dataset([(row.text, row.label) for row in rows])

    def run() -> None:
        arguments = textattack.AttackArgs(
            num_examples=len(rows), disable_stdout=True, silent=True, log_to_csv=None
        )
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            results = textattack.Attacker(attack, dataset, arguments).attack_dataset()
        changed[f"textattack, padded to {padding}"] = sum(
            one.perturbed_text() != one.original_text() for one in results
        )

    return run


@dataclass(frozen=True, slots=True)
class Shape:
    """A model with random weights and the texts that it is trained on."""

    name: str
    config: Mapping[str, Any]
    batch: int
    tokens: int


SHAPES = (
    Shape("BERT-base classifier", {"model_type": "bert"}, 64, 128),
    Shape(
        "decoder of 0.5 billion parameters",
        {
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 1280,
            "intermediate_size": 3456, "num_hidden_layers": 24, "num_attention_heads": 20,
        },
        16,
        512,
    ),
)  # fmt: skip


class RandomTask:
    """As much of a task as the inner maximisation asks for, over random tokens."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        import torch
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
        )

        config = AutoConfig.for_model(**shape.config)
        self.kind = "causal" if shape.config["model_type"] == "llama" else "classifier"
        make = AutoModelForCausalLM if self.kind == "causal" else AutoModelForSequenceClassification
        torch.manual_seed(0)
        self.module = make.from_config(config).to(device)
        self.device, self._shape = device, shape
        generator = torch.Generator().manual_seed(0)
        size = (shape.batch, shape.tokens)
        self._ids = torch.randint(10, 20000, size, generator=generator).to(device)
        self._mask = torch.ones_like(self._ids)
        inner = [
            p.numel() for n, p in self.module.named_parameters() if "embed" not in n and p.dim() > 1
        ]
        self.parameters = sum(inner)
        layers, width = config.num_hidden_layers, config.hidden_size
        # Forward operations of a token: two a parameter, and the products of attention.
        self.forward_flops = 2 * self.parameters + 4 * layers * width * shape.tokens

    def batch(self) -> Any:
        """The one batch."""
        from robustlab.training.tasks import Batch

        return Batch(tuple(range(self._shape.batch)), {"ids": self._ids})

    def loss(self, batch: Any, shifts: Any = None) -> tuple[Any, Any]:
        """Cross-entropy of class 0, or of the next token."""
        from robustlab.training.tasks import shifted

        with shifted(self.module.get_input_embeddings(), shifts):
            logits = self.module(input_ids=self._ids, attention_mask=self._mask).logits
        import torch

        if self.kind == "causal":
            # The answer: the last 32 tokens, as a reader is trained.
            logits = logits[:, -33:-1].float().flatten(0, 1)
            goals = self._ids[:, -32:].flatten()
        else:
            logits, goals = logits.float(), torch.zeros_like(self._ids[:, 0])
        return torch.nn.functional.cross_entropy(logits, goals), logits

    def embeddings(self, batch: Any) -> tuple[Any, Any]:
        """Of all tokens."""
        return self.module.get_input_embeddings()(self._ids).detach(), self._mask.float()

    def embedding_norm(self) -> float:
        """As random weights have it."""
        return float(self.module.get_input_embeddings().weight.detach().float().norm(dim=1).mean())


def bench_throughput(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Examples a second, and the share of the device's peak that the model's own work is."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = next((value for part, value in PEAKS.items() if part in name), None)
    found: dict[str, Any] = {"device": name, "peak_flops": peak}
    for shape in SHAPES:
        note(f"throughput: {shape.name}")
        found[shape.name] = _rates(shape, options, device, peak)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def _rates(
    shape: Shape, options: argparse.Namespace, device: torch.device, peak: float | None
) -> dict[str, Any]:
    """Every method on one shape, optimiser's step included."""
    import torch

    from robustlab.training.families import make_method

    task: Any = RandomTask(shape, device)
    optimiser = torch.optim.AdamW(task.module.parameters(), fused=True)
    methods = {"none": 0.0, **METHODS}
    if task.kind == "causal":
        methods["continuous"] = 0.1
    rows: dict[str, Any] = {"parameters": task.parameters, "tokens": shape.tokens}
    for label, strength in methods.items():
        method = make_method(label, strength, task)
        step = update_of(task, method, task.batch(), options.bf16)

        def whole(step: Callable[[], None] = step) -> None:
            step()
            optimiser.step()

        seconds = statistics.median(in_turn({"": whole}, device, options.turns)[""])
        flops = _passes(label, method) * task.forward_flops * shape.batch * shape.tokens
        rows[label] = {
            "examples_per_second": shape.batch / seconds,
            "flops_per_second": flops / seconds,
            "utilisation": None if peak is None else flops / seconds / peak,
        }
    return rows


def _passes(name: str, method: Any) -> int:
    """An update's work in forward passes: a pass that searches costs 2, one that trains 3.

    A search needs the gradient at the input only, which costs as much as the forward pass; the
    weights' gradients cost as much again.
    """
    steps = getattr(method, "steps", 0)
    return {
        "none": 3,
        "pgd": 2 * steps + 3,
        "freelb": 3 * steps,
        "trades": 1 + 2 * steps + 6,
        "smart": 1 + 2 * steps + 6,
        "continuous": 2 * steps + 6,
    }[name]


PARTS: dict[str, Callable[[argparse.Namespace, Any], dict[str, Any]]] = {
    "inner": bench_inner,
    "bucketing": bench_bucketing,
    "a2t": bench_a2t,
    "throughput": bench_throughput,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", default=str(ROOT / "corpora" / "reviews"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--updates", type=int, default=16, help="batches in a turn of bucketing")
    parser.add_argument("--examples", type=int, default=64, help="for a2t")
    parser.add_argument("--a2t-turns", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--out", type=Path, help="where to write the JSON object besides")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]}; there are: {', '.join(PARTS)}")
    import torch

    from robustlab.models.device import resolve_device, resolve_dtype

    device = resolve_device(options.device)
    options.bf16 = resolve_dtype(options.dtype, device) == torch.bfloat16
    parts = options.parts or [p for p in PARTS if p != "throughput" or device.type == "cuda"]
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "bf16": options.bf16,
    }
    for part in parts:
        note(f"{part} …")
        found[part] = PARTS[part](options, device)
    text = json.dumps(found, indent=2)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
