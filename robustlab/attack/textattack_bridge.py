"""The boundary between TextAttack, which calls its models, and the engine, which is asked.

Each attack runs in a greenlet. Where it calls a model of ours, the greenlet is left with a request
and entered again with the response; neither TextAttack nor the attack notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustlab.attack.engine import Search
from robustlab.attack.goals import Goal
from robustlab.attack.textattack_resources import explained, import_textattack
from robustlab.attack.words import edits
from robustlab.models.target import (
    Embed,
    Embeddings,
    FloatArray,
    Predict,
    Predictions,
    Request,
    Response,
    TextInput,
)

__all__ = ["EngineEncoder", "EngineModel", "OwnParts", "ask", "own_parts", "requests_of"]

ResultT = TypeVar("ResultT")


def requests_of(
    work: Callable[[], ResultT], answered: tuple[Request, Response] | None = None
) -> Search[ResultT]:
    """Run blocking work in a greenlet, and yield whatever it asks as a request.

    ``answered`` is a request whose response is known already: the work is given it, once, where it
    asks for it.
    """
    import greenlet

    worker = greenlet.greenlet(work)
    try:
        with explained("the attack"):
            asked = worker.switch()
        while not worker.dead:
            if answered is not None and asked == answered[0]:
                response, answered = answered[1], None
            else:
                try:
                    response = yield asked
                except Exception as error:  # the budget's end or the target's failure
                    with explained("the attack"):
                        asked = worker.throw(error)
                    continue
            with explained("the attack"):
                asked = worker.switch(response)
        result: ResultT = asked
        return result
    finally:
        if not worker.dead:
            worker.throw(greenlet.GreenletExit)


def ask(request: Request) -> Response:
    """The response to a request, from inside of :func:`requests_of`."""
    import greenlet

    engine = greenlet.getcurrent().parent
    if engine is None:
        raise RuntimeError("this model answers only while the engine runs the attack")
    response: Response = engine.switch(request)
    return response


def _ask_all(search: Search[ResultT]) -> ResultT:
    """Run a coroutine inside of :func:`requests_of`, its requests becoming those of the work."""
    try:
        request = next(search)
        while True:
            try:
                response = ask(request)
            except Exception as error:  # the coroutine's to handle, as if it had yielded itself
                request = search.throw(error)
            else:
                request = search.send(response)
    except StopIteration as end:
        result: ResultT = end.value
        return result


class EngineModel:
    """What stands in the place of TextAttack's model wrapper."""

    model: Any = None

    def __call__(self, texts: Sequence[TextInput]) -> Any:
        """Probabilities of the texts, a tensor of shape (texts, classes)."""
        import torch

        response = ask(Predict(tuple(texts)))
        assert isinstance(response, Predictions)
        scores = torch.from_numpy(response.probabilities.copy())
        # TextAttack takes rows that do not sum to one for logits. Those of many classes miss it
        # in float32.
        if bool(((scores.sum(dim=1) - 1).abs() >= 1e-6).any()):
            scores = scores.double()
            scores /= scores.sum(dim=1, keepdim=True)
        return scores


class EngineEncoder:
    """What stands in the place of a sentence-transformers model: the engine's own encoder."""

    def encode(self, sentences: Sequence[str]) -> FloatArray:
        """Embeddings of unit length, shape (sentences, width)."""
        unique = tuple(dict.fromkeys(sentences))
        response = ask(Embed(unique))
        assert isinstance(response, Embeddings)
        place = {sentence: row for row, sentence in enumerate(unique)}
        return response.vectors[[place[sentence] for sentence in sentences]]


class OwnParts(NamedTuple):
    """Classes of ours that TextAttack's attacks can be made of.

    Attributes:
        goal: pursues a generation goal, whose questions are asked through the engine.
        edit_limit: constraint: at most so many words differ from the original.
        similarity: constraint on the similarity of sentence embeddings, asked of the engine.
        homoglyphs: TextAttack's homoglyph swap, made without a file that its package lacks.
        word_net: TextAttack's WordNet swap, made without an attempt to download.
    """

    goal: type[Any]
    edit_limit: type[Any]
    similarity: type[Any]
    homoglyphs: type[Any]
    word_net: type[Any]


@cache
def own_parts() -> OwnParts:
    """The classes, which can only be made once TextAttack is imported."""
    textattack = import_textattack()
    from textattack.constraints.semantics.sentence_encoders import SentenceEncoder
    from textattack.goal_function_results import TextToTextGoalFunctionResult

    class GenerationGoal(textattack.goal_functions.GoalFunction):  # type: ignore[misc, name-defined]
        """A goal on generated text, for any search and transformations.

        The score is that of ``Goal.look``, counted from the original's, so that it begins at 0 as
        some searches expect. A look at n texts costs n + 1 queries.
        """

        def __init__(self, model_wrapper: Any) -> None:
            super().__init__(model_wrapper, use_cache=False)
            self.goal: Goal | None = None
            self._origin: float | None = None

        def get_results(
            self, attacked_text_list: list[Any], check_skip: bool = False
        ) -> tuple[list[Any], bool]:
            """As many as the budget allows, and whether it is spent."""
            room = self.query_budget - self.num_queries - 1
            texts = attacked_text_list
            if room < len(texts):
                texts = texts[: max(room, 0)]
            if not texts:
                return [], bool(room < 1)
            results, _ = super().get_results(texts, check_skip)
            self.num_queries += 1
            return results, bool(self.query_budget - self.num_queries < 2)

        def _call_model_uncached(self, attacked_text_list: list[Any]) -> list[tuple[float, bool]]:
            assert self.goal is not None
            look = _ask_all(self.goal.look([text.tokenizer_input for text in attacked_text_list]))
            if self._origin is None:  # the original is the first to be looked at
                self._origin = float(look.scores[0])
            scores = (look.scores - self._origin).tolist()
            return list(zip(scores, look.met.tolist(), strict=True))

        def _is_goal_complete(self, model_output: tuple[float, bool], _: Any) -> bool:
            return model_output[1]

        def _get_score(self, model_output: tuple[float, bool], _: Any) -> float:
            return model_output[0]

        def _process_model_outputs(self, inputs: Any, outputs: Any) -> Any:
            return outputs

        def _goal_function_result_type(self) -> Any:
            return TextToTextGoalFunctionResult

    class EditLimit(textattack.constraints.Constraint):  # type: ignore[misc, name-defined]
        """At most ``limit`` words differ from the original, as the outcome counts them."""

        def __init__(self, limit: int) -> None:
            super().__init__(compare_against_original=True)
            self.limit = limit

        def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
            changed = edits(reference_text.tokenizer_input, transformed_text.tokenizer_input)
            return changed <= self.limit

    class MinilmSentenceSimilarity(SentenceEncoder):  # type: ignore[misc]
        """A least cosine similarity of MiniLM sentence embeddings.

        With a window, the text around each word that was changed is compared with the same place
        of the reference, and the smallest similarity counts. TextAttack's own constraints look
        only at the word changed last, so that what they allow step by step need not hold in the
        end.

        Args:
            threshold: the least cosine.
            window_size: words of a window; the whole text if not given.
            compare_against_original: against the original, not the step before.
        """

        def __init__(
            self,
            threshold: float,
            window_size: int | None = None,
            compare_against_original: bool = True,
        ) -> None:
            super().__init__(
                threshold=threshold,
                window_size=window_size,
                compare_against_original=compare_against_original,
            )
            self.model = EngineEncoder()

        def _score_list(self, starting_text: Any, transformed_texts: Sequence[Any]) -> Any:
            import torch

            pairs = [self._windows(starting_text, text) for text in transformed_texts]
            sides = [side for windows in pairs for window in windows for side in window]
            if not sides:
                return torch.tensor([])
            vectors = self.model.encode(sides).astype(np.float64)
            cosines = (vectors[::2] * vectors[1::2]).sum(axis=1)
            starts = np.cumsum([0, *(len(windows) for windows in pairs[:-1])])
            return torch.from_numpy(np.minimum.reduceat(cosines, starts))

        def _check_constraint(self, transformed_text: Any, reference_text: Any) -> bool:
            return len(self._check_constraint_many([transformed_text], reference_text)) == 1

        def _windows(self, reference: Any, text: Any) -> list[tuple[str, str]]:
            """What is compared with what: as many pairs as words were changed, at least one."""
            against = "" if self.compare_against_original else "newly_"
            changed = sorted(text.attack_attrs[f"{against}modified_indices"])
            if self.window_size == float("inf") or not changed:
                return [(reference.text, text.text)]
            return [
                (
                    reference.text_window_around_index(
                        self._place(reference, text, index), self.window_size
                    ),
                    text.text_window_around_index(index, self.window_size),
                )
                for index in changed
            ]

        def _place(self, reference: Any, text: Any, index: int) -> int:
            """Where in the reference a word of the text stood, or was inserted."""
            last = int(reference.num_words) - 1
            moved: NDArray[np.int64] = text.attack_attrs["original_index_map"]
            if not self.compare_against_original or len(moved) != last + 1:
                return min(index, last)
            at_or_behind = np.flatnonzero(moved >= index)
            return int(at_or_behind[0]) if len(at_or_behind) else last

    class WordSwapHomoglyphSwap(
        textattack.transformations.WordSwapHomoglyphSwap  # type: ignore[misc, name-defined]
    ):
        """TextAttack's class, where the list is missing that differential evolution needs."""

        def __init__(self, random_one: bool = False) -> None:
            try:
                super().__init__(random_one=random_one)
            except FileNotFoundError:  # not in the wheel of 0.3.11; the other list is set by now
                self.homos_intentional: dict[str, list[str]] = {}

    class WordSwapWordNet(textattack.transformations.WordSwapWordNet):  # type: ignore[misc, name-defined]
        """TextAttack's class, whose constructor would have NLTK look for a newer download."""

        def __init__(self, language: str = "eng") -> None:
            from nltk.corpus import wordnet

            if language not in wordnet.langs():
                raise ValueError(f"language must be one of {wordnet.langs()}, not {language!r}")
            self.language = language

    return OwnParts(
        GenerationGoal, EditLimit, MinilmSentenceSimilarity, WordSwapHomoglyphSwap, WordSwapWordNet
    )
