"""Smaller models from trained ones: weights rounded by torchao, and students of a teacher.

References:
    Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531
    Goldblum et al. 2020, Adversarially Robust Distillation, arXiv:1905.09747
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.models.quiet import quiet_transformers
from robustlab.training.families import TaskPlan, load_task

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from robustlab.training.inner import Maximisation
    from robustlab.training.tasks import Batch, Task
    from robustlab.training.trainer import TrainPlan

__all__ = [
    "QUANTIZED", "Taught", "distill", "kind_of_model", "needs_torchao", "quantize", "taught",
]  # fmt: skip

QUANTIZED = ("int8", "int4")
"""``int8``: each row of a weight has a scale of its own; ``int4``: each 32 weights of a row."""

_GROUP = 32

_TEACHER_SHARE = 0.5
"""Share of the teacher in a student's loss; the labels have the rest."""


def kind_of_model(spec: str) -> str:
    """``classifier``, ``seq2seq``, ``causal`` or ``retriever``.

    Raises:
        UserError: no model of these.
    """
    from robustlab.models.load import load_target

    if spec == "builtin:retriever" or (Path(spec) / "modules.json").is_file():
        return "retriever"
    return load_target(spec, device="cpu", dtype="fp32").kind


def needs_torchao() -> None:
    """Say so if the package that rounds weights is missing.

    Raises:
        UserError: it is.
    """
    if importlib.util.find_spec("torchao") is None:
        raise UserError("quantisation needs the package torchao: pip install 'robustlab[quantize]'")


def quantize(folder: Path, kind: str, out: Path) -> None:
    """Round the weights of all linear layers as torchao's weight-only quantisation does.

    What is written is a folder like the one read, with the rounded weights as ordinary numbers:
    weight-only kernels multiply by just these, so that outputs and gradients are those of the
    quantised model on every device, and every command takes it. ``quantization.json`` beside the
    weights says what was done and how many bytes the packed weights would take.

    Args:
        folder: a trained model.
        kind: one of :data:`QUANTIZED`.
        out: where to write; atomically.

    Raises:
        UserError: no such kind, no torchao, adapters that were not merged, or nothing to round.
    """
    import torch

    if kind not in QUANTIZED:
        raise UserError(f"there is no --quantize {kind}; there are: {', '.join(QUANTIZED)}")
    if (folder / "adapter").exists():
        raise UserError(
            f"{folder} has adapters that cannot be merged into its weights, so it cannot be "
            "quantised; train with --peft lora"
        )
    module, write = _opened(folder)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    rounded = _round(module, kind)
    if not rounded:
        raise UserError(f"{folder} has no linear layer whose weights could be quantised to {kind}")
    bits = 8 if kind == "int8" else 4
    scales = sum(
        weight.shape[0] * (1 if kind == "int8" else weight.shape[1] // _GROUP)
        for weight in rounded.values()
    )
    count = sum(weight.numel() for weight in rounded.values())
    card = {
        "kind": kind,
        "granularity": "row" if kind == "int8" else f"group of {_GROUP}",
        "layers": len(rounded),
        "rounded_weights": count,
        "packed_bytes": count * bits // 8 + 4 * (scales + parameters - count),
        "bytes": 4 * parameters,
        "torch": torch.__version__,
    }
    temporary = out.with_name(out.name + ".part")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    with quiet_transformers():
        write(temporary)
    text = json.dumps(card, indent=2) + "\n"
    (temporary / "quantization.json").write_text(text, encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    os.replace(temporary, out)


def _opened(folder: Path) -> tuple[Any, Callable[[Path], None]]:
    """A model in fp32 on the CPU, and what writes it again."""
    from robustlab.models._generator import GeneratorTarget
    from robustlab.models.classifier import ClassifierTarget
    from robustlab.models.load import load_target
    from robustlab.retrieval.encoder import SentenceEncoder
    from robustlab.training.readers import write_generator

    if (folder / "modules.json").is_file():
        encoder = SentenceEncoder.load(str(folder), device="cpu", dtype="fp32")
        module: Any = encoder.module
        return module, lambda place: module.save(
            str(place), create_model_card=False, safe_serialization=True
        )
    target = load_target(str(folder), device="cpu", dtype="fp32")
    if isinstance(target, GeneratorTarget):
        backend: Any = target.backend
        return backend.module, lambda place: write_generator(
            backend.module, backend.tokenizer, place
        )
    assert isinstance(target, ClassifierTarget)
    model, tokenizer = target.model, target.tokenizer

    def write(place: Path) -> None:
        model.save_pretrained(place, safe_serialization=True)
        tokenizer.save_pretrained(place)

    return model, write


def _round(module: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """Round linear layers in place; their weights by name."""
    import torch

    needs_torchao()
    from torchao.quantization import (
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        quantize_,
    )

    config: Any = Int8WeightOnlyConfig()
    if kind == "int4":
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, kind), granularity=PerGroup(_GROUP)
        )

    def fits(part: torch.nn.Module, name: str) -> bool:
        return isinstance(part, torch.nn.Linear) and (
            kind == "int8" or part.in_features % _GROUP == 0
        )

    names = [name for name, part in module.named_modules() if fits(part, name)]
    quantize_(module, config, filter_fn=fits)
    found = {}
    for name in names:
        layer: Any = module.get_submodule(name)
        weight = layer.weight.dequantize().detach().float()
        layer.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
        found[name] = layer.weight
    return found


class Taught:
    """A task whose loss is shared between its labels and a teacher.

    loss = (1 - w) · loss of the labels + w · KL(teacher ‖ student), w one half. The teacher reads
    the same batch, adversarial texts included; of a perturbation in embedding space, which belongs
    to the student's embeddings, it is spared, so that the student learns to say under attack what
    the teacher says without (Goldblum et al. 2020). Everything else is the student's.

    Args:
        student: the task to be trained.
        teacher: a task of the same kind and tokens; its module is frozen.
    """

    def __init__(self, student: Task, teacher: Task) -> None:
        self.student = student
        self._teacher = teacher
        teacher.module.eval().requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        """Whatever is not said here is the student's."""
        if name == "student":
            raise AttributeError(name)
        return getattr(self.student, name)

    def loss(
        self, batch: Batch, shifts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class; the logits are the student's."""
        import torch

        from robustlab.training.embedding import divergence

        own, logits = self.student.loss(batch, shifts)
        with torch.no_grad():
            _, wanted = self._teacher.loss(batch)
        taught_loss = divergence(wanted, logits)
        return (1 - _TEACHER_SHARE) * own + _TEACHER_SHARE * taught_loss, logits


def taught(task: Any, teacher: str) -> Taught:
    """A task that learns from a teacher besides.

    Raises:
        UserError: the teacher is of another kind, or does not read the same tokens.
    """
    plan: TaskPlan = task.plan
    kind = kind_of_model(teacher)
    if kind != task.kind:
        raise UserError(f"the teacher {teacher} is a {kind}, and what it is to teach a {task.kind}")
    # The adapters and the data of the student are no concern of the teacher's.
    own: Any = load_task(kind, replace(plan, spec=teacher, peft=None, replay=(), limit_train=1))
    if own.tokenizer.get_vocab() != task.tokenizer.get_vocab():
        raise UserError(
            f"the teacher {teacher} splits texts into other tokens than {plan.spec}, so that they "
            "cannot be compared; take a teacher with the same tokenizer"
        )
    return Taught(task, own)


def distill(
    teacher: Path,
    student: str,
    out: Path,
    task: TaskPlan,
    train: TrainPlan,
    *,
    method: Callable[[Task], Maximisation],
    accelerator: Accelerator,
) -> Mapping[str, Any]:
    """Train a student on a teacher's outputs, clean and attacked as the teacher was, and write it.

    Args:
        teacher: the trained model's folder.
        student: the model to begin with.
        out: where to write; atomically.
        task: data and sizes; its ``spec`` is the student's here, of which all parameters are
            trained.
        train: the outer loop.
        method: makes the inner maximisation for the student's task.
        accelerator: as for :func:`~robustlab.training.trainer.train`.

    Returns:
        What the training cost, as a JSON object.

    Raises:
        UserError: as for :func:`taught`.
    """
    from robustlab.training.trainer import train as run

    kind = kind_of_model(str(teacher))
    learner: Any = taught(load_task(kind, replace(task, spec=student, peft=None)), str(teacher))
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        result = run(learner, method(learner), train, Path(place), accelerator=accelerator)
    learner.save(out)
    return result.as_json()
