"""Training a classifier: the built-in one, or any in Hugging Face's layout."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustlab.attack.examples import texts_of
from robustlab.data.labelled import load_labelled
from robustlab.data.records import LabelledExample, LabelledSet
from robustlab.data.splits import sample
from robustlab.defense.protocols import QuestionDefense
from robustlab.defense.repaired import repaired
from robustlab.errors import UserError
from robustlab.models.labels import align_labels
from robustlab.models.quiet import quiet_transformers
from robustlab.training.adapters import adapt, is_mergeable, merged, plain, save_adapter
from robustlab.training.embedding import Ball, ascend
from robustlab.training.families import FAMILIES, Judged, JudgePlan, TaskPlan
from robustlab.training.tasks import Batch, bucketed, shifted

if TYPE_CHECKING:
    import torch

    from robustlab.attack.campaign import Campaign
    from robustlab.attack.recipe import Recipe
    from robustlab.models.classifier import ClassifierTarget
    from robustlab.models.target import Target, TextInput

__all__ = ["ClassifierTask", "SuiteJudge", "load_task", "make_judge"]

_LONGEST = 512
"""Longer texts are cut, where the model itself allows more."""

_VALIDATION_BATCH = 128
_VALIDATION_RADIUS, _VALIDATION_STEPS = 0.1, 3
"""At this radius about half of what the built-in classifier gets right is left at first."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokenised texts, end to end on the device, so that a batch is gathered there."""

    ids: torch.Tensor
    types: torch.Tensor
    free: torch.Tensor
    """Float32: 1 at tokens that an adversary may shift."""
    starts: torch.Tensor
    lengths: tuple[int, ...]
    device_lengths: torch.Tensor


class ClassifierTask:
    """A sequence classifier and the labelled examples that it is trained on.

    Its measures are ``accuracy`` on the validation examples, and ``robust_accuracy``: right as
    well under a short ascent in embedding space, the same for every method, by which robust
    overfitting shows.

    Args:
        source: the model to begin with, in fp32; its module is adapted and trained in place.
        train: examples with labels by the model's own numbers.
        validation: likewise.
        plan: adapters, size of batches and seed.
        repairs: what every text goes through before the model reads it.
    """

    kind = "classifier"
    measure = "accuracy"

    def __init__(
        self,
        source: ClassifierTarget,
        train: Sequence[LabelledExample],
        validation: Sequence[LabelledExample],
        plan: TaskPlan,
        repairs: Sequence[QuestionDefense] = (),
    ) -> None:
        self._repairs = tuple(repairs)
        self._tokenizer = source.tokenizer
        self._limit = min(source.limit, _LONGEST)
        self._config = source.model.config
        self._reads_types = getattr(self._config, "type_vocab_size", 0) > 1
        self._pad_id: int = self._config.pad_token_id or 0
        self._plan = plan
        heads = _heads(source.model)
        self._module = adapt(source.model, plan.peft, heads=heads, seed=plan.seed)
        self._module.to(plan.device)
        self._examples = tuple(train)
        self._validation = tuple(validation)
        self._train_tokens = self._tokenised([example.contents for example in train])
        self._labels = self._label_tensor(train)
        self._validation_tokens = self._tokenised([one.contents for one in validation])
        self._validation_labels = self._label_tensor(validation)

    @property
    def module(self) -> torch.nn.Module:
        """The classifier with its adapters."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._plan.device

    @property
    def plan(self) -> TaskPlan:
        """What it was made from."""
        return self._plan

    @property
    def tokenizer(self) -> Any:
        """What splits its texts into tokens."""
        return self._tokenizer

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the training examples."""
        return [example.id for example in self._examples]

    @property
    def examples(self) -> Sequence[LabelledExample]:
        """The training examples, labels by the model's own numbers."""
        return self._examples

    @property
    def validation(self) -> Sequence[LabelledExample]:
        """The validation examples, likewise."""
        return self._validation

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """What requires a gradient."""
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    def batches(self, seed: int, epoch: int) -> Sequence[Sequence[int]]:
        """Rows of an epoch's batches, by length in tokens."""
        return bucketed(self._train_tokens.lengths, self._plan.batch_size, seed, epoch)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Gather examples from the tokens that are on the device already."""
        return self._gathered(self._train_tokens, self._labels, rows, tuple(rows))

    def texts(self, batch: Batch) -> Sequence[TextInput]:
        """The texts, or pairs of them."""
        return [self._examples[row].contents for row in batch.rows]

    def perturbed(self, batch: Batch, texts: Sequence[TextInput]) -> Batch:
        """The same labels on other texts."""
        tokens = self._tokenised(texts)
        return self._gathered(tokens, batch.inputs["labels"], range(len(texts)), batch.rows)

    def loss(
        self, batch: Batch, shifts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy, and logits (B, classes)."""
        from torch.nn import functional

        logits = self._logits(batch, shifts)
        return functional.cross_entropy(logits, batch.inputs["labels"]), logits

    def embeddings(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings (B, T, width), and the mask of tokens that are not special."""
        import torch

        with torch.no_grad():
            return self._input_layer(batch.inputs["input_ids"]).detach(), batch.inputs["free"]

    def embedding_norm(self) -> float:
        """Mean length of the word embeddings when training began."""
        return self._embedding_norm

    @cached_property
    def _embedding_norm(self) -> float:
        return float(self._input_layer.weight.detach().float().norm(dim=1).mean())

    def target(self) -> Target:
        """A merged, frozen copy on the same device, in bf16 where training is in bf16 too.

        It stands behind the repairs.
        """
        from robustlab.defense.repaired import RepairedClassifier
        from robustlab.models.classifier import ClassifierTarget
        from robustlab.models.device import resolve_dtype

        model = merged(self._module)
        dtype = resolve_dtype("auto", self.device)
        bare = ClassifierTarget(
            "in training", model, self._tokenizer, device=self.device, dtype=dtype
        )
        return RepairedClassifier(bare, self._repairs) if self._repairs else bare

    def validate(self) -> Mapping[str, float]:
        """``accuracy`` and ``robust_accuracy`` on the validation examples."""
        import torch
        from torch.nn import functional

        was_training = self._module.training
        self._module.eval()
        tokens = self._validation_tokens
        order = sorted(range(len(tokens.lengths)), key=lambda row: tokens.lengths[row])
        right = torch.zeros(2, device=self.device)
        for begin in range(0, len(order), _VALIDATION_BATCH):
            rows = order[begin : begin + _VALIDATION_BATCH]
            batch = self._gathered(tokens, self._validation_labels, rows, tuple(rows))
            labels = batch.inputs["labels"]

            def damage(
                shifts: torch.Tensor, batch: Batch = batch, labels: torch.Tensor = labels
            ) -> torch.Tensor:
                return functional.cross_entropy(self._logits(batch, shifts), labels)

            ball = Ball.around(self, batch, _VALIDATION_RADIUS)
            start = torch.zeros((*ball.mask.shape[:2], ball.width), device=self.device)
            worst = ascend(damage, ball, start, steps=_VALIDATION_STEPS, share=0.5)
            with torch.no_grad():
                clean = self._logits(batch, None).argmax(-1) == labels
                robust = clean & (self._logits(batch, worst).argmax(-1) == labels)
            right += torch.stack([clean.sum(), robust.sum()])
        self._module.train(was_training)
        accuracy, robust_accuracy = (right / len(order)).tolist()
        return {"accuracy": accuracy, "robust_accuracy": robust_accuracy}

    def save(self, folder: Path) -> None:
        """A folder in Hugging Face's layout; adapters that cannot be merged stand beside."""
        temporary = folder.with_name(folder.name + ".part")
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        model = plain(self._module)
        with quiet_transformers():
            model.to("cpu").save_pretrained(temporary, safe_serialization=True)
        self._tokenizer.save_pretrained(temporary)
        if not is_mergeable(self._module):
            save_adapter(self._module, temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)

    def _logits(self, batch: Batch, shifts: torch.Tensor | None) -> torch.Tensor:
        own = {"input_ids": batch.inputs["input_ids"], "attention_mask": batch.inputs["mask"]}
        if self._reads_types:
            own["token_type_ids"] = batch.inputs["types"]
        with shifted(self._input_layer, shifts):
            logits: torch.Tensor = self._module(**own).logits
        return logits.float()

    @cached_property
    def _input_layer(self) -> Any:
        module: Any = self._module
        return module.get_input_embeddings()

    def _label_tensor(self, examples: Sequence[LabelledExample]) -> torch.Tensor:
        import torch

        return torch.tensor([example.label for example in examples], device=self.device)

    def _tokenised(self, texts: Sequence[TextInput]) -> _Tokens:
        """Texts or pairs, repaired; the same limit and special tokens as the target's own."""
        import torch

        texts = repaired(self._repairs, texts)
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        seconds = [None if isinstance(text, str) else text[1] for text in texts]
        columns: list[Any] = [firsts] if None in seconds else [firsts, seconds]
        encoded = self._tokenizer(
            *columns,
            truncation=True,
            max_length=self._limit,
            return_token_type_ids=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,
        )
        rows = encoded["input_ids"]
        lengths = tuple(len(row) for row in rows)

        def flat(column: Sequence[Sequence[int]]) -> torch.Tensor:
            return torch.tensor([value for row in column for value in row])

        ends = torch.tensor(lengths).cumsum(0)
        sizes = torch.tensor(lengths)
        return _Tokens(
            ids=flat(rows).to(self.device),
            types=flat(encoded["token_type_ids"]).to(self.device),
            free=(1 - flat(encoded["special_tokens_mask"])).float().to(self.device),
            starts=(ends - sizes).to(self.device),
            lengths=lengths,
            device_lengths=sizes.to(self.device),
        )

    def _gathered(
        self, tokens: _Tokens, labels: torch.Tensor, rows: Sequence[int], numbers: tuple[int, ...]
    ) -> Batch:
        import torch

        chosen = torch.tensor(list(rows), dtype=torch.long)
        if self.device.type == "cuda":
            chosen = chosen.pin_memory()
        chosen = chosen.to(self.device, non_blocking=True)
        places = torch.arange(max(tokens.lengths[row] for row in rows), device=self.device)
        real = places < tokens.device_lengths[chosen].unsqueeze(1)
        index = (tokens.starts[chosen].unsqueeze(1) + places).where(real, 0)
        inputs = {
            "input_ids": tokens.ids[index].where(real, self._pad_id),
            "mask": real.long(),
            "types": tokens.types[index].where(real, 0),
            "free": tokens.free[index].where(real, 0.0),
            "labels": labels[chosen],
        }
        return Batch(numbers, inputs)


def _heads(model: Any) -> tuple[str, ...]:
    """Beginnings of the names of what stands on the encoder, its pooler included."""
    prefix = model.base_model_prefix
    heads = {name.partition(".")[0] + "." for name, _ in model.named_parameters()}
    heads -= {f"{prefix}."}
    if any(name.startswith(f"{prefix}.pooler.") for name, _ in model.named_parameters()):
        heads.add(f"{prefix}.pooler.")
    return tuple(sorted(heads))


def load_task(plan: TaskPlan) -> ClassifierTask:
    """The task that a plan describes.

    Raises:
        UserError: no such model or data, no validation split, or classes that do not fit.
    """
    from robustlab.models.classifier import ClassifierTarget
    from robustlab.models.load import load_target

    source = load_target(plan.spec, kind="classifier", device=str(plan.device), dtype="fp32")
    assert isinstance(source, ClassifierTarget)
    if source.model.config.is_encoder_decoder:
        raise UserError(
            f"'{plan.spec}' is an encoder-decoder classifier, which reads its input twice; "
            "training takes encoder-only and decoder-only ones"
        )
    spec = plan.data or FAMILIES["classifier"].data
    train, validation = _splits(spec, source, plan)
    for other in plan.replay:
        replayed = load_labelled(other, split="train", **_columns(plan.columns))
        own = _aligned(replayed, source, f"{replayed.name}:")
        train += sample(own, min(len(own), len(train)), plan.seed)
    return ClassifierTask(source, train, validation, plan, _repairs(spec, source, plan))


def _repairs(spec: str, source: Target, plan: TaskPlan) -> list[QuestionDefense]:
    """The defences of a plan, which learn from the training split as those of an attack do.

    Raises:
        UserError: a defence that repairs no texts.
    """
    from robustlab.defense import load_defense

    def texts() -> list[str]:
        return texts_of(load_labelled(spec, split="train", **_columns(plan.columns)))

    repairs = []
    for name in plan.defense:
        defense = load_defense(name, source, texts=texts, seed=plan.seed)
        if not isinstance(defense, QuestionDefense):
            raise UserError(
                f"the defence {defense.name} repairs no texts, and a classifier is trained behind "
                "repairs alone"
            )
        repairs.append(defense)
    return repairs


def _splits(
    spec: str, source: Target, plan: TaskPlan
) -> tuple[tuple[LabelledExample, ...], tuple[LabelledExample, ...]]:
    """Training and validation examples; the split that models are judged on is neither."""
    columns = _columns(plan.columns)
    train = _aligned(load_labelled(spec, split="train", **columns), source)
    judged = load_labelled(spec, **columns)
    if judged.split == "test":
        try:
            found = load_labelled(spec, split="validation", **columns)
        except UserError as error:
            raise UserError(f"{spec} has no validation split, which training needs") from error
        validation = _aligned(found, source)
    elif judged.split == "validation":
        # Models are judged on it, so that another part has to tell when to stop.
        validation = sample(train, max(1, len(train) // 10), 0)
        held = {example.id for example in validation}
        train = tuple(example for example in train if example.id not in held)
    else:
        raise UserError(f"{spec} has no validation split, which training needs")
    limit = plan.limit_validation
    return (
        sample(train, plan.limit_train, 0),
        sample(validation, min(limit, len(validation)) if limit else None, 0),
    )


def _aligned(
    labelled: LabelledSet, source: Target, prefix: str = ""
) -> tuple[LabelledExample, ...]:
    """The examples with labels by the model's own numbers."""
    classes = align_labels(labelled.label_names, source)
    return tuple(
        LabelledExample(prefix + one.id, one.text, classes[one.label], one.text_pair)
        for one in labelled.examples
    )


def _columns(columns: Mapping[str, str]) -> dict[str, Any]:
    return dict(columns)


class SuiteJudge:
    """Attacks every classifier afresh with the same suite of recipes on the same examples.

    The recipes take turns, and each attacks only what those before it left standing, as AutoAttack
    does (Croce & Hein 2020, arXiv:2003.01690): robust accuracy under the suite is the same as if
    all had attacked everything, at a fraction of the queries. What a recipe does by itself,
    ``robustlab attack`` says. Recipes that the model was trained against come last, where they have
    no part in the verdict of the others; those that no text realises attack everything.
    """

    def __init__(self, plan: JudgePlan) -> None:
        from robustlab.attack.suite import load_recipes

        self._plan = plan
        self._suite = plan.suite or "standard"
        self._recipes = load_recipes([self._suite])
        self._embedded = tuple(r.name for r in self._recipes if r.search.kind == "pgd")
        if set(self.attacks) <= {*self._embedded, *plan.trained_against}:
            found = ", ".join(sorted(plan.trained_against & set(self.attacks)))
            raise UserError(
                f"{self._suite} has no attack on text but what the models are trained against"
                f"{f' ({found})' if found else ''}: choose another --suite"
            )

    @property
    def name(self) -> str:
        """The suite, and what it goes through."""
        repairs = " and ".join(self._plan.defense)
        return f"{self._suite}, behind {repairs}" if repairs else self._suite

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the recipes."""
        return tuple(recipe.name for recipe in self._recipes)

    def judge(self, spec: str, folder: Path) -> Judged:
        """Attack a model with the whole suite; interrupted runs in ``folder`` go on."""
        campaigns = _Campaigns(self._plan, self._recipes, spec, folder)
        against = self._plan.trained_against
        texts = [name for name in self.attacks if name not in self._embedded]
        texts.sort(key=lambda name: name in against)
        clean: dict[str, bool] = {}
        truths: dict[str, str] = {}
        standing: dict[str, bool] = {}
        robust: dict[str, bool] = {}
        attacks: dict[str, Mapping[str, bool]] = {}
        for name in texts:
            left = {key for key, stands in standing.items() if stands}
            if left or not standing:
                for outcome in campaigns.outcomes(name, left if standing else None):
                    key, status = outcome["id"], outcome["status"]
                    standing[key] = status in ("failed", "error")
                    if status != "error":
                        clean[key] = status != "skipped"
                        truths[key] = outcome["truth"]
            attacks[name] = dict(standing)
            if name not in against:
                robust = dict(standing)
        for name in self._embedded:
            outcomes = campaigns.outcomes(name, None)
            attacks[name] = {o["id"]: o["status"] == "failed" for o in outcomes}
        # An example that no attack on text could read is left out.
        return Judged(
            clean=clean,
            robust={key: robust[key] for key in clean},
            attacks={
                name: {key: right for key, right in verdicts.items() if key in clean}
                for name, verdicts in attacks.items()
            },
            embedded=self._embedded,
            in_turn=len(texts) > 1,
            constant=max(Counter(truths.values()).values()) / len(truths) if truths else None,
        )


@dataclass(frozen=True)
class _Campaigns:
    """The attacks on one model, each a run of its own; the model is loaded once, if at all."""

    plan: JudgePlan
    recipes: Sequence[Recipe]
    spec: str
    folder: Path

    def outcomes(self, name: str, only: Collection[str] | None) -> Sequence[Mapping[str, Any]]:
        """What became of the examples, or of those whose ids are named; attacked if need be."""
        from robustlab.attack.suite import opened_runs, run_campaigns
        from robustlab.runs import RunDirectory

        place = self.folder / name
        begun = (place / "manifest.json").is_file()
        if not (begun and RunDirectory.open(place).is_complete):
            campaign = self._loaded[name]
            if only is not None:
                every = campaign.examples.examples
                campaign = campaign.variant(examples=[one for one in every if one.id in only])
            arguments = {**self._arguments, "recipe": name, "only": only}
            with opened_runs(
                place, {name: campaign}, suite=None, arguments=arguments, resume=begun
            ) as (run, runs):
                run_campaigns(run, {name: campaign}, runs)
        return RunDirectory.open(place).outcomes()

    @cached_property
    def _loaded(self) -> Mapping[str, Campaign]:
        from robustlab.attack.entry import load_campaigns
        from robustlab.defense import defend

        return load_campaigns(self.recipes, defend=defend, **self._arguments)

    @property
    def _arguments(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "target_spec": self.spec,
            "data_spec": plan.data or FAMILIES["classifier"].data,
            "limit": plan.limit,
            "seed": plan.seed,
            "device": plan.device,
            "dtype": plan.dtype,
            "columns": plan.columns,
            "defense": plan.defense,
        }


def make_judge(plan: JudgePlan) -> SuiteJudge:
    """The judge of classifiers.

    Raises:
        UserError: no such suite, or one of nothing but what the models are trained against.
    """
    return SuiteJudge(plan)
