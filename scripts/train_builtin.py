#!/usr/bin/env python3
"""Train the small parameter files of the built-in models from stated data and seed.

    python scripts/train_builtin.py seq2seq --data ../shared/data --work build/seq2seq
    python scripts/train_builtin.py causal --data ../shared/data --work build/causal \\
        --warm-start build/seq2seq
    python scripts/train_builtin.py classifier --data ../shared/data --work build/classifier

Each run checkpoints into ``--work`` and goes on from there when started again. At the end the
parameters are written as fp16 safetensors with a ``.json`` card beside them, into ``--out``
(default: where the package ships them), so that a longer or better run replaces the files
without a change of code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

LORA_TARGETS = r"encoder\.\d+\.(attention\.(query|key|value|output)|up|down)"


@dataclass(frozen=True)
class ReaderPlan:
    """Everything that decides what a reader becomes, apart from the data."""

    kind: str
    seed: int
    rank: int
    read_steps: int
    retrieve_steps: int
    batch_tokens: int
    learning_rate: float
    warmup: int = 100


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class StagedData:
    """The weighted sources of each stage, loaded when the stage begins."""

    def __init__(self, args: argparse.Namespace, tokenizer: Any) -> None:
        self._args = args
        self._tokenizer = tokenizer
        self._loaded: dict[str, Any] = {}
        self.card: dict[str, dict[str, Any]] = {}

    def stage(self, name: str) -> Any:
        """Sources of ``read`` (SQuAD and the field guide) or ``retrieve`` (the almanac too)."""
        from reading_examples import ReadingData

        folders = {
            "squad-1k": (self._args.data / "squad-1k", 0.32),
            "squad-more": (self._args.data / "squad-more", 0.48),
            "fieldguide": (ROOT / "corpora" / "fieldguide", 0.08),
        }
        if name == "retrieve":
            folders["almanac"] = (self._almanac(), 0.2)
        weighted = [(self._source(key, path), share) for key, (path, share) in folders.items()]
        self.card[name] = {key: share for key, (_, share) in folders.items()}
        return ReadingData(weighted, self._tokenizer, self._args.seed)

    def _almanac(self) -> Path:
        from make_almanac import main as make_almanac

        folder: Path = self._args.work / "almanac"
        if not folder.exists():
            size, seed = str(self._args.almanac), str(self._args.seed)
            make_almanac(["--passages", size, "--seed", seed, "--out", str(folder)])
        return folder

    def _source(self, name: str, folder: Path) -> Any:
        from reading_examples import Source

        if name not in self._loaded:
            source = Source(folder, self._tokenizer)
            self._loaded[name] = source
            self.card[name] = {
                "passages": len(source.passages),
                "questions": len(source.items),
                "unanswerable": len(source.refused),
                "corpus_sha256": sha256(folder / "corpus.jsonl"),
            }
        return self._loaded[name]


def collate(examples: list[Any], config: Any) -> tuple[Any, Any]:
    """Token tensors (ids, answers) of a batch, padded on the right."""
    import torch

    prompts, answers = [], []
    for example in examples:
        ids = [config.cls_token_id, *example.question, config.sep_token_id]
        for passage in example.passages:
            ids += [*passage, config.sep_token_id]
        if config.model_type == "robustlab-causal":
            ids.append(config.mask_token_id)
        prompts.append(ids)
        answers.append([*example.answer, config.sep_token_id])

    def padded(rows: list[list[int]]) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [config.pad_token_id] * (width - len(row)) for row in rows])

    return padded(prompts), padded(answers)


def stream(data: Any, plan: ReaderPlan, start: int) -> Iterator[tuple[int, list[Any]]]:
    """(step, batch) from ``start`` on, the same for the same plan wherever it starts."""
    from reading_examples import batches

    step = 0
    for stage, until in (
        ("read", plan.read_steps),
        ("retrieve", plan.read_steps + plan.retrieve_steps),
    ):
        source = data.stage(stage)
        if start >= until:
            step = until
            continue
        chunk = 0
        while step < until:
            examples = source.chunk(stage, chunk, 1024)
            dice = random.Random(f"{plan.seed}:order:{stage}:{chunk}")
            chunk += 1
            for batch in batches(examples, plan.batch_tokens, dice):
                if step >= until:
                    break
                if step >= start:
                    yield step, batch
                step += 1


def pace(step: int, plan: ReaderPlan) -> float:
    """Linear warm-up, then linear decay to a fiftieth."""
    total = plan.read_steps + plan.retrieve_steps
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return max(0.02, 1 - (step - plan.warmup) / max(1, total - plan.warmup))


def write_atomically(path: Path, save: Any) -> None:
    """Let ``save`` write to a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save(temporary)
    os.replace(temporary, path)


def trained_state(model: Any) -> dict[str, Any]:
    """The trained parameters under the names the package ships, LoRA's scale folded into B."""
    state = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            state[name.replace(".default.weight", "")] = value.detach().clone()
    return state


def prepare_reader(plan: ReaderPlan, tokenizer_folder: Path, warm: Path | None) -> tuple[Any, Any]:
    """A reader on MiniLM weights with LoRA on its encoder; everything else new is trained."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from safetensors.torch import load_file

    from robustlab.models.reader import ReaderConfig, from_minilm

    config = ReaderConfig(f"robustlab-{plan.kind}")
    bert = load_file(tokenizer_folder / "model.safetensors")
    torch.manual_seed(plan.seed)
    model = from_minilm(config, bert, plan.seed)
    model.requires_grad_(False)
    # alpha equals the rank, so that the adapters' product needs no scale when it is merged.
    lora = LoraConfig(
        r=plan.rank, lora_alpha=plan.rank, target_modules=LORA_TARGETS, lora_dropout=0.0
    )
    inject_adapter_in_model(lora, model)
    for name, parameter in model.named_parameters():
        if name.startswith(("head.", "decoder.")):
            parameter.requires_grad_(True)
    if warm is not None:
        taken = torch.load(warm / "checkpoint.pt", weights_only=True)["model"]
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in taken.items():
                if name in own and own[name].shape == value.shape:
                    own[name].copy_(value)
    return model, config


def train_reader(args: argparse.Namespace) -> None:
    """Train one reader and write its parameter file and card."""
    import torch
    from transformers import AutoTokenizer

    from robustlab.resources import minilm_folder

    plan = ReaderPlan(
        args.model, args.seed, args.rank, args.read_steps, args.retrieve_steps,
        args.batch_tokens, args.learning_rate,
    )  # fmt: skip
    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    args.work.mkdir(parents=True, exist_ok=True)
    data = StagedData(args, tokenizer)
    model, config = prepare_reader(plan, folder, args.warm_start)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    print(f"{sum(p.numel() for p in trained.values()):,} trained parameters", flush=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in trained.items() if "lora_" in n or n.startswith("head.")],
             "scale": 1.0},
            {"params": [p for n, p in trained.items() if n.startswith("decoder.")], "scale": 0.5},
        ],
        lr=plan.learning_rate, weight_decay=0.01,
    )  # fmt: skip
    checkpoint = args.work / "checkpoint.pt"
    start, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        start, seconds = saved["step"], saved["seconds"]
        with torch.no_grad():
            for name, value in saved["model"].items():
                trained[name].copy_(value)
        optimizer.load_state_dict(saved["optimizer"])

    def save(step: int) -> None:
        bundle = {
            "step": step,
            "seconds": seconds + time.monotonic() - began,
            "model": {name: p.detach() for name, p in trained.items()},
            "optimizer": optimizer.state_dict(),
        }
        write_atomically(checkpoint, lambda path: torch.save(bundle, path))

    device = torch.device(args.device)
    model.to(device).train()
    began, seen, losses = time.monotonic(), 0, []
    for step, batch in stream(data, plan, start):
        ids, answers = (tensor.to(device) for tensor in collate(batch, config))
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * group["scale"] * pace(step, plan)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            log_probs = model.token_log_probs(ids, answers)
        kept = answers != config.pad_token_id
        loss = -(log_probs.float().sum() / kept.sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        seen += ids.numel()
        if (step + 1) % 25 == 0:
            passed = time.monotonic() - began
            print(
                f"step {step + 1} loss {sum(losses[-50:]) / len(losses[-50:]):.3f} "
                f"{seen / passed:.0f} tokens/s {passed / 60:.1f} min",
                flush=True,
            )
        if (step + 1) % args.save_every == 0:
            save(step + 1)
    save(plan.read_steps + plan.retrieve_steps)
    seconds += time.monotonic() - began
    if not all(math.isfinite(loss) for loss in losses):
        raise SystemExit("training diverged: a loss was not finite; nothing was written")
    card = {
        "config": asdict(config),
        "plan": asdict(plan),
        "data": data.card,
        "minutes": round(seconds / 60, 1),
        "torch": torch.__version__,
    }
    export(args.out / plan.kind, trained_state(model), card)


def export(stem: Path, state: dict[str, Any], card: dict[str, Any]) -> None:
    """Write ``stem.safetensors`` (fp16) and ``stem.json``."""
    import torch
    from safetensors.torch import save_file

    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in state.items()}
    write_atomically(stem.with_suffix(".safetensors"), lambda path: save_file(half, path))
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(
        stem.with_suffix(".json"), lambda path: path.write_text(text, encoding="utf-8")
    )
    print(f"wrote {stem}.safetensors", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=["seq2seq", "causal", "classifier"])
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2, mr, squad-…")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints; kept between runs")
    parser.add_argument("--out", type=Path, default=ROOT / "robustlab" / "models" / "weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast; pays on AMX and GPUs")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--read-steps", type=int, default=500)
    parser.add_argument("--retrieve-steps", type=int, default=700)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--almanac", type=int, default=3000, help="passages to generate")
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--warm-start", type=Path, help="another reader's --work to start from")
    args = parser.parse_args(arguments)
    train_reader(args)


if __name__ == "__main__":
    main()
