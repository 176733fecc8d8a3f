"""Training a reader: the built-in ones, or any generator in Hugging Face's layout, on a corpus.

An example is a question with a context: a gold passage among others of its neighbourhood, which is
what a retriever brings; now and then the gold passage is missing, and the right answer is
:data:`NO_ANSWER`. What poison does to a context is :mod:`robustlab.training.poison`'s business.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from robustlab.attack.examples import AttackExample
from robustlab.attack.goals import ChangeAnswer, Frame
from robustlab.data.corpus import load_corpus
from robustlab.data.records import Corpus, Passage, Question
from robustlab.data.splits import choose_split, sample
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer, exact_match
from robustlab.metrics.grounding import is_refusal
from robustlab.models.prompt import PromptTemplate, default_prompt
from robustlab.models.quiet import quiet_transformers
from robustlab.models.target import Generate, Generations
from robustlab.rag.context import build_contexts
from robustlab.training.adapters import adapt, is_mergeable, merged, plain, save_adapter
from robustlab.training.families import FAMILIES, Judged, JudgePlan, TaskPlan
from robustlab.training.poisons import KINDS, poison_texts, wrong_answers
from robustlab.training.tasks import Batch, bucketed, shifted

if TYPE_CHECKING:
    import torch

    from robustlab.models._generator import GeneratorTarget
    from robustlab.models.target import Target, TextInput

__all__ = [
    "NO_ANSWER",
    "Encoded",
    "PoisonJudge",
    "ReaderTask",
    "Reading",
    "load_task",
    "make_judge",
]

NO_ANSWER = "no answer"
"""What a reader says where no passage supports an answer."""

_MAX_NEW_TOKENS = 24
_OTHERS = ((0, 1), (1, 1), (2, 2), (3, 3), (4, 4))
"""How many passages stand beside the gold one, and how often."""

_MISSING = 0.04
"""Share of the contexts without the gold passage."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A question, its gold passages, the context that plain training shows, and its answer."""

    question: Question
    gold: tuple[Passage, ...]
    context: tuple[Passage, ...]
    answer: str


class Encoded(NamedTuple):
    """Tokens of one prompt and its answer, as the model reads them, without the end token."""

    prompt: list[int]
    answer: list[int]


class ReaderTask:
    """A generator and the questions that it is trained to answer from passages.

    Its measures on the validation questions are ``exact_match``, in clean contexts, and
    ``poisoned_exact_match`` and ``not_misled`` in contexts with the gold passage and three of
    poison; ``mean`` of the first two is what early stopping goes by.

    Args:
        source: the model to begin with, in fp32; its module is adapted and trained in place.
        train: what it is trained on.
        validation: what tells when to stop.
        plan: adapters, size of batches and seed.
    """

    measure = "mean"

    def __init__(
        self,
        source: GeneratorTarget,
        train: Sequence[Reading],
        validation: Sequence[Reading],
        plan: TaskPlan,
    ) -> None:
        self._source = source
        self._backend: Any = source.backend
        self._plan = plan
        self._template = default_prompt(cast("Target", source))
        self._builtin = not hasattr(source.backend, "end_id")
        heads = ("head.",) if self._builtin else ()
        self._module: torch.nn.Module = adapt(
            source.backend.module, plan.peft, heads=heads, seed=plan.seed
        )
        if self._builtin and not is_mergeable(self._module):
            raise UserError(
                f"--peft {plan.peft} cannot be saved with a built-in reader; use lora, ia3 or "
                "bitfit"
            )
        self._module.to(plan.device)
        self._train = tuple(train)
        self._validation = tuple(validation)
        self._encoded = self.encode(
            range(len(self._train)),
            [reading.context for reading in self._train],
            [reading.answer for reading in self._train],
        )

    @property
    def kind(self) -> str:
        """``seq2seq`` or ``causal``."""
        return self._source.kind

    @property
    def module(self) -> torch.nn.Module:
        """The reader with its adapters."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._plan.device

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the training questions."""
        return [reading.question.id for reading in self._train]

    @property
    def readings(self) -> Sequence[Reading]:
        """The training examples."""
        return self._train

    @property
    def plan(self) -> TaskPlan:
        """What it was made from."""
        return self._plan

    @property
    def tokenizer(self) -> Any:
        """What splits its texts into tokens."""
        return self._backend.tokenizer

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """What requires a gradient."""
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    def batches(self, seed: int, epoch: int) -> Sequence[Sequence[int]]:
        """Rows of an epoch's batches, by length of the prompts in tokens."""
        lengths = [len(encoded.prompt) for encoded in self._encoded]
        return bucketed(lengths, self._plan.batch_size, seed, epoch)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Put prompts and answers on the device."""
        return self.assemble(rows, self.tokens(rows))

    def encode(
        self,
        rows: Sequence[int],
        contexts: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Encoded]:
        """Tokens of training examples with other contexts, answers or questions.

        Passages that do not fit into the model are left out, the last ones first.
        """
        asked = questions or [self._train[row].question.text for row in rows]
        built = build_contexts(
            self._template,
            cast("Any", self._source),
            asked,
            contexts,
            output_tokens=[_MAX_NEW_TOKENS] * len(asked),
        )
        prompts = [context.prompt for context in built]
        ids = [prompt.ids for prompt in self._backend.encode_prompts(prompts)]
        outputs = self._backend.encode_outputs(prompts, answers)
        return [Encoded(*pair) for pair in zip(ids, outputs, strict=True)]

    def tokens(self, rows: Sequence[int]) -> list[Encoded]:
        """Training examples as plain training reads them."""
        return [self._encoded[row] for row in rows]

    def assemble(self, rows: Sequence[int], encoded: Sequence[Encoded]) -> Batch:
        """A batch of tokens that :meth:`encode` made."""
        end = self._config.sep_token_id if self._builtin else self._backend.end_id
        ids, mask = self._padded([list(one.prompt) for one in encoded])
        answers, kept = self._padded([[*one.answer, end] for one in encoded])
        inputs = {"ids": ids, "mask": mask, "answers": answers, "kept": kept}
        return Batch(tuple(rows), inputs)

    def texts(self, batch: Batch) -> Sequence[TextInput]:
        """The questions."""
        return [self._train[row].question.text for row in batch.rows]

    def perturbed(self, batch: Batch, texts: Sequence[TextInput]) -> Batch:
        """The same contexts and answers with other questions."""
        readings = [self._train[row] for row in batch.rows]
        encoded = self.encode(
            batch.rows,
            [reading.context for reading in readings],
            [reading.answer for reading in readings],
            [str(text) for text in texts],
        )
        return self.assemble(batch.rows, encoded)

    def loss(
        self, batch: Batch, shifts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over the items of the mean cross-entropy of their answers' tokens, and logits.

        The end token is one of the answer's. Logits are (answer tokens, vocabulary), item after
        item; a built-in reader's are log-probabilities of its mixture.
        """
        kept = batch.inputs["kept"].bool()
        with shifted(self._input_layer, shifts):
            if self._builtin:
                return self._reader_loss(batch, kept)
            logits = self._answer_logits(batch).float()[kept]
        return self._mean(-_picked(logits.log_softmax(-1), batch, kept), kept), logits

    def embeddings(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings of the prompt (B, T, width), and the mask of its ordinary tokens.

        Decoder-only models read the answer behind the prompt; its tokens are in T and never in
        the mask.
        """
        import torch

        ids, mask = self._read_ids(batch)
        free = torch.zeros(ids.shape, device=ids.device)
        prompt = batch.inputs["ids"]
        special = torch.isin(prompt, self._special_ids)
        free[:, : prompt.shape[1]] = (batch.inputs["mask"].bool() & ~special).float()
        with torch.no_grad():
            return self._input_layer(ids).detach(), free * mask

    def attack_examples(self, rows: Sequence[int]) -> list[AttackExample]:
        """What an adversary who writes the question wants of training examples."""
        mark = "\ue0a7"
        found = []
        for row in rows:
            reading = self._train[row]
            prompt = self._template.render(mark, reading.context)
            before, _, after = prompt.partition(mark)
            # A question that no passage answers has a right answer too.
            answers = (reading.answer, *reading.question.answers)
            if reading.answer == NO_ANSWER:
                answers = (NO_ANSWER,)
            goal = ChangeAnswer(Frame(before, after), answers, max_new_tokens=_MAX_NEW_TOKENS)
            found.append(AttackExample(reading.question.id, reading.question.text, goal, answers))
        return found

    def embedding_norm(self) -> float:
        """Mean length of the word embeddings when training began."""
        return self._embedding_norm

    @cached_property
    def _embedding_norm(self) -> float:
        return float(self._input_layer.weight.detach().float().norm(dim=1).mean())

    def target(self) -> Target:
        """A merged, frozen copy on the same device, in fp32."""
        import torch

        module = merged(self._module)
        backend: Any
        if self._builtin:
            backend = type(self._backend)(module, self._backend.tokenizer, self.device)
        else:
            backend = type(self._backend)(
                module, self._backend.tokenizer, device=self.device, dtype=torch.float32
            )
        return cast("Target", type(self._source)("in training", backend))

    def validate(self) -> Mapping[str, float]:
        """See the class."""
        target = self.target()
        clean = self._answers(target, [reading.context for reading in self._validation])
        poisoned = self._answers(target, [context for context, _ in self._poisoned])
        right = [
            _is_right(text, reading) for text, reading in zip(clean, self._validation, strict=True)
        ]
        still = [
            _is_right(text, reading)
            for text, reading in zip(poisoned, self._validation, strict=True)
        ]
        misled = [
            wrong is not None and contains_answer(text, (wrong,))
            for text, (_, wrong) in zip(poisoned, self._poisoned, strict=True)
        ]
        count = len(self._validation)
        exact, poisoned_exact = sum(right) / count, sum(still) / count
        return {
            "exact_match": exact,
            "poisoned_exact_match": poisoned_exact,
            "not_misled": 1 - sum(misled) / count,
            "mean": (exact + poisoned_exact) / 2,
        }

    def save(self, folder: Path) -> None:
        """``config.json``, safetensors and tokenizer; what cannot be merged stands beside."""
        temporary = folder.with_name(folder.name + ".part")
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        write_generator(plain(self._module).to("cpu"), self.tokenizer, temporary)
        if not is_mergeable(self._module):
            save_adapter(self._module, temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)

    @cached_property
    def _poisoned(self) -> list[tuple[tuple[Passage, ...], str | None]]:
        """Validation contexts with the gold passage, one other and three of poison."""
        wrong = wrong_answers([reading.question for reading in self._validation], 0)
        found = []
        for reading in self._validation:
            aim = wrong.get(reading.question.id)
            dice = random.Random(f"validation:{reading.question.id}")
            passages = [*reading.gold[:1], *_without(reading.context, reading.gold)[:1]]
            if aim is not None:
                kind = dice.choice(("claim", "faq", "injection"))
                texts = poison_texts(
                    kind, reading.question, aim, reading.gold, use="judge", count=3, seed=0
                )
                passages += [Passage(f"poison:{i}", "", text) for i, text in enumerate(texts)]
            dice.shuffle(passages)
            found.append((tuple(passages), aim))
        return found

    def _answers(self, target: Target, contexts: Sequence[Sequence[Passage]]) -> list[str]:
        built = build_contexts(
            self._template,
            cast("Any", target),
            [reading.question.text for reading in self._validation],
            contexts,
            output_tokens=[_MAX_NEW_TOKENS] * len(contexts),
        )
        response = target.answer(Generate(tuple(c.prompt for c in built), _MAX_NEW_TOKENS))
        assert isinstance(response, Generations)
        return list(response.texts)

    def _padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        from robustlab.models._transformers import pad_batch

        pad = self._config.pad_token_id if self._builtin else self._backend.pad_id
        return pad_batch(rows, pad, self.device)

    def _mean(self, losses: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Mean over items of the mean over their tokens, from the losses of all tokens (N,)."""
        import torch

        spread = torch.zeros(kept.shape, device=losses.device).masked_scatter(kept, losses)
        return (spread.sum(1) / kept.sum(1)).mean()

    def _reader_loss(self, batch: Batch, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A built-in reader's loss, and the log-distribution at each token of an answer."""
        import torch
        from torch.nn import functional

        reader: Any = self._module
        ids, answers = batch.inputs["ids"], batch.inputs["answers"]
        states, last, source = reader.answer_states(ids, answers)
        head, words = reader.head, reader.embedding.word.weight
        copy = head.copy_log_weights(states, last, source)
        logits = head.vocabulary_logits(states[kept], words)
        gate = head.gate(states).float().squeeze(2)[kept]
        same = (answers.unsqueeze(2) == ids.unsqueeze(1)) & source.copyable.unsqueeze(1)
        copied = copy.masked_fill(~same, -1e4).logsumexp(-1)[kept]
        said = logits.log_softmax(-1)
        picked = torch.logaddexp(
            functional.logsigmoid(gate) + copied,
            functional.logsigmoid(-gate) + _picked(said, batch, kept),
        )
        share = torch.sigmoid(gate).unsqueeze(1)
        rows = kept.nonzero()[:, 0]
        weights = copy[kept].exp() * source.copyable[rows]
        mixed = ((1 - share) * said.exp()).scatter_add(1, ids[rows], share * weights)
        return self._mean(-picked, kept), mixed.clamp_min(1e-30).log()

    def _answer_logits(self, batch: Batch) -> torch.Tensor:
        """A Hugging Face model's logits at the tokens of the answers, (B, answer tokens, V)."""
        import torch

        module: Any = self._module
        answers = batch.inputs["answers"]
        ids, mask = self._read_ids(batch)
        if self.kind == "seq2seq":
            start = torch.full_like(answers[:, :1], self._backend.start_id)
            logits: torch.Tensor = module(
                input_ids=ids,
                attention_mask=mask,
                decoder_input_ids=torch.cat([start, answers[:, :-1]], 1),
                use_cache=False,
            ).logits
            return logits
        found = module(input_ids=ids, attention_mask=mask, use_cache=False).logits
        # Virtual tokens of a prompt stand in front of what was read.
        found = found[:, found.shape[1] - ids.shape[1] :]
        lengths = batch.inputs["mask"].sum(1, keepdim=True)
        places = lengths - 1 + torch.arange(answers.shape[1], device=ids.device)
        own: torch.Tensor = found.gather(1, places.unsqueeze(2).expand(-1, -1, found.shape[2]))
        return own

    def _read_ids(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the input embedding layer is given first, and which of it is no padding."""
        import torch

        ids, mask, answers = (batch.inputs[name] for name in ("ids", "mask", "answers"))
        if self.kind == "seq2seq":
            return ids, mask
        if self._builtin:
            reader: Any = self._module
            total, _ = reader.join(ids, answers)
            return total, (total != self._config.pad_token_id).long()
        place = mask.sum(1, keepdim=True) + torch.arange(answers.shape[1], device=ids.device)
        room = torch.full_like(answers, self._backend.pad_id)
        total = torch.cat([ids, room], 1).scatter(1, place, answers)
        real = torch.cat([mask, torch.zeros_like(answers)], 1)
        return total, real.scatter(1, place, batch.inputs["kept"])

    @cached_property
    def _input_layer(self) -> Any:
        return self._backend.input_layer

    @cached_property
    def _config(self) -> Any:
        return self._module.config

    @cached_property
    def _special_ids(self) -> torch.Tensor:
        import torch

        return torch.tensor(self._backend.tokenizer.all_special_ids, device=self.device)


def write_generator(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a built-in reader or a Hugging Face generator, on the CPU, into a folder."""
    from safetensors.torch import save_file

    from robustlab.models.reader import CausalReader, Seq2SeqReader

    if isinstance(model, Seq2SeqReader | CausalReader):
        model.config.save(folder / "config.json")
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        # safetensors writes files that only their owner can read
        (folder / "model.safetensors").chmod(0o644)
    else:
        with quiet_transformers():
            model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _picked(log_probs: torch.Tensor, batch: Batch, kept: torch.Tensor) -> torch.Tensor:
    """Of (N, V) the entries of the answers' tokens, (N,)."""
    return log_probs.gather(1, batch.inputs["answers"][kept].unsqueeze(1)).squeeze(1)


def _without(passages: Sequence[Passage], gold: Sequence[Passage]) -> list[Passage]:
    own = {passage.id for passage in gold}
    return [passage for passage in passages if passage.id not in own]


def _is_right(text: str, reading: Reading) -> bool:
    return exact_match(text, reading.question.answers)


def load_task(plan: TaskPlan) -> ReaderTask:
    """The task that a plan describes.

    Raises:
        UserError: no such model or data, no training or validation split, or no question with an
            answer and a gold passage.
    """
    from robustlab.models._generator import GeneratorTarget
    from robustlab.models.load import load_target

    source = load_target(plan.spec, device=str(plan.device), dtype="fp32")
    if not isinstance(source, GeneratorTarget):
        raise UserError(f"{plan.spec} is a {source.kind}, and a reader has to generate")
    spec = plan.data or FAMILIES[source.kind].data
    train, validation = _split_readings(corpus_of(spec, plan.columns), spec, plan)
    for other in plan.replay:
        replayed = corpus_of(other, plan.columns)
        questions = replayed.questions[choose_split("train", replayed.questions, other)]
        found = readings(replayed, questions, plan.seed, prefix=f"{replayed.name}:")
        train = (*train, *_sampled(found, len(train), plan.seed))
    return ReaderTask(source, train, validation, plan)


def _split_readings(
    corpus: Corpus, spec: str, plan: TaskPlan
) -> tuple[tuple[Reading, ...], tuple[Reading, ...]]:
    questions, held = corpus_split(corpus, spec, plan)
    train = readings(corpus, questions, plan.seed)
    validation = readings(corpus, held, 0, missing=0.0)
    for name, found in (("train", train), ("validation", validation)):
        if not found:
            raise UserError(
                f"no {name} question of {spec} has both an answer and a gold passage in the corpus"
            )
    return train, validation


def corpus_split(
    corpus: Corpus, spec: str, plan: TaskPlan
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Questions to train on and to validate on; models are judged on neither.

    Raises:
        UserError: the corpus has no training or no validation split.
    """
    if "train" not in corpus.questions:
        raise UserError(f"{spec} has no train split; it has: {', '.join(corpus.questions)}")
    if "validation" not in corpus.questions:
        raise UserError(f"{spec} has no validation split, which training needs")
    questions, held = corpus.questions["train"], corpus.questions["validation"]
    if "test" not in corpus.questions:
        # Models are judged on the validation split, so another part has to tell when to stop.
        held = sample(questions, max(1, len(questions) // 10), 0)
        taken = {question.id for question in held}
        questions = tuple(question for question in questions if question.id not in taken)
    limit = plan.limit_validation
    held = sample(held, min(limit, len(held)) if limit else None, 0)
    most = plan.limit_train
    return sample(questions, min(most, len(questions)) if most else None, 0), held


def corpus_of(spec: str, columns: Mapping[str, str]) -> Corpus:
    """The corpus that a spec names, read with the columns asked for."""
    named: dict[str, Any] = dict(columns)
    return load_corpus(spec, **named)


def _sampled(items: Sequence[Reading], most: int, seed: int) -> Sequence[Reading]:
    chosen = {
        question.id
        for question in sample([item.question for item in items], min(most, len(items)), seed)
    }
    return [item for item in items if item.question.id in chosen]


def readings(
    corpus: Corpus,
    questions: Sequence[Question],
    seed: int,
    *,
    missing: float = _MISSING,
    prefix: str = "",
) -> tuple[Reading, ...]:
    """Questions with contexts: a gold passage among its neighbours and some from elsewhere.

    Only passages of these questions are shown, so that nothing of another split is seen. A share
    ``missing`` of the contexts lacks every gold passage and holds no right answer.
    """
    place = {passage.id: i for i, passage in enumerate(corpus.passages)}
    pool = sorted({place[key] for question in questions for key in question.gold if key in place})
    counts, weights = zip(*_OTHERS, strict=True)
    found = []
    for question in questions:
        gold = [place[key] for key in question.gold if key in place]
        if not gold or not question.answers:
            continue
        dice = random.Random(f"{seed}:context:{question.id}")
        chosen = dice.choice(gold)
        lacking = dice.random() < missing
        others = max(dice.choices(counts, weights)[0], 1 if lacking else 0)
        near = [i for i in pool if 0 < abs(i - chosen) <= 4]
        context = [] if lacking else [chosen]
        for _ in range(4 * others):
            if len(context) >= others + (not lacking):
                break
            other = dice.choice(near if near and dice.random() < 0.6 else pool)
            text = corpus.passages[other].contents
            if other in context or other == chosen:
                continue
            if lacking and (other in gold or contains_answer(text, question.answers)):
                continue
            context.append(other)
        dice.shuffle(context)
        text = corpus.passages[chosen].contents
        standing = [a for a in question.answers if contains_answer(text, (a,))]
        answer = NO_ANSWER if lacking else (standing or list(question.answers))[0]
        own = Question(prefix + question.id, question.text, question.answers, question.gold)
        found.append(
            Reading(
                own,
                tuple(corpus.passages[i] for i in [chosen, *(g for g in gold if g != chosen)]),
                tuple(corpus.passages[i] for i in context),
                answer,
            )
        )
    return tuple(found)


class PoisonJudge:
    """Asks every reader the same questions, over the clean corpus and over poisoned ones.

    Passages are retrieved by ``builtin:retriever`` from the whole corpus, five to a question. An
    attack adds its passages to the corpus of each question; none of them has a phrasing that
    anything was trained on. ``KIND-N`` adds N of the poison's kind; a reader withstands it if it
    does not give the wrong answer that was aimed at, and it is robust on a question that it
    answers rightly without poison and where no attack misleads it.

    ``suite``: kinds of poison separated by commas, all but ``counterfactual`` where None.
    """

    _TOP_K = 5
    _COUNTS = (1, 5)

    def __init__(self, plan: JudgePlan) -> None:
        default = [kind for kind in KINDS if kind != "counterfactual"]
        self._kinds = default if plan.suite is None else plan.suite.split(",")
        for kind in self._kinds:
            if kind not in KINDS:
                raise UserError(
                    f"there is no poison of the kind {kind!r}; there are: {', '.join(KINDS)}"
                )
        self._plan = plan

    @property
    def name(self) -> str:
        """The kinds of poison."""
        return f"poison ({', '.join(self._kinds)})"

    @property
    def attacks(self) -> tuple[str, ...]:
        """``KIND-N`` of every kind and number of passages."""
        return tuple(f"{kind}-{count}" for kind in self._kinds for count in self._COUNTS)

    def judge(self, spec: str, folder: Path) -> Judged:
        """Ask everything; what is in ``folder`` already is read instead."""
        from robustlab.models.load import load_target

        record = folder / "judged.json"
        if record.is_file():
            return _judged(json.loads(record.read_text(encoding="utf-8")))
        target = load_target(spec, device=self._plan.device, dtype=self._plan.dtype)
        template = default_prompt(target)
        questions, wrong = self._questions
        clean = self._asked(target, template, [contexts["clean"] for contexts in self._contexts])
        found: dict[str, Any] = {
            "clean": [
                exact_match(text, question.answers)
                for text, question in zip(clean, questions, strict=True)
            ],
            "attacks": {},
            "measures": {},
            "ids": [question.id for question in questions],
        }
        measures = found["measures"]
        measures["refused"] = _share([is_refusal(text) for text in clean])
        for attack in self.attacks:
            texts = self._asked(target, template, [c[attack] for c in self._contexts])
            misled = [
                contains_answer(text, (wrong[question.id],))
                for text, question in zip(texts, questions, strict=True)
            ]
            right = [
                exact_match(text, question.answers)
                for text, question in zip(texts, questions, strict=True)
            ]
            found["attacks"][attack] = [not flag for flag in misled]
            measures[f"{attack}: targeted success"] = _share(misled)
            # As PoisonedRAG counts it: among the questions that were answered rightly before.
            before = [flag for flag, well in zip(misled, found["clean"], strict=True) if well]
            measures[f"{attack}: targeted success where right before"] = _share(before)
            measures[f"{attack}: exact match"] = _share(right)
            measures[f"{attack}: refused"] = _share([is_refusal(text) for text in texts])
        folder.mkdir(parents=True, exist_ok=True)
        part = record.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        os.replace(part, record)
        return _judged(found)

    def _asked(
        self, target: Target, template: PromptTemplate, contexts: Sequence[Sequence[Passage]]
    ) -> tuple[str, ...]:
        questions, _ = self._questions
        built = build_contexts(
            template,
            cast("Any", target),
            [question.text for question in questions],
            contexts,
            output_tokens=[_MAX_NEW_TOKENS] * len(questions),
        )
        response = target.answer(Generate(tuple(c.prompt for c in built), _MAX_NEW_TOKENS))
        assert isinstance(response, Generations)
        return response.texts

    @cached_property
    def _corpus(self) -> Corpus:
        return corpus_of(self._plan.data or FAMILIES["seq2seq"].data, self._plan.columns)

    @cached_property
    def _questions(self) -> tuple[tuple[Question, ...], dict[str, str]]:
        """The questions that can be attacked, and what each attack aims at."""
        corpus = self._corpus
        split = choose_split(None, corpus.questions, corpus.name)
        every = corpus.questions[split]
        wrong = wrong_answers(every, self._plan.seed)
        known = {passage.id for passage in corpus.passages}
        able = [q for q in every if q.id in wrong and any(key in known for key in q.gold)]
        if not able:
            raise UserError(
                f"no question of {corpus.name} has both an answer and a gold passage in the corpus"
            )
        limit = self._plan.limit
        return sample(able, min(limit, len(able)) if limit else None, self._plan.seed), wrong

    @cached_property
    def _contexts(self) -> list[dict[str, tuple[Passage, ...]]]:
        """For each question what is retrieved, by attack; ``clean`` without any."""
        import numpy as np

        from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder

        encoder = SentenceEncoder.load(BUILTIN, device=self._plan.device, dtype="fp32")
        passages = self._corpus.passages
        questions, wrong = self._questions
        by_id = {passage.id: passage for passage in passages}
        poisons: list[dict[str, tuple[str, ...]]] = [
            {
                kind: poison_texts(
                    kind,
                    question,
                    wrong[question.id],
                    [by_id[key] for key in question.gold if key in by_id],
                    use="judge",
                    count=max(self._COUNTS),
                    seed=self._plan.seed,
                )
                for kind in self._kinds
            }
            for question in questions
        ]
        base = encoder.encode([passage.contents for passage in passages], role="document")
        asked = encoder.encode([question.text for question in questions], role="query")
        unique = list(dict.fromkeys(t for own in poisons for texts in own.values() for t in texts))
        added = dict(zip(unique, encoder.encode(unique, role="document"), strict=True))
        found = []
        for vector, own in zip(asked, poisons, strict=True):
            scores = base @ vector
            best = np.argsort(-scores, kind="stable")[: self._TOP_K]
            ranked = [(float(scores[i]), passages[i]) for i in best.tolist()]
            contexts = {"clean": tuple(passage for _, passage in ranked)}
            for kind, texts in own.items():
                for count in self._COUNTS:
                    extra = [
                        (float(added[text] @ vector), Passage(f"poison:{i}", "", text))
                        for i, text in enumerate(texts[:count])
                    ]
                    merged_ = sorted([*ranked, *extra], key=lambda pair: -pair[0])
                    contexts[f"{kind}-{count}"] = tuple(p for _, p in merged_[: self._TOP_K])
            found.append(contexts)
        return found


def _judged(found: Mapping[str, Any]) -> Judged:
    ids = found["ids"]
    attacks = {
        name: {
            key: bool(well and held)
            for key, well, held in zip(ids, found["clean"], verdicts, strict=True)
        }
        for name, verdicts in found["attacks"].items()
    }
    clean = dict(zip(ids, map(bool, found["clean"]), strict=True))
    robust = {key: all(verdicts[key] for verdicts in attacks.values()) for key in ids}
    return Judged(
        clean=clean,
        robust={key: clean[key] and robust[key] for key in ids},
        attacks=attacks,
        measures=found["measures"],
        words=("exact match", "exact match and never misled"),
    )


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def make_judge(plan: JudgePlan) -> PoisonJudge:
    """The judge of readers.

    Raises:
        UserError: no such kind of poison.
    """
    return PoisonJudge(plan)
