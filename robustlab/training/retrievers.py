"""Training a sentence encoder to retrieve: the built-in one, or any of sentence-transformers.

Contrastive: the gold passage of each question against those of the other questions of its batch
(in-batch negatives, Karpukhin et al. 2020, arXiv:2004.04906) and against whatever adversarial
passages a method adds.
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
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.words import Words
from robustlab.data.records import Corpus, Passage, Question
from robustlab.data.splits import choose_split, sample
from robustlab.errors import UserError
from robustlab.models.quiet import quiet_transformers
from robustlab.training.adapters import adapt, is_mergeable, merged, plain
from robustlab.training.families import FAMILIES, Judged, JudgePlan, TaskPlan
from robustlab.training.poison import flipped_passages
from robustlab.training.poisons import poison_texts, wrong_answers
from robustlab.training.readers import corpus_of, corpus_split
from robustlab.training.tasks import Batch, bucketed, shifted
from robustlab.training.typos import mistyped

if TYPE_CHECKING:
    import torch

    from robustlab.models.target import TextInput
    from robustlab.retrieval.encoder import SentenceEncoder

__all__ = ["Pair", "RetrievalJudge", "RetrieverTask", "found_at_10", "load_task", "make_judge"]

_LONGEST = 256
_TOP_K = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and one of its gold passages."""

    question: Question
    passage: Passage


class RetrieverTask:
    """A sentence encoder and the questions whose passages it is trained to find.

    Its measures are recall@10 over the whole corpus on the validation questions, ``recall`` as they
    are and ``typo_recall`` mistyped; ``mean`` is what early stopping goes by.

    Args:
        source: the encoder to begin with, in fp32; its module is adapted and trained in place.
        train: questions with gold passages.
        validation: questions to validate on.
        corpus: the passages to find them among.
        plan: adapters, size of batches and seed.
    """

    kind = "retriever"
    measure = "mean"
    temperature = 0.05

    def __init__(
        self,
        source: SentenceEncoder,
        train: Sequence[Pair],
        validation: Sequence[Question],
        corpus: Corpus,
        plan: TaskPlan,
    ) -> None:
        self._source = source
        self._plan = plan
        self._train = tuple(train)
        self._validation = tuple(validation)
        self._corpus = corpus
        self._module: Any = adapt(source.module, plan.peft, heads=(), seed=plan.seed)
        if not is_mergeable(self._module):
            raise UserError(
                f"--peft {plan.peft} cannot be saved with a sentence encoder; use lora, ia3 or "
                "bitfit"
            )
        self._module.to(plan.device)
        passages = {pair.passage.id: pair.passage for pair in train}
        place = {key: number for number, key in enumerate(passages)}
        self._passages = self._tokenised([p.contents for p in passages.values()], "document")
        self._questions = self._tokenised([pair.question.text for pair in train], "query")
        self._place = [place[pair.passage.id] for pair in train]
        self._gold = [{place[key] for key in pair.question.gold if key in place} for pair in train]

    @property
    def module(self) -> torch.nn.Module:
        """The encoder with its adapters."""
        module: torch.nn.Module = self._module
        return module

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._plan.device

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the training questions."""
        return [pair.question.id for pair in self._train]

    @property
    def plan(self) -> TaskPlan:
        """What it was made from."""
        return self._plan

    @property
    def tokenizer(self) -> Any:
        """What splits its texts into tokens."""
        return self._source.module.tokenizer

    @property
    def pairs(self) -> Sequence[Pair]:
        """The training examples."""
        return self._train

    @property
    def corpus(self) -> Corpus:
        """The passages to find the questions' gold ones among."""
        return self._corpus

    def begun(self) -> SentenceEncoder:
        """The encoder as it was before training, loaded anew."""
        from robustlab.retrieval.encoder import SentenceEncoder

        return SentenceEncoder.load(self._plan.spec, device=str(self._plan.device), dtype="fp32")

    def embedded(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of questions (N, width) of unit length, with their gradients."""
        return self._encoded(*self._padded(self._tokenised(texts, "query")))

    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """What requires a gradient."""
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    def batches(self, seed: int, epoch: int) -> Sequence[Sequence[int]]:
        """Rows of an epoch's batches, by length of the passages, which are the longer part."""
        lengths = [len(self._passages[place]) for place in self._place]
        return bucketed(lengths, self._plan.batch_size, seed, epoch)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Questions, their passages, and which passages are none of a question's gold ones."""
        return self._batch(rows, [self._questions[row] for row in rows])

    def texts(self, batch: Batch) -> Sequence[TextInput]:
        """The questions."""
        return [self._train[row].question.text for row in batch.rows]

    def perturbed(self, batch: Batch, texts: Sequence[TextInput]) -> Batch:
        """Other questions for the same passages."""
        ids, mask = self._padded(self._tokenised([str(text) for text in texts], "query"))
        return Batch(batch.rows, {**batch.inputs, "ids": ids, "mask": mask})

    def with_negatives(self, batch: Batch, texts: Sequence[str]) -> Batch:
        """The same with further passages that are gold for nobody."""
        if not texts:
            return batch
        ids, mask = self._padded(self._tokenised(texts, "document"))
        return Batch(batch.rows, {**batch.inputs, "negative_ids": ids, "negative_mask": mask})

    def loss(
        self, batch: Batch, shifts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of the gold passages, and logits (B, candidates).

        Logits are cosines over the temperature; other gold passages of a question are no
        candidates. ``shifts`` move the questions.
        """
        import torch
        from torch.nn import functional

        own = batch.inputs
        with shifted(self._input_layer, shifts):
            questions = self._encoded(own["ids"], own["mask"])
        passages = self._encoded(own["passage_ids"], own["passage_mask"])
        logits = questions @ passages.T / self.temperature
        logits = logits.masked_fill(own["excluded"], -1e4)
        if "negative_ids" in own:
            negatives = self._encoded(own["negative_ids"], own["negative_mask"])
            logits = torch.cat([logits, questions @ negatives.T / self.temperature], 1)
        wanted = torch.arange(len(batch), device=self.device)
        return functional.cross_entropy(logits, wanted), logits

    def embeddings(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings of the questions (B, T, width), and the mask of ordinary tokens."""
        import torch

        ids = batch.inputs["ids"]
        free = batch.inputs["mask"].bool() & ~torch.isin(ids, self._special_ids)
        with torch.no_grad():
            return self._input_layer(ids).detach(), free.float()

    def embedding_norm(self) -> float:
        """Mean length of the word embeddings when training began."""
        return self._embedding_norm

    @cached_property
    def _embedding_norm(self) -> float:
        return float(self._input_layer.weight.detach().float().norm(dim=1).mean())

    def target(self) -> SentenceEncoder:
        """A merged, frozen copy on the same device, in fp32."""
        import torch

        from robustlab.retrieval.encoder import SentenceEncoder

        return SentenceEncoder(merged(self._module), "in training", dtype=torch.float32)

    def validate(self) -> Mapping[str, float]:
        """See the class."""
        encoder = self.target()
        dice = random.Random("validation typos")
        texts = [question.text for question in self._validation]
        noisy = [mistyped(text, 0.4, dice) for text in texts]
        gold = [question.gold for question in self._validation]
        base = encoder.encode([p.contents for p in self._corpus.passages], role="document")
        recalls = [
            float(
                np.mean(found_at_10(base, encoder.encode(asked, role="query"), self._corpus, gold))
            )
            for asked in (texts, noisy)
        ]
        return {"recall": recalls[0], "typo_recall": recalls[1], "mean": sum(recalls) / 2}

    def save(self, folder: Path) -> None:
        """A folder in the layout of sentence-transformers."""
        temporary = folder.with_name(folder.name + ".part")
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        with quiet_transformers():
            plain(self._module).to("cpu").save(
                str(temporary), create_model_card=False, safe_serialization=True
            )
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)

    def _batch(self, rows: Sequence[int], questions: Sequence[list[int]]) -> Batch:
        import torch

        places = [self._place[row] for row in rows]
        ids, mask = self._padded(questions)
        passage_ids, passage_mask = self._padded([self._passages[place] for place in places])
        excluded = [
            [column != number and other in self._gold[row] for column, other in enumerate(places)]
            for number, row in enumerate(rows)
        ]
        inputs = {
            "ids": ids,
            "mask": mask,
            "passage_ids": passage_ids,
            "passage_mask": passage_mask,
            "excluded": torch.tensor(excluded, device=self.device),
        }
        return Batch(tuple(rows), inputs)

    def _tokenised(self, texts: Sequence[str], role: str) -> list[list[int]]:
        """Ids with special tokens; a model's prompt for the role stands in front."""
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        prompts = self._source.module.prompts
        prompt = next((prompts[name] for name in names if name in prompts), "") or ""
        encoded = self.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=min(self._source.module.max_seq_length or _LONGEST, _LONGEST),
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    def _padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        from robustlab.models._transformers import pad_batch

        return pad_batch(rows, self.tokenizer.pad_token_id or 0, self.device)

    def _encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings of unit length, float32."""
        from torch.nn import functional

        features = {"input_ids": ids, "attention_mask": mask}
        return functional.normalize(self._module(features)["sentence_embedding"].float(), dim=-1)

    @cached_property
    def _input_layer(self) -> Any:
        inner: Any = self._module.transformers_model
        return inner.get_input_embeddings()

    @cached_property
    def _special_ids(self) -> torch.Tensor:
        import torch

        return torch.tensor(self.tokenizer.all_special_ids, device=self.device)


def load_task(plan: TaskPlan) -> RetrieverTask:
    """The task that a plan describes.

    Raises:
        UserError: no such model or data, no training or validation split, or no question with a
            gold passage.
    """
    from robustlab.models.target import Gradient
    from robustlab.retrieval.encoder import SentenceEncoder

    source = SentenceEncoder.load(plan.spec, device=str(plan.device), dtype="fp32")
    if Gradient not in source.answers:
        raise UserError(f"{plan.spec} has no transformer of its own, so it cannot be trained here")
    spec = plan.data or FAMILIES["retriever"].data
    corpus = corpus_of(spec, plan.columns)
    questions, validation = corpus_split(corpus, spec, plan)
    train = _pairs(corpus, questions)
    for other in plan.replay:
        replayed = corpus_of(other, plan.columns)
        asked = replayed.questions[choose_split("train", replayed.questions, other)]
        own = _pairs(replayed, sample(asked, min(len(asked), len(train)), plan.seed))
        train += [
            Pair(_renamed(p.question, f"{replayed.name}:"), _renamed_passage(p, replayed.name))
            for p in own
        ]
    if not train:
        raise UserError(f"no training question of {spec} has a gold passage in the corpus")
    return RetrieverTask(source, train, validation, corpus, plan)


def _pairs(corpus: Corpus, questions: Sequence[Question]) -> list[Pair]:
    """Each question with its first gold passage."""
    known = {passage.id: passage for passage in corpus.passages}
    found = []
    for question in questions:
        gold = [key for key in question.gold if key in known]
        if gold:
            found.append(Pair(question, known[gold[0]]))
    return found


def _renamed(question: Question, prefix: str) -> Question:
    gold = tuple(prefix + key for key in question.gold)
    return Question(prefix + question.id, question.text, question.answers, gold)


def _renamed_passage(pair: Pair, name: str) -> Passage:
    return Passage(f"{name}:{pair.passage.id}", pair.passage.title, pair.passage.text)


def found_at_10(
    base: NDArray[np.float32],
    questions: NDArray[np.float32],
    corpus: Corpus,
    gold: Sequence[Sequence[str]],
    added: Sequence[NDArray[np.float32]] = (),
) -> list[bool]:
    """Whether a gold passage is among the ten nearest to each question.

    ``added``: for each question the vectors of passages that stand in its corpus as well.
    """
    flags = []
    for number, vector in enumerate(questions):
        scores = base @ vector
        ahead = 0
        if added:
            own = set(gold[number])
            best = max(
                (s for s, p in zip(scores, corpus.passages, strict=True) if p.id in own),
                default=-np.inf,
            )
            ahead = int((added[number] @ vector > best).sum())
        nearest = np.argsort(-scores, kind="stable")[: max(0, _TOP_K - ahead)].tolist()
        flags.append(bool({corpus.passages[i].id for i in nearest} & set(gold[number])))
    return flags


class RetrievalJudge:
    """Searches with every retriever for the same questions: clean, mistyped and poisoned.

    A question is right where a gold passage is among the ten nearest. ``typos-N`` are draws of
    slips that no training makes: any letter instead of, before or after another, in four of ten
    longer words; ``heavy-typos-N`` the same in seven of ten. ``claim-5`` and ``edited-5`` are five
    passages as PoisonedRAG writes them for the question, in phrasings that nothing is trained on.
    ``corpus-poisoning`` are ten passages made from the gradients of the very model that is judged,
    for clusters of *training* questions (Zhong et al. 2023); its measure ``success@10`` is how
    often one of them is among the ten nearest to another question.
    """

    _DRAWS = 3
    _TYPOS: ClassVar[Mapping[str, float]] = {"typos": 0.4, "heavy-typos": 0.7}
    _CLUSTERS = 10
    _FLIPS = 90

    def __init__(self, plan: JudgePlan) -> None:
        if plan.suite is not None:
            raise UserError("retrievers are judged by one suite only; leave --suite out")
        self._plan = plan

    @property
    def name(self) -> str:
        """What the attacks together are called."""
        return "typos and poison"

    @property
    def attacks(self) -> tuple[str, ...]:
        """See the class."""
        typos = (f"{kind}-{draw}" for kind in self._TYPOS for draw in range(1, self._DRAWS + 1))
        return (*typos, "claim-5", "edited-5", "corpus-poisoning")

    def judge(self, spec: str, folder: Path) -> Judged:
        """Search for everything; what is in ``folder`` already is read instead."""
        record = folder / "judged.json"
        if not record.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            part = record.with_suffix(".part")
            part.write_text(json.dumps(self._searched(spec)), encoding="utf-8")
            os.replace(part, record)
        found = json.loads(record.read_text(encoding="utf-8"))
        ids, clean = found["ids"], found["clean"]
        attacks = {
            name: {
                key: bool(well and held)
                for key, well, held in zip(ids, clean, verdicts, strict=True)
            }
            for name, verdicts in found["attacks"].items()
        }
        return Judged(
            clean=dict(zip(ids, clean, strict=True)),
            robust={key: all(verdicts[key] for verdicts in attacks.values()) for key in ids},
            attacks=attacks,
            measures=found["measures"],
            words=("recall@10", "recall@10 under the worst attack"),
        )

    def _searched(self, spec: str) -> dict[str, Any]:
        from robustlab.retrieval.encoder import SentenceEncoder

        encoder = SentenceEncoder.load(spec, device=self._plan.device, dtype="fp32")
        corpus, (questions, training) = self._corpus, self._questions
        gold = [question.gold for question in questions]
        base = encoder.encode([p.contents for p in corpus.passages], role="document")
        texts = [question.text for question in questions]
        asked = encoder.encode(texts, role="query")
        clean = found_at_10(base, asked, corpus, gold)
        attacks: dict[str, list[bool]] = {}
        measures: dict[str, float | None] = {}
        for kind, share in self._TYPOS.items():
            for draw in range(1, self._DRAWS + 1):
                dice = random.Random(f"{self._plan.seed}:typos:{draw}")
                noisy = [_slipped(text, share, dice) for text in texts]
                vectors = encoder.encode(noisy, role="query")
                attacks[f"{kind}-{draw}"] = found_at_10(base, vectors, corpus, gold)
            draws = [np.mean(attacks[f"{kind}-{n}"]) for n in range(1, self._DRAWS + 1)]
            measures[f"{kind}: recall@10"] = float(np.mean(draws))
        wrong = wrong_answers(questions, self._plan.seed)
        by_id = {passage.id: passage for passage in corpus.passages}
        for kind in ("claim", "edited"):
            poisons = [
                poison_texts(
                    kind,
                    question,
                    wrong[question.id],
                    [by_id[key] for key in question.gold if key in by_id],
                    use="judge",
                    count=5,
                    seed=self._plan.seed,
                )
                if question.id in wrong
                else ()
                for question in questions
            ]
            vectors = encoder.encode([t for own in poisons for t in own], role="document")
            borders = np.cumsum([len(own) for own in poisons])[:-1]
            added = np.split(vectors, borders)
            attacks[f"{kind}-5"] = found_at_10(base, asked, corpus, gold, added)
            measures[f"{kind}-5: success@10"] = _intruded(base, asked, added)
        directions = _centres(
            encoder.encode([question.text for question in training], role="query"),
            min(self._CLUSTERS, len(training)),
            self._plan.seed,
        )
        passages = flipped_passages(
            encoder,
            directions,
            words=30,
            flips=self._FLIPS,
            seed=f"judge:{self._plan.seed}",
            tried=8,
        )
        vectors = encoder.encode(passages, role="document")
        added = [vectors] * len(questions)
        attacks["corpus-poisoning"] = found_at_10(base, asked, corpus, gold, added)
        measures["corpus-poisoning: success@10"] = _intruded(base, asked, added)
        ids = [question.id for question in questions]
        return {"ids": ids, "clean": clean, "attacks": attacks, "measures": measures}

    @cached_property
    def _corpus(self) -> Corpus:
        return corpus_of(self._plan.data or FAMILIES["retriever"].data, self._plan.columns)

    @cached_property
    def _questions(self) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        """Those to search for, and those that corpus poisoning is fitted on."""
        corpus, seed = self._corpus, self._plan.seed
        split = choose_split(None, corpus.questions, corpus.name)
        known = {passage.id for passage in corpus.passages}
        able = [q for q in corpus.questions[split] if any(key in known for key in q.gold)]
        if not able:
            raise UserError(f"no question of {corpus.name} has a gold passage in the corpus")
        limit = self._plan.limit
        chosen = sample(able, min(limit, len(able)) if limit else None, seed)
        others = corpus.questions.get("train", ())
        if not others:
            raise UserError(f"{corpus.name} has no train split to fit corpus poisoning on")
        return chosen, sample(others, min(1000, len(others)), seed)


def _intruded(
    base: NDArray[np.float32],
    questions: NDArray[np.float32],
    added: Sequence[NDArray[np.float32]],
) -> float:
    """Share of the questions that have an added passage among their ten nearest."""
    hits = 0
    for vector, own in zip(questions, added, strict=True):
        scores = base @ vector
        border = np.partition(scores, -_TOP_K)[-_TOP_K] if len(scores) >= _TOP_K else -np.inf
        hits += bool(len(own)) and bool((own @ vector).max() > border)
    return hits / len(questions)


def _centres(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Unit mean vectors of k-means clusters, (count, width)."""
    dice = np.random.default_rng(seed)
    centres = vectors[np.sort(dice.choice(len(vectors), count, replace=False))]
    for _ in range(20):
        nearest = (vectors @ centres.T).argmax(axis=1)
        for cluster in range(count):
            own = vectors[nearest == cluster]
            if len(own):
                centres[cluster] = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
    return centres


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _slipped(text: str, share: float, dice: random.Random) -> str:
    """As :func:`~robustlab.training.typos.mistyped`, but with letters from anywhere."""
    words = Words.of(text)
    able = [i for i, word in enumerate(words.words) if len(word) >= 4]
    if not able:
        return text
    for position in dice.sample(able, max(1, round(share * len(able)))):
        word = words.words[position]
        place = dice.randrange(len(word))
        letter = dice.choice(_LETTERS)
        before, own, after = word[:place], word[place], word[place + 1 :]
        words = words.replace(
            position,
            dice.choice(
                [before + letter + after, before + letter + own + after, before + after]
                + ([before + after[0] + own + after[1:]] if after else [])
            ),
        )
    return words.text


def make_judge(plan: JudgePlan) -> RetrievalJudge:
    """The judge of retrievers.

    Raises:
        UserError: a suite was named; there is one only.
    """
    return RetrievalJudge(plan)
