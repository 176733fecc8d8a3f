"""What an adversary wants: small frozen objects that judge outputs, and guide the way there.

A goal is written for one example. It says which request decides (:meth:`Goal.question`) and reads
the verdict from the response; :meth:`Goal.look` ranks candidates by how near they are, and
:meth:`Goal.slopes` says in which direction a white-box adversary gets nearer.

Texts are the part of the input that the adversary may write. A :class:`Frame` puts them where
they stand in a generator's prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import Search
from robustlab.metrics.answers import normalise, token_f1
from robustlab.metrics.text import rouge, sentence_bleu
from robustlab.models.target import (
    Ask,
    FloatArray,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Response,
    Score,
    Scores,
    TextInput,
)

__all__ = [
    "ChangeAnswer",
    "ForceOutput",
    "Frame",
    "Goal",
    "Look",
    "Measure",
    "TargetedClassification",
    "UntargetedClassification",
    "Verdict",
]


class Verdict(NamedTuple):
    """Whether one text meets the goal, and the output that says so, as it goes into the run."""

    met: bool
    output: dict[str, Any]


class Look(NamedTuple):
    """How candidates stand.

    ``scores``: float64 (texts,), larger is nearer to the goal; comparable within an example.
    ``met``: (texts,), whether each is known to meet it.
    """

    scores: NDArray[np.float64]
    met: NDArray[np.bool_]

    @property
    def best(self) -> int:
        """Index of the first candidate that meets the goal, else of the first best score."""
        return int(self.met.argmax() if self.met.any() else self.scores.argmax())


class Goal(Protocol):
    """What is wanted of the target on one example."""

    def question(self, texts: Sequence[TextInput]) -> Predict | Generate | Ask:
        """The request whose response decides."""

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """Judge the response to :meth:`question`, text by text."""

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """Rank candidates. Costs a query a text, and more where ranking does not decide."""

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Loss and gradients, signed so that a *smaller* loss is nearer to the goal.

        Token offsets count from the start of what the target reads, the frame included.
        """

    @property
    def frame(self) -> Frame:
        """Where the texts stand in what the target reads."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The fixed text around what the adversary writes; nothing for classifiers."""

    before: str = ""
    after: str = ""

    def fill(self, text: TextInput) -> str:
        """The whole prompt."""
        if not isinstance(text, str):
            raise TypeError("a prompt frames one text, not a pair")
        return f"{self.before}{text}{self.after}"


class _Classification:
    """What both classification goals share: one Predict decides and ranks."""

    __slots__ = ()

    @property
    def frame(self) -> Frame:
        """A classifier reads the text as it is."""
        return Frame()

    def question(self, texts: Sequence[TextInput]) -> Predict:
        """One query a text."""
        return Predict(tuple(texts))

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """The most probable class, the first one of equals, decides."""
        assert isinstance(response, Predictions)
        return tuple(
            Verdict(
                self.is_met(row),
                {"label": int(row.argmax()), "probabilities": [float(value) for value in row]},
            )
            for row in response.probabilities
        )

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """Ranked by the probability of what is wanted."""
        response = yield self.question(texts)
        assert isinstance(response, Predictions)
        scores = [self.nearness(row) for row in response.probabilities]
        met = [self.is_met(row) for row in response.probabilities]
        return Look(np.array(scores, dtype=np.float64), np.array(met, dtype=bool))

    def is_met(self, probabilities: FloatArray) -> bool:
        raise NotImplementedError

    def nearness(self, probabilities: FloatArray) -> float:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class UntargetedClassification(_Classification):
    """Any class but the right one.

    ``truth`` is the right class as the target numbers it.
    """

    truth: int

    def is_met(self, probabilities: FloatArray) -> bool:
        """Whether the most probable class, the first one of equals, is not ``truth``.

        ``probabilities``: one text's, shape (classes,).
        """
        _check_class(self.truth, probabilities)
        return int(probabilities.argmax()) != self.truth

    def nearness(self, probabilities: FloatArray) -> float:
        """1 − p(truth), as TextAttack scores it."""
        return 1.0 - float(probabilities[self.truth])

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Descending makes the right class less probable."""
        response = yield Gradient(tuple(texts), (self.truth,) * len(texts), shifts)
        assert isinstance(response, Gradients)
        return _reversed(response)


@dataclass(frozen=True, slots=True)
class TargetedClassification(_Classification):
    """One particular wrong class, ``wanted``, as the target numbers it."""

    truth: int
    wanted: int

    def is_met(self, probabilities: FloatArray) -> bool:
        """Whether the most probable class, the first one of equals, is ``wanted``."""
        _check_class(self.wanted, probabilities)
        return int(probabilities.argmax()) == self.wanted

    def nearness(self, probabilities: FloatArray) -> float:
        """p(wanted)."""
        return float(probabilities[self.wanted])

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Descending makes the wanted class more probable."""
        response = yield Gradient(tuple(texts), (self.wanted,) * len(texts), shifts)
        assert isinstance(response, Gradients)
        return response


class _Generation:
    """What the generation goals share: a score ranks, and only a generated text decides."""

    __slots__ = ()

    frame: Frame
    max_new_tokens: int

    def question(self, texts: Sequence[TextInput]) -> Generate:
        """The greedy outputs."""
        return Generate(tuple(self.frame.fill(text) for text in texts), self.max_new_tokens)

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """Each output decides."""
        assert isinstance(response, Generations)
        return tuple(self.judge(text) for text in response.texts)

    def _look(self, texts: Sequence[TextInput], output: str, sign: float) -> Search[Look]:
        """Rank by ± log-probability of ``output``; the best one is generated as well."""
        prompts = tuple(self.frame.fill(text) for text in texts)
        response = yield Score(prompts, (output,) * len(prompts))
        assert isinstance(response, Scores)
        scores = sign * response.log_probs.astype(np.float64)
        met = np.zeros(len(prompts), dtype=bool)
        if prompts:
            best = int(scores.argmax())
            answer = yield self.question(texts[best : best + 1])
            met[best] = self.verdicts(answer)[0].met
        return Look(scores, met)

    def _slopes(
        self, texts: Sequence[TextInput], output: str, shifts: tuple[FloatArray, ...]
    ) -> Search[Gradients]:
        prompts = tuple(self.frame.fill(text) for text in texts)
        response = yield Gradient(prompts, (output,) * len(prompts), shifts)
        assert isinstance(response, Gradients)
        return response

    def judge(self, output: str) -> Verdict:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ForceOutput(_Generation):
    """The output begins with ``wanted``, words compared as SQuAD does.

    ``frame`` holds what stands around the adversary's text in the prompt.
    """

    frame: Frame
    wanted: str
    max_new_tokens: int = 32

    def judge(self, output: str) -> Verdict:
        """Whether the normalised output begins with the words of ``wanted``."""
        begins = f"{normalise(output)} ".startswith(f"{normalise(self.wanted)} ")
        return Verdict(begins, {"text": output, "wanted": self.wanted})

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """Ranked by the log-probability of ``wanted``; the best one is generated."""
        return (yield from self._look(texts, self.wanted, 1.0))

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Descending makes ``wanted`` more probable."""
        return (yield from self._slopes(texts, self.wanted, shifts))


Measure: TypeAlias = Literal["f1", "bleu", "rouge-l"]
"""How near an output is to the right answers."""


@dataclass(frozen=True, slots=True)
class ChangeAnswer(_Generation):
    """The output no longer resembles any of the right ``answers``.

    It is met where the ``measure`` against them falls to ``at_most`` or below: token F1 (flip the
    answer), BLEU or ROUGE-L (minimise the overlap), each in [0, 1]. The first answer's
    log-probability is the guide.
    """

    frame: Frame
    answers: tuple[str, ...]
    measure: Measure = "f1"
    at_most: float = 0.0
    max_new_tokens: int = 32

    def judge(self, output: str) -> Verdict:
        """Whether the output's resemblance is low enough."""
        value = self.resemblance(output)
        return Verdict(value <= self.at_most, {"text": output, self.measure: value})

    def resemblance(self, output: str) -> float:
        """The measure of an output against the answers, in [0, 1]."""
        if self.measure == "f1":
            return token_f1(output, self.answers)
        if self.measure == "bleu":
            return sentence_bleu(output, self.answers) / 100
        return rouge(output, self.answers).rougeL

    def look(self, texts: Sequence[TextInput]) -> Search[Look]:
        """Ranked by how improbable the first answer is; the best one is generated."""
        return (yield from self._look(texts, self.answers[0], -1.0))

    def slopes(
        self, texts: Sequence[TextInput], shifts: tuple[FloatArray, ...] = ()
    ) -> Search[Gradients]:
        """Descending makes the first answer less probable."""
        return _reversed((yield from self._slopes(texts, self.answers[0], shifts)))


def _check_class(number: int, probabilities: FloatArray) -> None:
    if probabilities.ndim != 1 or not 0 <= number < len(probabilities):
        raise ValueError(
            f"class {number} is not judged by probabilities of shape {probabilities.shape}"
        )


def _reversed(response: Gradients) -> Gradients:
    """The same with losses and gradients of the opposite sign."""
    return Gradients(
        tuple(
            replace(item, loss=-item.loss, gradient=np.negative(item.gradient))
            for item in response.items
        )
    )
