#!/usr/bin/env python3
"""Train the small parameter files of the built-in models from stated data and seed.

    python scripts/train_builtin.py seq2seq --data ../shared/data --work build/seq2seq
    python scripts/train_builtin.py causal --data ../shared/data --work build/causal \\
        --warm-start build/seq2seq --rank 64 --seed 3 --read-steps 60 --retrieve-steps 180 \\
        --adapt-steps 360 --swap 0.1 --average 0.98
    python scripts/train_builtin.py classifier --data ../shared/data --work build/first \\
        --out build/first --bf16 --rank 32 --average 0.99 --more 4400
    python scripts/train_builtin.py classifier --data ../shared/data --work build/second \\
        --out build/second --bf16 --rank 32 --average 0.99
    python scripts/average_builtin.py build/first/classifier build/second/classifier --rank 32

These commands made the files that are shipped, with what the cards note beside them. Each run
checkpoints into ``--work`` and goes on from there when started again. At the end the parameters
are written as fp16 safetensors with a ``.json`` card beside them, into ``--out`` (default: where
the package ships them), so that a longer or better run replaces the files without a change of
code.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

LORA_TARGETS = r"encoder\.\d+\.(attention\.(query|key|value|output)|up|down)"


STAGE_WEIGHTS: dict[str, dict[str, float]] = {
    "read": {"squad-1k": 0.32, "squad-more": 0.48, "fieldguide": 0.08},
    "retrieve": {"squad-1k": 0.32, "squad-more": 0.48, "fieldguide": 0.08, "almanac": 0.2},
    "adapt": {"squad-1k": 0.2, "squad-more": 0.3, "fieldguide": 0.35, "almanac": 0.15},
}
"""How often an example comes from each source; relative within a stage."""


@dataclass(frozen=True)
class ReaderPlan:
    """Everything that decides what a reader becomes, apart from the data."""

    kind: str
    seed: int
    rank: int
    read_steps: int
    retrieve_steps: int
    adapt_steps: int
    batch_tokens: int
    learning_rate: float
    dropout: float
    swap: float
    average: float
    warmup: int = 100

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return self.read_steps + self.retrieve_steps + self.adapt_steps


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
        """The sources of ``read``, ``retrieve`` or ``adapt``, weighted as that stage has them."""
        from reading_examples import ReadingData

        weights = STAGE_WEIGHTS[name]
        folders = {
            "squad-1k": (self._args.data / "squad-1k", weights["squad-1k"]),
            "squad-more": (self._args.data / "squad-more", weights["squad-more"]),
            "fieldguide": (ROOT / "corpora" / "fieldguide", weights["fieldguide"]),
        }
        if "almanac" in weights:
            folders["almanac"] = (self._almanac(), weights["almanac"])
        weighted = [(self._source(key, path), share) for key, (path, share) in folders.items()]
        self.card[f"weights of stage {name}"] = weights
        return ReadingData(weighted, self._tokenizer, self._args.seed, swap=self._args.swap)

    def validation(self) -> list[Any]:
        """What a reader in training is measured by: questions of validation splits."""
        from reading_examples import ReadingData, Source, probes

        found = []
        for folder, others in ((ROOT / "corpora" / "fieldguide", 4), (self._squad, 0)):
            source = Source(folder, self._tokenizer, split="validation")
            data = ReadingData([(source, 1.0)], self._tokenizer, 0)
            found += probes(source, data, others=others, most=300)
        return found

    @property
    def _squad(self) -> Path:
        return Path(self._args.data) / "squad-1k"

    def _almanac(self) -> Path:
        from make_almanac import make_almanac, write_almanac

        folder: Path = self._args.work / "almanac"
        if not folder.exists():
            almanac = make_almanac(self._args.almanac, self._args.seed)
            write_almanac(almanac, folder, seed=self._args.seed, split="train")
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


def stream(data: StagedData, plan: ReaderPlan, start: int) -> Iterator[list[Any]]:
    """Batches from step ``start`` on, the same for the same plan wherever it starts."""
    from reading_examples import batches

    step = 0
    for stage, until in (
        ("read", plan.read_steps),
        ("retrieve", plan.read_steps + plan.retrieve_steps),
        ("adapt", plan.total),
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
                    yield batch
                step += 1


def pace(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then linear decay to a fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.02, 1 - (step - warmup) / max(1, total - warmup))


class Fit:
    """The optimisation loop that all built-in models share, with checkpoints."""

    def __init__(self, args: argparse.Namespace, groups: dict[float, dict[str, Any]]) -> None:
        """``groups``: factor on the learning rate -> trained parameters by name."""
        import torch

        self._args = args
        self._trained = {name: p for group in groups.values() for name, p in group.items()}
        self._scales = list(groups)
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.values())} for group in groups.values()],
            lr=args.learning_rate,
            weight_decay=0.01,
        )
        self._checkpoint = args.work / "checkpoint.pt"
        averaged = self._trained.values() if args.average else ()
        self._averages = [value.detach().clone() for value in averaged]
        self.step, self.seconds = 0, 0.0
        if self._checkpoint.exists():
            saved = torch.load(self._checkpoint, weights_only=True)
            self.step, self.seconds = saved["step"], saved["seconds"]
            with torch.no_grad():
                for name, value in saved["model"].items():
                    self._trained[name].copy_(value)
                for own, value in zip(self._averages, saved["averages"], strict=True):
                    own.copy_(value)
            state = self._optimizer.state_dict()
            moments = saved["moments"]
            state["state"] = {i: moments[name] for i, name in enumerate(self._trained)}
            self._optimizer.load_state_dict(state)
        count = sum(p.numel() for p in self._trained.values())
        print(f"{count:,} trained parameters, from step {self.step}", flush=True)

    def run(
        self,
        batches: Iterable[Any],
        total: int,
        rate: Callable[[int], float],
        loss_of: Callable[[Any], Any],
    ) -> None:
        """Take one step a batch.

        ``rate`` gives the factor on the learning rate at a step, ``loss_of`` the mean loss of a
        batch; ``total`` is for the progress line.
        """
        import torch

        device = torch.device(self._args.device)
        before, began, losses = self.seconds, time.monotonic(), list[torch.Tensor]()
        decay = self._args.average
        for batch in batches:
            for group, scale in zip(self._optimizer.param_groups, self._scales, strict=True):
                group["lr"] = self._args.learning_rate * scale * rate(self.step)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._args.bf16):
                loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            self.step += 1
            if decay:
                # Young averages forget faster, so that the start does not weigh on them.
                share = 1 - min(decay, self.step / (10 + self.step))
                values = [value.detach() for value in self._trained.values()]
                torch._foreach_lerp_(self._averages, values, share)
            self.seconds = before + time.monotonic() - began
            if self.step % 25 == 0:
                losses = losses[-50:]
                mean = float(torch.stack(losses).mean())  # the only time a GPU is waited for
                if not math.isfinite(mean):
                    raise SystemExit("training diverged: a loss was not finite")
                minutes = self.seconds / 60
                print(f"step {self.step}/{total} loss {mean:.3f} {minutes:.1f} min", flush=True)
            if self.step % self._args.save_every == 0:
                self._save()
        self._save()

    def _save(self) -> None:
        import torch

        state = self._optimizer.state_dict()["state"]
        values: list[Any] = list(self._averages)
        bundle = {
            "step": self.step,
            "seconds": self.seconds,
            "model": {name: p.detach() for name, p in self._trained.items()},
            "averages": values,
            # By name, because the order of parameters is no part of a model's meaning.
            "moments": {name: state[i] for i, name in enumerate(self._trained) if i in state},
        }
        write_atomically(self._checkpoint, lambda path: torch.save(bundle, path))

    def take_averages(self) -> None:
        """Put the averages over the steps in the place of the last weights."""
        import torch

        if self._args.average:
            with torch.no_grad():
                for own, value in zip(self._trained.values(), self._averages, strict=True):
                    own.copy_(value)


def add_dropout(model: Any, share: float) -> None:
    """Drop outputs of attention and feed-forward parts in training, as BERT does."""
    import torch.nn.functional as functional

    def drop(module: Any, inputs: Any, output: Any) -> Any:
        return functional.dropout(output, share, module.training)

    for name, module in model.named_modules():
        if share and name.endswith((".output", ".down")):
            module.register_forward_hook(drop)


def exact_match(model: Any, config: Any, found: list[Any], device: Any) -> float:
    """Share of probes that are answered with the very tokens of a right answer."""
    right = 0
    model.eval()
    for start in range(0, len(found), 64):
        group = found[start : start + 64]
        ids, _ = collate([probe.example for probe in group], config)
        for probe, row in zip(
            group, model.generate(ids.to(device), 16).tokens.tolist(), strict=True
        ):
            answer = row[: row.index(config.sep_token_id)] if config.sep_token_id in row else row
            right += answer in list(probe.answers)
    model.train()
    return right / len(found)


def write_atomically(path: Path, save: Any) -> None:
    """Let ``save`` write to a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save(temporary)
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    os.replace(temporary, path)


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Write a model's card beside its parameters."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


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
                if name in own:
                    # Adapters of a lower rank fill the first rows of A and columns of B.
                    own[name][tuple(slice(size) for size in value.shape)].copy_(value)
    return model, config


def train_reader(args: argparse.Namespace) -> None:
    """Train one reader and write its parameter file and card."""
    import torch
    from transformers import AutoTokenizer

    from robustlab.resources import minilm_folder

    plan = ReaderPlan(
        args.model, args.seed, args.rank, args.read_steps, args.retrieve_steps, args.adapt_steps,
        args.batch_tokens, args.learning_rate, args.dropout, args.swap, args.average,
    )  # fmt: skip
    data = StagedData(args, AutoTokenizer.from_pretrained(minilm_folder()))
    model, config = prepare_reader(plan, minilm_folder(), args.warm_start)
    device = torch.device(args.device)
    add_dropout(model, plan.dropout)
    model.to(device).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Whole layers that start from MiniLM's weights move at half the pace of what is new.
    whole = {name: p for name, p in trained.items() if name.startswith("decoder.")}
    others = {name: p for name, p in trained.items() if name not in whole}
    fit = Fit(args, {1.0: others, 0.5: whole})

    def loss_of(batch: list[Any]) -> torch.Tensor:
        ids, answers = (tensor.to(device) for tensor in collate(batch, config))
        log_probs: torch.Tensor = model.token_log_probs(ids, answers)
        mean: torch.Tensor = -log_probs.float().sum() / (answers != config.pad_token_id).sum()
        return mean

    def rate(step: int) -> float:
        return pace(step, plan.total, plan.warmup)

    fit.run(stream(data, plan, fit.step), plan.total, rate, loss_of)
    fit.take_averages()
    match = exact_match(model, config, data.validation(), device)
    print(f"validation: exact match {match:.3f}", flush=True)
    card = {
        "config": asdict(config),
        "plan": asdict(plan),
        "warm_start": str(args.warm_start.name) if args.warm_start else None,
        "data": data.card,
        "validation_exact_match": round(match, 4),
        "device": args.device,
        "minutes": round(fit.seconds / 60, 2),
        "torch": torch.__version__,
    }
    export(args.out / plan.kind, trained_state(model), card)


@dataclass(frozen=True)
class ClassifierPlan:
    """Everything that decides what the classifier becomes, apart from the data."""

    seed: int
    rank: int
    epochs: int
    batch_tokens: int
    learning_rate: float
    average: float
    more: int | None


CLASSIFIER_SOURCES = {"sst2": 1, "mr": 1, "reviews": 2, "reviews-implied": 1, "reviews-more": 1}
"""Training sets, and how often each is seen in an epoch."""


def labelled_rows(args: argparse.Namespace, name: str, split: str) -> list[tuple[str, int]]:
    """(text, label) of one of our own sets, or of one in the data folder."""
    from robustlab.data import load_labelled

    folder = labelled_folder(args, name)
    examples = load_labelled(str(folder), split=split).examples
    return [(example.text, example.label) for example in examples]


def labelled_folder(args: argparse.Namespace, name: str) -> Path:
    """Where a labelled set lies."""
    own = ROOT / "corpora" / name
    return own if own.exists() else Path(args.data) / name


def classifier_rows(args: argparse.Namespace) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """(text, label) rows of an epoch, and what the card says of them."""
    rows: list[tuple[str, int]] = []
    said = {}
    for name, times in CLASSIFIER_SOURCES.items():
        own = labelled_rows(args, name, "train")
        if name == "reviews-more":
            own = own[: args.more]
        rows += own * times
        said[name] = {
            "examples": len(own),
            "times in an epoch": times,
            "train_sha256": sha256(labelled_folder(args, name) / "train.jsonl"),
        }
    return rows, said


def train_classifier(args: argparse.Namespace) -> None:
    """Train the sentiment classifier and write its parameter file and card."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoTokenizer

    from robustlab.models.batching import pack
    from robustlab.models.minilm import minilm_classifier
    from robustlab.resources import minilm_folder

    plan = ClassifierPlan(
        args.seed, args.rank, args.epochs, args.batch_tokens, args.learning_rate, args.average,
        args.more,
    )  # fmt: skip
    rows, said = classifier_rows(args)
    label_names = ["negative", "positive"]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    torch.manual_seed(plan.seed)
    model = minilm_classifier(minilm_folder(), label_names).requires_grad_(False)
    targets = r".*layer\.\d+\..*\.(query|key|value|dense)"
    lora = LoraConfig(r=plan.rank, lora_alpha=plan.rank, target_modules=targets, lora_dropout=0.0)
    inject_adapter_in_model(lora, model)
    for module in (model.bert.pooler, model.classifier):
        module.requires_grad_(True)
    device = torch.device(args.device)
    model.to(device).train()
    fit = Fit(args, {1.0: {name: p for name, p in model.named_parameters() if p.requires_grad}})

    ids = tokenizer([text for text, _ in rows], truncation=True, max_length=128)["input_ids"]

    def epoch(number: int) -> list[list[int]]:
        """Batches of row numbers in the order of that epoch."""
        dice = random.Random(f"{plan.seed}:{number}")
        order = list(range(len(rows)))
        dice.shuffle(order)
        groups: list[list[int]] = []
        # Packed within random blocks, so that a batch's mates differ from epoch to epoch.
        for start in range(0, len(order), 2048):
            block = order[start : start + 2048]
            packed = pack([len(ids[i]) for i in block], plan.batch_tokens)
            groups += [[block[i] for i in group] for group in packed]
        dice.shuffle(groups)
        return groups

    schedule = [group for number in range(plan.epochs) for group in epoch(number)]

    def rate(step: int) -> float:
        return pace(step, len(schedule), 50)

    def loss_of(batch: list[int]) -> torch.Tensor:
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
        labels = torch.tensor([rows[i][1] for i in batch], device=device)
        loss: torch.Tensor = model(**inputs.to(device), labels=labels).loss
        return loss

    def accuracy(name: str) -> float:
        """On the validation split of a set that is trained on."""
        model.eval()
        right = 0
        found = labelled_rows(args, name, "validation")
        for start in range(0, len(found), 128):
            texts, labels = zip(*found[start : start + 128], strict=True)
            inputs = tokenizer(
                list(texts), truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
            with torch.inference_mode():
                said_labels = model(**inputs.to(device)).logits.argmax(1).tolist()
            right += sum(map(int.__eq__, said_labels, labels))
        return round(right / len(found), 4)

    fit.run(schedule[fit.step :], len(schedule), rate, loss_of)
    fit.take_averages()
    validation = {name: accuracy(name) for name in CLASSIFIER_SOURCES}
    print(f"validation accuracy: {validation}", flush=True)
    card = {
        "label_names": label_names,
        "plan": asdict(plan),
        "data": said,
        "validation_accuracy": validation,
        "device": args.device,
        "minutes": round(fit.seconds / 60, 2),
        "torch": torch.__version__,
    }
    export(args.out / "classifier", trained_state(model), card)


def export(stem: Path, state: dict[str, Any], card: dict[str, Any]) -> None:
    """Write ``stem.safetensors`` (fp16) and ``stem.json``."""
    import torch
    from safetensors.torch import save_file

    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in state.items()}
    write_atomically(stem.with_suffix(".safetensors"), lambda path: save_file(half, path))
    write_card(stem.with_suffix(".json"), card)
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
    parser.add_argument("--bf16", action="store_true", help="autocast; pays where bf16 is native")
    parser.add_argument("--rank", type=int, help="of the adapters (readers 32, classifier 8)")
    parser.add_argument("--read-steps", type=int, default=220)
    parser.add_argument("--retrieve-steps", type=int, default=230)
    parser.add_argument("--adapt-steps", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier")
    parser.add_argument("--more", type=int, help="only so many of reviews-more (classifier)")
    parser.add_argument("--batch-tokens", type=int, help="(readers 6144, classifier 2048)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0, help="readers: in every layer")
    parser.add_argument("--swap", type=float, default=0.0, help="readers: exchanged answers")
    parser.add_argument("--average", type=float, default=0.0, help="of weights, decay per step")
    parser.add_argument("--almanac", type=int, default=3000, help="passages to generate")
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--warm-start", type=Path, help="another reader's --work to start from")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.model == "classifier":
        args.rank, args.batch_tokens = args.rank or 8, args.batch_tokens or 2048
        train_classifier(args)
    else:
        args.rank, args.batch_tokens = args.rank or 32, args.batch_tokens or 6144
        train_reader(args)


if __name__ == "__main__":
    main()
