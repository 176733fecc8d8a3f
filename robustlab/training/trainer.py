"""The outer loop: one for every family and every method of adversarial training.

Runs on ``accelerate``: one process on a CPU or a GPU, or several that ``accelerate launch`` or
``torchrun`` started, each of which takes its share of every batch. Gradients are summed over the
processes by hand, because an inner maximisation goes forward and back several times before the
optimiser steps. Nothing in a step waits for the device: losses are looked at every
:data:`CHECK_EVERY` updates.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.training.memory import PeakMemory

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from robustlab.training.inner import Maximisation
    from robustlab.training.tasks import Task

__all__ = [
    "CHECKPOINT",
    "CHECK_EVERY",
    "Epoch",
    "TrainPlan",
    "TrainResult",
    "make_accelerator",
    "train",
]

CHECK_EVERY = 25
"""Updates between two looks at the losses."""

CHECKPOINT = "checkpoint.safetensors"
"""The file of a training folder that a killed run goes on from."""

Progress = Callable[[int, int, str], None]
"""Called with updates done, updates in all and a note."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that decides the outer loop.

    ``learning_rate`` is the peak after ``warmup`` (a share of all updates), then falls to 0 along
    a cosine. ``micro_batch`` is the most items in a forward pass, None for whole batches.
    ``patience``: stop after so many epochs without a better validation measure and take the best
    epoch's weights; None trains all epochs and keeps the last, so that every model gets the same
    number of updates.
    """

    epochs: int = 3
    learning_rate: float = 2e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    bf16: bool = False
    micro_batch: int | None = None
    patience: int | None = None
    checkpoint_every: int = 50
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is known after an epoch: mean training loss and the task's validation measures."""

    number: int
    updates: int
    loss: float
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training and what it cost.

    ``forwards`` and ``backwards`` count passes over whole batches; ``seconds`` leaves out what an
    earlier, killed process spent after its last checkpoint; ``peak_bytes`` is the device's on a
    GPU, else the process's.
    """

    updates: int
    seconds: float
    forwards: float
    backwards: float
    examples: int
    peak_bytes: int
    micro_batch: int
    epochs: tuple[Epoch, ...]
    best_epoch: int
    stopped_early: bool

    def as_json(self) -> dict[str, Any]:
        """The object that stands in ``training.json``."""
        return asdict(self)


def make_accelerator(device: str) -> Accelerator:
    """The accelerator of this process, for a ``--device``.

    Raises:
        UserError: a device that is not there, or no accelerate.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UserError(
            "training needs the package accelerate: pip install 'robustlab[train]'"
        ) from error

    import torch

    from robustlab.models.device import resolve_device

    place = resolve_device(device)
    if place.index:  # accelerate takes PyTorch's current GPU, which is the first if nothing is said
        torch.cuda.set_device(place)
    return Accelerator(cpu=place.type == "cpu")


@dataclass
class _State:
    """Where a training stands; everything that is not a tensor."""

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    seconds: float = 0.0
    forwards: float = 0.0
    backwards: float = 0.0
    examples: int = 0
    micro_batch: int = 0
    loss_sum: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    epochs: list[dict[str, Any]] = field(default_factory=list)
    method: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    trained: str = ""


def train(
    task: Task,
    method: Maximisation,
    plan: TrainPlan,
    folder: Path,
    *,
    accelerator: Accelerator,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a task by a method; goes on from the checkpoint in ``folder`` if there is one.

    Args:
        task: what is trained, in place.
        method: what each update does.
        plan: the rest.
        folder: for checkpoints and logs; made if need be. The checkpoint is left there.
        accelerator: from :func:`make_accelerator`.
        progress: called now and then, on the main process.

    Raises:
        UserError: a loss that is not finite (the last good checkpoint stays), no memory for a
            single example, or a checkpoint of something else.
    """
    return _Training(task, method, plan, folder, accelerator, progress).run()


class _Training:
    def __init__(
        self,
        task: Task,
        method: Maximisation,
        plan: TrainPlan,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress | None,
    ) -> None:
        import torch

        self._task, self._method, self._plan = task, method, plan
        self._folder, self._accelerator = folder, accelerator
        self._progress = progress if accelerator.is_main_process else None
        self._trained = dict(task.trainable())
        task.embedding_norm()  # made and kept before a checkpoint changes the weights
        if not self._trained:
            raise UserError("nothing of this model is to be trained")
        self._optimizer = torch.optim.AdamW(
            _groups(self._trained, plan.weight_decay),
            lr=plan.learning_rate,
            fused=True,
        )
        self._sizes = [len(task.batches(plan.seed, epoch)) for epoch in range(plan.epochs)]
        self._total = sum(self._sizes)
        if not self._total:
            raise UserError("there is nothing to train on, or no epoch to train for")
        self._state = _State(plan=self._identity(), trained=_names(self._trained))
        self._best: dict[str, torch.Tensor] = {}
        # Losses since the last look, with the rows that they are of; on the device.
        self._recent: list[tuple[int, torch.Tensor, Sequence[int]]] = []
        self._versions: list[int] = []
        self._writer: Any = None

    def run(self) -> TrainResult:
        task, plan, state = self._task, self._plan, self._state
        self._folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self._writer = self._tensorboard()
        state = self._state
        frozen = _frozen_versions(task.module)
        memory = PeakMemory(task.device)
        begun, before = time.monotonic(), state.seconds
        stopped = _is_over(state, plan)
        while state.epoch < plan.epochs and not stopped:
            self._epoch(lambda: before + time.monotonic() - begun)
            stopped = _is_over(state, plan)
        state.seconds = before + time.monotonic() - begun
        if frozen != _frozen_versions(task.module):
            raise AssertionError("parameters that are not trained were changed")
        if plan.patience is not None:
            self._take_best()
        task.module.eval()
        if self._writer is not None:
            self._writer.close()
        return TrainResult(
            updates=state.updates,
            seconds=state.seconds,
            forwards=state.forwards,
            backwards=state.backwards,
            examples=state.examples,
            peak_bytes=memory.peak(),
            micro_batch=state.micro_batch,
            epochs=tuple(Epoch(**record) for record in state.epochs),
            best_epoch=state.best_epoch,
            stopped_early=state.epoch < plan.epochs,
        )

    def _epoch(self, seconds: Callable[[], float]) -> None:
        state, plan, task = self._state, self._plan, self._task
        batches = task.batches(plan.seed, state.epoch)
        task.module.train()
        self._versions = _versions(task.module)
        if state.batch == 0:
            if self._progress is not None:
                # What a method does before its first update can take longer than many of them.
                said = f"epoch {state.epoch + 1} of {plan.epochs} begins"
                self._progress(state.updates, self._total, said)
            self._method.begin_epoch(task, seed=plan.seed, epoch=state.epoch)
        if not task.module.training:
            raise AssertionError("the method left the module in eval mode")
        while state.batch < len(batches):
            self._step(batches[state.batch])
            state.batch += 1
            if state.updates % CHECK_EVERY == 0:
                self._look()
            if state.updates % plan.checkpoint_every == 0 and state.batch < len(batches):
                self._look()  # what is not finite must not be kept
                state.seconds, state.method = seconds(), dict(self._method.state())
                self._save()
        self._look()
        with self._autocast():
            measures = dict(task.validate())
        self._check_weights()
        loss = state.loss_sum / len(batches)
        state.epochs.append(
            {"number": state.epoch, "updates": state.updates, "loss": loss, "measures": measures}
        )
        if measures[task.measure] > state.best:
            state.best, state.best_epoch = measures[task.measure], state.epoch
            if plan.patience is not None:
                self._best = {name: p.detach().clone() for name, p in self._trained.items()}
        self._log({f"validation/{name}": value for name, value in measures.items()})
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        # Between epochs too: what is made once must not be made again from other weights.
        state.seconds, state.method = seconds(), dict(self._method.state())
        self._save()

    def _step(self, rows: Sequence[int]) -> None:
        """One update: gradients of the whole batch, then the optimiser."""
        import torch

        state = self._state
        state.micro_batch = state.micro_batch or self._plan.micro_batch or len(rows)
        while True:
            # Anew after every failure: gradients of half a batch must not stay.
            self._optimizer.zero_grad(set_to_none=True)
            try:
                loss, forwards, backwards = self._accumulate(rows)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
            if state.micro_batch <= 1:
                raise UserError(
                    f"there is not enough memory on {self._task.device} for one example at a "
                    "time; train with --peft lora, shorter texts or on another device"
                ) from None
            state.micro_batch = max(1, min(state.micro_batch, len(rows)) // 2)
            if self._task.device.type == "cuda":
                torch.cuda.empty_cache()
        self._check_weights()
        self._reduce()
        torch.nn.utils.clip_grad_norm_(self._trained.values(), self._plan.clip)
        rate = self._plan.learning_rate * _pace(state.updates, self._total, self._plan.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._versions = _versions(self._task.module)
        self._recent.append((state.updates, loss, rows))
        state.updates += 1
        state.examples += len(rows)
        state.forwards += forwards
        state.backwards += backwards

    def _accumulate(self, rows: Sequence[int]) -> tuple[torch.Tensor, float, float]:
        """Gradients of a batch in micro-batches; its loss, and passes over the whole of it."""
        import torch

        state, accelerator = self._state, self._accelerator
        own = rows[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros((), device=self._task.device)
        forwards = backwards = 0.0
        for begin in range(0, len(own), state.micro_batch):
            micro = own[begin : begin + state.micro_batch]
            share = len(micro) / len(rows)

            def backward(loss: torch.Tensor, share: float = share) -> None:
                with torch.autocast(self._task.device.type, enabled=False):
                    accelerator.backward(loss * share)

            batch = self._task.collate(micro)
            with self._autocast():
                update = self._method.update(self._task, batch, backward, seed=self._seed(micro[0]))
            total += update.loss * share
            forwards += update.forwards * share
            backwards += update.backwards * share
        return total, forwards, backwards

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self._task.device.type, torch.bfloat16, enabled=self._plan.bf16)

    def _seed(self, row: int) -> int:
        """A seed for one micro-batch of one update, whatever came before."""
        text = f"{self._plan.seed}:{self._state.updates}:{row}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    def _reduce(self) -> None:
        """Sum the gradients over the processes."""
        import torch

        if self._accelerator.num_processes == 1:
            return
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        flat: Any = self._accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), "sum")
        place = 0
        for gradient in gradients:
            gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
            place += gradient.numel()

    def _check_weights(self) -> None:
        """Between two steps of the optimiser nothing else may write to the weights."""
        if self._versions != _versions(self._task.module):
            raise AssertionError("the weights are not what the optimiser left")

    def _look(self) -> None:
        """Wait for the losses since the last look; stop where one is not finite.

        Raises:
            UserError: a loss that is not finite.
        """
        import torch

        if not self._recent:
            return
        losses = torch.stack([loss for _, loss, _ in self._recent])
        summed: Any = self._accelerator.reduce(losses, "sum")
        values = summed.tolist()
        for (update, _, rows), value in zip(self._recent, values, strict=True):
            if not math.isfinite(value):
                shown = ", ".join(str(self._task.ids[row]) for row in rows[:8])
                more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
                kept = self._folder / CHECKPOINT
                good = f"the last good checkpoint is {kept}" if kept.is_file() else "none was saved"
                raise UserError(
                    f"the loss was not finite ({value}) at update {update + 1}, on the examples "
                    f"{shown}{more}; {good}: try a lower learning rate or a lower strength"
                )
        self._recent.clear()
        self._state.loss_sum += sum(values)
        mean = sum(values) / len(values)
        self._log({"training/loss": mean})
        if self._progress is not None:
            self._progress(self._state.updates, self._total, f"loss {mean:.3f}")

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made with."""
        plan = asdict(self._plan)
        for name in ("checkpoint_every", "tensorboard", "micro_batch"):
            del plan[name]
        return {**plan, "method": self._method.name, "strength": self._method.strength}

    def _save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        import torch

        self._accelerator.wait_for_everyone()
        if not self._accelerator.is_main_process:
            return
        tensors: dict[str, torch.Tensor] = {"random.cpu": torch.get_rng_state()}
        if self._task.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._task.device)
        moments = self._optimizer.state_dict()["state"]
        for number, name in enumerate(self._ordered()):
            for key, value in moments.get(number, {}).items():
                tensors[f"moment.{key}.{name}"] = torch.as_tensor(value)
        for name, parameter in self._trained.items():
            tensors[f"weight.{name}"] = parameter.detach()
        for name, value in self._best.items():
            tensors[f"best.{name}"] = value
        _write_safetensors(
            self._folder / CHECKPOINT, tensors, {"state": json.dumps(asdict(self._state))}
        )

    def _ordered(self) -> list[str]:
        """Names of the parameters in the optimiser's order."""
        numbers = {id(p): name for name, p in self._trained.items()}
        return [numbers[id(p)] for group in self._optimizer.param_groups for p in group["params"]]

    def _resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one.

        Raises:
            UserError: it was made by another plan or from another model.
        """
        import torch
        from safetensors import SafetensorError, safe_open

        path = self._folder / CHECKPOINT
        if not path.is_file():
            torch.manual_seed(self._plan.seed)
            return
        try:
            with safe_open(path, "pt", device="cpu") as file:
                saved = _State(**json.loads((file.metadata() or {})["state"]))
                # A handle of safetensors can be asked for its keys but not iterated over.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no checkpoint of a training: {error}") from error
        mine = json.loads(json.dumps(self._identity()))
        for key, value in mine.items():
            if saved.plan.get(key) != value:
                raise UserError(
                    f"{path} is of another training: its {key} is {saved.plan.get(key)!r}, and "
                    f"here it is {value!r}"
                )
        if saved.trained != self._state.trained:
            raise UserError(f"{path} is a checkpoint of another architecture or --peft")
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[f"weight.{name}"])
        self._best = {
            name.removeprefix("best."): value.to(self._task.device)
            for name, value in tensors.items()
            if name.startswith("best.")
        }
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for number, name in enumerate(self._ordered()):
            keys = [
                key
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"moment.{key}.{name}" in tensors
            ]
            if keys:
                moments[number] = {key: tensors[f"moment.{key}.{name}"] for key in keys}
        whole = self._optimizer.state_dict()
        whole["state"] = moments
        self._optimizer.load_state_dict(whole)
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self._task.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self._task.device)
        self._state = saved
        self._method.restore(saved.method)

    def _take_best(self) -> None:
        import torch

        with torch.no_grad():
            for name, value in self._best.items():
                self._trained[name].copy_(value)

    def _tensorboard(self) -> Any:
        if not (self._plan.tensorboard and self._accelerator.is_main_process):
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs the package tensorboard: install it") from error
        return SummaryWriter(str(self._folder / "tensorboard"))

    def _log(self, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, self._state.updates)


def _groups(trained: Mapping[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and scales do not."""
    matrices = [p for p in trained.values() if p.dim() > 1]
    vectors = [p for p in trained.values() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _pace(update: int, total: int, warmup: float) -> float:
    """The factor on the learning rate: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(warmup * total))
    if update < rise:
        return (update + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (update - rise) / max(1, total - rise)))


def _is_over(state: _State, plan: TrainPlan) -> bool:
    """Whether patience is at its end."""
    return plan.patience is not None and state.epoch - 1 - state.best_epoch >= plan.patience > 0


def _versions(module: torch.nn.Module) -> list[int]:
    """How often each parameter was written to."""
    return [parameter._version for parameter in module.parameters()]


def _frozen_versions(module: torch.nn.Module) -> list[int]:
    return [p._version for p in module.parameters() if not p.requires_grad]


def _names(trained: Mapping[str, Any]) -> str:
    """A hash of the names and shapes of what is trained."""
    text = json.dumps([[name, list(p.shape)] for name, p in trained.items()])
    return hashlib.sha256(text.encode()).hexdigest()


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    """Write beside, force to the disk, rename."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
