"""TextAttack's attacks, unmodified, inside the engine.

TextAttack (Morris et al. 2020, arXiv:2005.05909) is written for one example and a model that
answers at once. Here each attack runs in a greenlet (:mod:`.textattack_bridge`): where it calls
its model, the greenlet is left, the texts become a request to the engine, and with the response
the call returns. Neither TextAttack nor the attack knows, so any of its recipes will do, and a
user's own.

Two forms of ``[search]`` with ``method = "textattack"``:

- ``attack = "DeepWordBugGao2018"``: one of TextAttack's recipe classes by name, or any other by
  ``"package.module:Class"``, built as its own code says. ``--recipe textattack:NAME`` makes such a
  recipe on the fly (:func:`recipe_for_class`).
- ``search_method = "greedy-word-swap-wir"`` with its arguments, and ``[[transformation]]`` and
  ``[[constraint]]`` tables: TextAttack's classes by their names in lower case with hyphens, and
  the arguments of their constructors, so that the file states all that the attack does.

One kind of constraint is ours, where TextAttack would compute sentence embeddings by itself::

    [[constraint]]
    kind        = "minilm-sentence-similarity"  # cosines of all-MiniLM-L6-v2: no query
    threshold   = 0.84
    window_size = 15                            # words around each change; else the whole text
    compare_against_original = true

TextAttack's own ``sbert`` asks the engine too if its model is the same; other encoders and language
models of constraints and transformations compute where they are called.
``masked_language_model`` of a transformation is a folder or hub id of safetensors.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import json
import re
import sys
from typing import Any

import numpy as np

from robustlab.attack.constraints import Constraints
from robustlab.attack.engine import BudgetExhaustedError, Search
from robustlab.attack.goals import TargetedClassification, UntargetedClassification
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Recipe, Suite, parse_recipe
from robustlab.attack.textattack_bridge import EngineModel, own_parts, requests_of
from robustlab.attack.textattack_build import attack_like, build_attack, recipe_class
from robustlab.attack.textattack_recheck import attacked_text, first_broken
from robustlab.attack.textattack_resources import missing
from robustlab.attack.words import edits
from robustlab.models.target import TextInput

__all__ = ["build_attack", "missing", "recipe_for_class", "textattack_method"]

_FOR_CLASS = """\
# Made for {source}:
# the attack is what this class says, built with its own defaults on TextAttack {version}.

name    = {name}
summary = {summary}
paper   = {paper}

[threat]
goal      = "{goal}"
knowledge = "score"
surface   = "{surface}"
{generation}
[search]
method = "textattack"
attack = {attack}
"""

_OF_CHARACTERS = {"BadCharacters2021", "DeepWordBugGao2018", "Pruthi2019", "TextBuggerLi2018"}

# Those that attack generators, and how much of the right answer ours leaves in their goal's place.
_MEASURES = {"MorpheusTan2020": "bleu", "Seq2SickCheng2018BlackBox": "f1"}

_GENERATION = """\
part      = "question"

[goal]
measure = "{measure}"
at_most = 0.0
"""


def textattack_method(recipe: Recipe) -> Method:
    """The method of a recipe whose search method is ``textattack``.

    Raises:
        UserError: TextAttack is missing, or a resource that the attack needs is, or the recipe
            does not describe an attack of TextAttack's that can run here.
    """
    return _TextAttackMethod(recipe, build_attack(recipe, EngineModel()))


def recipe_for_class(name: str) -> Recipe:
    """The recipe of a class: one of TextAttack's own by its name, or ``package.module:Class``.

    ``name`` may begin with ``textattack:``, as on the command line. The text of the recipe, which
    goes into the run, states the class and the version of TextAttack.

    Raises:
        UserError: TextAttack is missing, or has no such class; the nearest is named.
    """
    name = name.removeprefix("textattack:")
    source = f"textattack:{name}"
    cls = recipe_class(name, f"no recipe {source!r}")
    version = importlib.metadata.version("textattack")
    if cls.__module__.startswith("textattack."):
        summary = f"{cls.__name__} of TextAttack {version}, unmodified"
    else:
        summary = f"{cls.__module__}:{cls.__name__}, on TextAttack {version}"
    link = re.search(r"https?://[^\s<>`]+", inspect.getdoc(cls) or "")
    paper = link[0].rstrip(".,;)") if link else "none stated by the class"
    ancestry = {base.__name__ for base in cls.__mro__}
    measure = next((measure for base, measure in _MEASURES.items() if base in ancestry), None)
    text = _FOR_CLASS.format(
        source=source,
        version=version,
        name=_quoted(source),
        summary=_quoted(summary),
        paper=_quoted(paper),
        goal="change-answer" if measure else "untargeted-classification",
        surface="characters" if ancestry & _OF_CHARACTERS else "words",
        generation=_GENERATION.format(measure=measure) if measure else "",
        attack=_quoted(name),
    )
    recipe = parse_recipe(text, source)
    assert not isinstance(recipe, Suite)
    return recipe


class _TextAttackMethod:
    """An attack of TextAttack's, copied for each example that is attacked."""

    def __init__(self, recipe: Recipe, prototype: Any) -> None:
        # TextAttack's own cache would hide repeated texts, which are queries, and the engine has
        # one. All that is wanted to know at a step becomes one request.
        prototype.goal_function.use_cache = False
        prototype.goal_function.batch_size = sys.maxsize
        self._prototype = prototype
        budget = recipe.budget
        self._limits = Constraints(max_edits=budget.max_edits, max_edit_rate=budget.max_edit_rate)

    def attack(self, start: Start, rng: np.random.Generator) -> Search[Found]:
        """TextAttack's search; the first question, which has been asked, is not asked again."""
        del rng  # TextAttack draws from the global generators, which are the example's by now
        if start.queries_left == 0:
            return Found(start.text, claims_success=False)
        attack = self._for_example(start)
        seen = _Seen(attack, start.text)
        truth = start.goal.truth if isinstance(start.goal, _CLASSIFICATION) else ""

        def work() -> Found:
            try:
                return _found(attack.attack(attacked_text(start.text), truth).perturbed_result)
            except BudgetExhaustedError:
                return seen.best
            except Exception:
                # Some searches cannot go on with the fewer results that a spent budget leaves.
                if seen.spent:
                    return seen.best
                raise

        answered = (start.goal.question([start.text]), start.answer)
        return (yield from requests_of(work, answered))

    def broken(self, original: TextInput, perturbed: TextInput) -> Search[str | None]:
        """The recipe's word limits, then TextAttack's constraints; see :func:`first_broken`."""
        limit = self._limits.edit_limit(original)
        if limit is not None and (changed := edits(original, perturbed)) > limit:
            return f"{changed} words changed, at most {limit}"
        return (yield from requests_of(lambda: first_broken(self._prototype, original, perturbed)))

    def _for_example(self, start: Start) -> Any:
        """An attack of its own for one example.

        TextAttack's budget makes it end by itself with the best text it has.
        """
        goal = copy.copy(self._prototype.goal_function)
        if isinstance(start.goal, TargetedClassification):
            goal.target_class = start.goal.wanted
        elif not isinstance(start.goal, UntargetedClassification):
            goal.goal = start.goal
        if start.queries_left is not None:
            goal.query_budget = start.queries_left + 1  # it counts the first question anew
        limit = self._limits.edit_limit(start.text, start.max_edits)
        limits = [] if limit is None else [own_parts().edit_limit(limit)]
        return attack_like(self._prototype, goal=goal, constraints=limits)


class _Seen:
    """The best that a search has seen, and whether its budget is spent."""

    def __init__(self, attack: Any, text: TextInput) -> None:
        self.spent = False
        self._text = text
        self._result: Any = None
        self._ask = attack.goal_function.get_results
        # The attack sets the same attribute, for its search to ask by.
        attack.search_method.get_goal_results = self._results

    @property
    def best(self) -> Found:
        """The best text, or the original before anything was asked."""
        if self._result is None:
            return Found(self._text, claims_success=False)
        return _found(self._result)

    def _results(self, texts: list[Any], **options: Any) -> tuple[list[Any], bool]:
        results, over = self._ask(texts, **options)
        self.spent = self.spent or over
        for result in results:
            if self._result is None or result.score > self._result.score:
                self._result = result
        return results, over


def _found(result: Any) -> Found:
    """A result of TextAttack's goal function as ours."""
    from textattack.goal_function_results import GoalFunctionResultStatus

    return Found(
        result.attacked_text.tokenizer_input,
        claims_success=result.goal_status == GoalFunctionResultStatus.SUCCEEDED,
    )


_CLASSIFICATION = (UntargetedClassification, TargetedClassification)


def _quoted(text: str) -> str:
    """A text as a TOML string."""
    return json.dumps(text, ensure_ascii=False)
