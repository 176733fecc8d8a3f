"""The one function behind ``robustlab advtrain``: specs in, trained models and their curve out."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.runs import RunDirectory, build_manifest, default_run_folder
from robustlab.training.adapters import PEFT_KINDS
from robustlab.training.compress import QUANTIZED, distill, needs_torchao, quantize, taught
from robustlab.training.families import (
    FAMILIES,
    METHODS,
    Judge,
    Judged,
    JudgePlan,
    TaskPlan,
    load_task,
    make_judge,
    make_method,
)
from robustlab.training.tradeoff import CONTROL, Model, curve, curve_csv
from robustlab.training.trainer import TrainPlan, make_accelerator, train

if TYPE_CHECKING:
    from accelerate import Accelerator

    from robustlab.training.inner import Maximisation
    from robustlab.training.tasks import Task

__all__ = ["DEFAULT_METHOD", "AdvtrainResult", "Progress", "advtrain", "kind_of", "strengths_of"]

DEFAULT_METHOD = {
    "classifier": "freelb",
    "seq2seq": "poison",
    "causal": "poison",
    "retriever": "typo",
}
"""How a kind of model is trained where no method is named."""

DEFAULT_STRENGTHS = "0.1,0.2,0.4"
"""Three strengths; the control is trained beside them."""

SMALL_TRAIN, SMALL_EVAL = 256, 30
"""Examples that models are trained and judged on where nothing at all is asked for: minutes, not
hours."""

MODELS = "models"
"""The folder of the models in that of the run."""

_RATES = {None: 3e-5, "bitfit": 1e-3, "prompt": 1e-2, "prefix": 1e-2, "ia3": 5e-3}
_RATE = 5e-4
"""Peak learning rates: for all parameters, for few, and for those of adapters."""

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all and a note."""


@dataclass(frozen=True, slots=True)
class AdvtrainResult:
    """A finished run; ``curve`` is what stands in ``tradeoff.json``."""

    folder: Path
    curve: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Job:
    """One model to be made."""

    method: str
    strength: float
    seed: int
    peft: str | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        strength = "" if self.method == CONTROL else f"-{self.strength:g}"
        return f"{self.method}{strength}-{self.peft or 'full'}-seed{self.seed}"


def advtrain(
    *,
    target_spec: str = "builtin:classifier",
    data_spec: str | None = None,
    method: str | None = None,
    strength: str = DEFAULT_STRENGTHS,
    seeds: int = 1,
    epochs: int = 2,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    peft: str = "lora",
    init: str | None = None,
    teacher: str | None = None,
    quantize: str | None = None,
    distill_to: str | None = None,
    probe: Sequence[str] = (),
    replay: Sequence[str] = (),
    defense: Sequence[str] = (),
    suite: str | None = None,
    option: Sequence[str] = (),
    kind: str | None = None,
    learning_rate: float | None = None,
    batch_size: int = 32,
    micro_batch: int | None = None,
    patience: int | None = None,
    tensorboard: bool = False,
    columns: Mapping[str, str | None] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    out: Path | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> AdvtrainResult:
    """Train a model at several strengths beside a control, attack each afresh, draw the curve.

    Args:
        target_spec: the model, ``builtin:NAME``, a folder or a hub id.
        data_spec: what it is trained and judged on; the kind's default if not given.
        method: a name in :data:`~robustlab.training.families.METHODS`, or several with commas
            between; by the kind if not given.
        strength: numbers with commas between; 0 is the control, which is trained in any case.
        seeds: how many models a strength, seeded from ``seed`` on.
        epochs: over the training examples.
        limit_train: the most training examples.
        limit_eval: the most examples that models are judged on.
        peft: ``lora``, ``ia3``, ``prompt``, ``prefix``, ``bitfit``, ``adapter`` or ``none``, which
            trains all parameters; or several with commas between, each with a control of its own.
        init: a model to begin with instead of the target, of the same kind.
        teacher: a robust model that the trained ones learn from besides.
        quantize: ``int8``, ``int4`` or both: judge each model so compressed as well.
        distill_to: a model that each trained one is distilled into, to be judged as well.
        probe: other data on which forgetting is measured.
        replay: other data that is mixed into the training.
        defense: repairs that every text goes through, in training and under attack, before a
            classifier reads it; the adversaries of both know them.
        suite: what judges the models; by the kind if not given.
        option: options of the methods, each ``NAME=VALUE`` or, for one of them alone,
            ``METHOD.NAME=VALUE``.
        kind: the kind of model, where its files do not tell.
        learning_rate: its peak; by ``peft`` if not given.
        batch_size: examples an update.
        micro_batch: the most examples in a forward pass.
        patience: stop after so many epochs without a better validation measure.
        tensorboard: whether to log for TensorBoard.
        columns: arguments of the loaders by name.
        seed: of the first model, and of what is judged.
        device: where to train.
        dtype: ``fp32``, or ``bf16`` autocast; ``auto`` is bf16 where the hardware is fast in it.
        out: the run directory; ``runs/advtrain-TIME`` if not given.
        resume: a run directory to continue instead, with everything else as it was.
        progress: called now and then.

    Raises:
        UserError: whatever stands in the way, before anything is trained if possible.
    """
    arguments = {name: value for name, value in locals().items() if name != "progress"}
    if out is not None and resume is not None:
        raise UserError("a run is either made with --out or continued with --resume, not both")
    if seeds < 1 or epochs < 1 or batch_size < 1:
        raise UserError("--seeds, --epochs and --batch-size must be at least 1")
    family = kind or kind_of(init or target_spec)
    if family not in FAMILIES:
        raise UserError(f"a {family} cannot be trained; these can: {', '.join(FAMILIES)}")
    if defense and family != "classifier":
        raise UserError(
            f"--defense is for training a classifier behind repairs of its text, not a {family}; "
            "robustlab attack --target rag puts defences into a pipeline"
        )
    methods = _methods_of(method or DEFAULT_METHOD[family], family)
    strengths = strengths_of(strength)
    if methods and not strengths:
        raise UserError(f"--strength {strength} trains nothing but the control")
    if data_spec is None and method is None:
        limit_train = SMALL_TRAIN if limit_train is None else limit_train
        limit_eval = SMALL_EVAL if limit_eval is None else limit_eval
    adapters = _names("--peft", peft, (*PEFT_KINDS, "none"))
    forms = _names("--quantize", quantize, QUANTIZED) if quantize else ()
    if forms:
        needs_torchao()
    options = options_of(option, methods)
    trained_against = frozenset(
        str(name) for one in methods for name in (one, options[one].get("recipe", one))
    )
    named = {name: column for name, column in (columns or {}).items() if column is not None}
    accelerator = make_accelerator(device)
    run = _Run(
        kind=family,
        methods=methods,
        options=options,
        task=TaskPlan(
            spec=init or target_spec,
            data=data_spec,
            device=accelerator.device,
            batch_size=batch_size,
            limit_train=limit_train,
            limit_validation=None,
            replay=tuple(replay),
            columns=named,
            defense=tuple(defense),
        ),
        train=TrainPlan(
            epochs=epochs,
            bf16=_is_bf16(dtype, accelerator),
            micro_batch=micro_batch,
            patience=patience,
            tensorboard=tensorboard,
        ),
        judge=make_judge(
            family,
            JudgePlan(
                data=data_spec,
                device=device,
                suite=suite,
                seed=seed,
                limit=limit_eval,
                dtype=dtype,
                columns=named,
                trained_against=trained_against,
                defense=tuple(defense),
            ),
        ),
        accelerator=accelerator,
        folder=resume or out or default_run_folder("advtrain"),
        progress=progress,
        learning_rate=learning_rate,
        teacher=teacher,
        quantize=forms,
        distill_to=distill_to,
        probe=tuple(probe),
        trained_against=trained_against,
    )
    jobs = [
        _Job(name, one, seed + number, None if adapter == "none" else adapter)
        for adapter in adapters
        for name, one in [(CONTROL, 0.0), *((name, one) for name in methods for one in strengths)]
        for number in range(seeds)
    ]
    if accelerator.is_main_process:
        directory = _directory(run.folder, arguments, run, resume is not None)
        with directory:
            before = run.probed_before()
            return _finish(directory, run, run.models(jobs), before)
    run.models(jobs)
    return AdvtrainResult(run.folder, {})


def strengths_of(text: str) -> tuple[float, ...]:
    """The strengths above 0 in a text such as ``0,0.5,1``, each once, rising.

    Raises:
        UserError: something that is no number, or below 0.
    """
    found = set()
    for part in str(text).split(","):
        try:
            value = float(part)
        except ValueError:
            raise UserError(f"--strength {text}: {part.strip()!r} is no number") from None
        if not 0 <= value < math.inf:
            raise UserError(f"--strength {text}: {part.strip()} is below 0 or not finite")
        found.add(value)
    return tuple(sorted(found - {0.0}))


def options_of(pairs: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by method from pairs ``NAME=VALUE``, for all, or ``METHOD.NAME=VALUE``.

    A value that reads as JSON is that, else text.

    Raises:
        UserError: a pair without ``=``, or for a method that is not trained by.
    """
    found: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for pair in pairs:
        place, sign, text = pair.partition("=")
        method, _, name = place.rpartition(".")
        if not sign or not name:
            raise UserError(f"--option {pair} is not of the form NAME=VALUE")
        if method and method not in found:
            raise UserError(f"--option {pair} is for {method}, which no model is trained by")
        value: Any = text
        with contextlib.suppress(ValueError):
            value = json.loads(text)
        for one in [method] if method else methods:
            found[one][name] = value
    return found


def _names(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """What stands between the commas, each once.

    Raises:
        UserError: a name that is not known.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{option} {text}: {name!r} is none of {', '.join(known)}")
    return names


def _methods_of(names: str, family: str) -> tuple[str, ...]:
    """The methods named, each once; the control, which is trained in any case, is none of them."""
    methods = _names("--method", names, tuple(METHODS))
    for name in methods:
        if family not in METHODS[name][0]:
            able = ", ".join(one for one, (kinds, _) in METHODS.items() if family in kinds)
            raise UserError(f"--method {name} does not train a {family}; these do: {able}")
    return tuple(name for name in methods if name != CONTROL)


def kind_of(spec: str) -> str:
    """The kind of the model that a spec names.

    Raises:
        UserError: no such model, or one whose files do not tell.
    """
    if spec.startswith("builtin:"):
        return spec.removeprefix("builtin:")
    folder = Path(spec).expanduser()
    if (folder / "modules.json").is_file():
        return "retriever"
    from robustlab.models.load import load_target

    return load_target(spec, device="cpu").kind


def _is_bf16(dtype: str, accelerator: Accelerator) -> bool:
    import torch

    from robustlab.models.device import resolve_dtype

    return resolve_dtype(dtype, accelerator.device) == torch.bfloat16


def _directory(folder: Path, arguments: Mapping[str, Any], run: _Run, resume: bool) -> RunDirectory:
    """The run directory, made or opened to be continued."""
    if resume:
        directory = RunDirectory.open(folder)
        if directory.manifest.get("command") != "advtrain":
            raise UserError(f"the run in {folder} is no advtrain")
        return directory
    return RunDirectory.create(
        folder,
        build_manifest(
            command="advtrain",
            arguments=arguments,
            seed=arguments["seed"],
            data={"spec": run.task.data or FAMILIES[run.kind].data},
            target={"spec": run.task.spec, "kind": run.kind, "device": str(run.task.device)},
            threat_model={"trained_by": list(run.methods), "judged_by": list(run.judge.attacks)},
        ),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What all models of a run have in common."""

    kind: str
    methods: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    task: TaskPlan
    train: TrainPlan
    judge: Judge
    accelerator: Accelerator
    folder: Path
    progress: Progress | None
    learning_rate: float | None
    teacher: str | None
    quantize: tuple[str, ...]
    distill_to: str | None
    probe: tuple[str, ...]
    trained_against: frozenset[str]

    def probed_before(self) -> dict[str, float]:
        """How the model to begin with does on the other data."""
        return self._probes(self.folder / "probes-before.json", self.task.spec)

    def models(self, jobs: Sequence[_Job]) -> list[Model]:
        """Every model of the run, trained and judged; those that are there already are read."""
        made: list[Model] = []
        for number, job in enumerate(jobs):
            made += self._model(job, number, len(jobs))
        return made

    def _model(self, job: _Job, number: int, total: int) -> list[Model]:
        place = self.folder / MODELS / job.name
        if not (place / "training.json").is_file():
            self._train(job, place, number, total)
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return []
        training = json.loads((place / "training.json").read_text(encoding="utf-8"))
        self._note(number + 0.7, total, f"{job.name}: attacking")
        found = [self._judged(job, place, place / "model", "", training)]
        for variant, folder, cost in self._variants(job, place):
            found.append(self._judged(job, place, folder, variant, cost))
        return found

    def _train(self, job: _Job, place: Path, number: int, total: int) -> None:
        task: Any = load_task(self.kind, self._task_plan(job))
        if self.teacher is not None:
            task = taught(task, self.teacher)
        method = self._method(job, task)

        def note(done: int, updates: int, said: str) -> None:
            self._note(number + 0.7 * done / updates, total, f"{job.name}: {said}")

        self._note(number, total, f"{job.name}: training")
        result = train(
            task,
            method,
            self._train_plan(job),
            place,
            accelerator=self.accelerator,
            progress=note,
        )
        if self.accelerator.is_main_process:
            task.save(place / "model")
            (place / "checkpoint.safetensors").unlink(missing_ok=True)
            _write(place / "training.json", result.as_json())

    def _method(self, job: _Job, task: Task) -> Maximisation:
        return make_method(job.method, job.strength, task, self.options.get(job.method))

    def _task_plan(self, job: _Job) -> TaskPlan:
        return replace(self.task, seed=job.seed, peft=job.peft)

    def _train_plan(self, job: _Job) -> TrainPlan:
        rate = self.learning_rate or _RATES.get(job.peft, _RATE)
        return replace(self.train, seed=job.seed, learning_rate=rate)

    def _variants(self, job: _Job, place: Path) -> list[tuple[str, Path, dict[str, Any]]]:
        """Compressed forms of a model, made where they are not there yet, and what they cost."""
        found: list[tuple[str, Path, dict[str, Any]]] = []
        for form in self.quantize:
            folder = place / form
            if not folder.is_dir():
                quantize(place / "model", form, folder)
            found.append((form, folder, {}))
        if self.distill_to is not None:
            folder, record = place / "distilled", place / "training-distilled.json"
            if not record.is_file():
                cost = distill(
                    place / "model",
                    self.distill_to,
                    folder,
                    self._task_plan(job),
                    self._train_plan(replace(job, peft=None)),
                    method=lambda task: self._method(job, task),
                    accelerator=self.accelerator,
                )
                _write(record, cost)
            found.append(("distilled", folder, json.loads(record.read_text(encoding="utf-8"))))
        return found

    def _judged(
        self, job: _Job, place: Path, model: Path, variant: str, training: Mapping[str, Any]
    ) -> Model:
        file = place / f"judged{'-' + variant if variant else ''}.json"
        if file.is_file():
            judged = _read_judged(file)
        else:
            folder = place / "attacks" / (variant or "model")
            judged = self.judge.judge(str(model), folder)
            _write(file, asdict(judged))
        return Model(
            method=job.method,
            strength=job.strength,
            seed=job.seed,
            judged=judged,
            peft=job.peft or "full",
            variant=variant,
            training=training,
            probes=self._probes(
                place / f"probes{'-' + variant if variant else ''}.json", str(model)
            ),
        )

    def _probes(self, file: Path, spec: str) -> dict[str, float]:
        """A model on the other data, read from ``file`` where that is there."""
        if not self.probe:
            return {}
        from robustlab.training.forgetting import probe

        if not file.is_file():
            _write(file, {data: probe(spec, data, self.task) for data in self.probe})
        read: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        return read

    def _note(self, done: float, total: int, said: str) -> None:
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress(round(100 * done), 100 * total, said)


def _finish(
    directory: RunDirectory, run: _Run, models: Sequence[Model], before: Mapping[str, float]
) -> AdvtrainResult:
    """The curve, its files, the summary."""
    found = curve(
        models,
        attacks=run.judge.name,
        trained_by=", ".join(run.methods),
        training_attacks=run.trained_against,
        probes_before=before,
    )
    _write(directory.path / "tradeoff.json", found)
    directory.write_file("tradeoff.csv", curve_csv(found))
    _draw(directory, found, f"{run.task.spec}, {', '.join(run.methods)}")
    if not directory.is_complete:
        directory.write_summary(
            {"sentence": found["sentence"], "points": found["points"], "models": len(models)}
        )
    return AdvtrainResult(directory.path, found)


def _draw(directory: RunDirectory, found: Mapping[str, Any], title: str) -> None:
    from robustlab.report.figures import can_draw
    from robustlab.report.tradeoff import draw_tradeoff, tradeoff_page

    png = None
    if can_draw():
        drawn = draw_tradeoff(found, title)
        for kind, content in drawn.items():
            directory.write_file(f"tradeoff.{kind}", content)
        png = drawn["png"]
    directory.write_text("report.html", tradeoff_page(found, title, png))


def _read_judged(file: Path) -> Judged:
    read = json.loads(file.read_text(encoding="utf-8"))
    return Judged(**{**read, "embedded": tuple(read["embedded"]), "words": tuple(read["words"])})


def _write(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
