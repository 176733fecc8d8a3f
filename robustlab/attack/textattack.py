"""TextAttack's attacks, unmodified, inside the engine.

TextAttack (Morris et al. 2020, arXiv:2005.05909) is written for one example and a model that
answers at once. Here each attack runs in a greenlet: where it calls its model, the greenlet is
left, the texts become a Predict request to the engine, and with the answer the call returns.
Neither TextAttack nor the attack knows, so any of its recipes will do, and a user's own.

Two forms of ``[search]`` with ``method = "textattack"``:

- ``attack = "DeepWordBugGao2018"``: one of TextAttack's recipe classes by name, or any other by
  ``"package.module:Class"``, built as its own code says.
- ``search_method = "greedy-word-swap-wir"`` with its arguments, and ``[[transformation]]`` and
  ``[[constraint]]`` tables: TextAttack's classes by their names in lower case with hyphens, and
  the arguments of their constructors, so that the file states all that the attack does.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import logging
import os
import re
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robustlab.attack.engine import Search
from robustlab.attack.method import Found, Method, Start
from robustlab.attack.recipe import Component, Recipe
from robustlab.errors import UserError
from robustlab.models.target import FloatArray, Predict, Predictions, TextInput

__all__ = ["build_attack", "textattack_method"]

_STOPWORDS = "nltk:corpora/stopwords"
_WORDNET = "nltk:corpora/wordnet"
_TAGGER = "nltk:taggers/averaged_perceptron_tagger_eng"
_VECTORS = "cache:word_embeddings/paragramcf"
_UNIVERSAL_ENCODER = "module:tensorflow_hub"

# What TextAttack would try to download for a recipe; looked for before it can.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "A2TYoo2021": (_STOPWORDS, _VECTORS, _TAGGER),
    "BAEGarg2019": (_STOPWORDS, _UNIVERSAL_ENCODER, _TAGGER),
    "BERTAttackLi2020": (_STOPWORDS, _UNIVERSAL_ENCODER),
    "CLARE2020": (_STOPWORDS, _UNIVERSAL_ENCODER),
    "DeepWordBugGao2018": (_STOPWORDS,),
    "FasterGeneticAlgorithmJia2019": (_STOPWORDS, _VECTORS),
    "GeneticAlgorithmAlzantot2018": (_STOPWORDS, _VECTORS, "module:tensorflow"),
    "IGAWang2019": (_STOPWORDS, _VECTORS),
    "Kuleshov2017": (_STOPWORDS, _VECTORS),
    "Pruthi2019": (_STOPWORDS,),
    "PSOZang2020": (_STOPWORDS, "cache:transformations/hownet"),
    "PWWSRen2019": (_STOPWORDS, _WORDNET),
    "TextBuggerLi2018": (_STOPWORDS, _VECTORS, _UNIVERSAL_ENCODER),
    "TextFoolerJin2019": (_STOPWORDS, _VECTORS, _UNIVERSAL_ENCODER, _TAGGER),
}

# TextAttack downloads NLTK data on its first import unless this file is in its cache.
_FIRST_IMPORT_DONE = "post_install_check_3"


def textattack_method(recipe: Recipe) -> Method:
    """The method of a recipe whose search method is ``textattack``.

    Raises:
        UserError: TextAttack is missing, or a resource that the attack needs is, or the recipe
            does not describe an attack of TextAttack's that can run here.
    """
    textattack = _import_textattack()
    prototype = build_attack(recipe, _EngineModel())

    def attack_one(start: Start, rng: np.random.Generator) -> Search[Found]:
        del rng  # TextAttack draws from the global generators, which are the example's by now
        attack = _copy_for_one_example(prototype, start.queries_left)
        example: str | OrderedDict[str, str] = (
            start.text
            if isinstance(start.text, str)
            else OrderedDict(text=start.text[0], text_pair=start.text[1])
        )
        result = yield from _run(lambda: attack.attack(example, start.goal.truth), start)
        found: TextInput = result.perturbed_result.attacked_text.tokenizer_input
        claims = isinstance(result, textattack.attack_results.SuccessfulAttackResult)
        return Found(found, claims)

    return attack_one


def build_attack(recipe: Recipe, model_wrapper: Any) -> Any:
    """A ``textattack.Attack`` on a model wrapper, as the recipe describes it.

    Raises:
        UserError: as for :func:`textattack_method`.
    """
    textattack = _import_textattack()
    options = dict(recipe.search.options)
    if "attack" in options:
        attack = _built_by_class(recipe, str(options.pop("attack")), model_wrapper)
        if options or recipe.constraints or recipe.transformations:
            raise UserError(
                f"the recipe {recipe.source} names a finished attack in search.attack, which "
                "takes no other options, constraints or transformations; spell the attack out "
                "with search.search_method instead"
            )
    elif "search_method" in options:
        attack = _built_from_parts(recipe, options, model_wrapper)
    else:
        raise UserError(
            f"the recipe {recipe.source} lacks a key: search.attack or search.search_method"
        )
    if not isinstance(attack.goal_function, textattack.goal_functions.UntargetedClassification):
        raise UserError(
            f"the recipe {recipe.source} has the goal {recipe.threat.goal}, but the attack pursues "
            f"{type(attack.goal_function).__name__}"
        )
    if not attack.is_black_box:
        raise UserError(
            f"the attack of the recipe {recipe.source} needs the model's gradients, which "
            "TextAttack's attacks do not get here"
        )
    return attack


def _built_by_class(recipe: Recipe, name: str, model_wrapper: Any) -> Any:
    cls = _recipe_class(recipe, name)
    for resource in _NEEDS.get(cls.__name__, ()):
        _require(resource, cls.__name__)
    with _explained(cls.__name__):
        try:
            return cls.build(model_wrapper)
        except OSError as error:
            raise UserError(
                f"{cls.__name__} needs a file that is not there, and it cannot be downloaded: "
                f"{_first_line(error)}; TextAttack keeps its files in {_cache_folder()}"
            ) from error
        except (TypeError, ValueError) as error:  # such as a search that wants gradients
            raise UserError(f"{cls.__name__} cannot run here: {_first_line(error)}") from error


def _recipe_class(recipe: Recipe, name: str) -> Any:
    """A subclass of TextAttack's ``AttackRecipe`` by its name, or by ``module:Class``."""
    textattack = _import_textattack()
    base = textattack.attack_recipes.AttackRecipe
    module, colon, attribute = name.partition(":")
    try:
        place = importlib.import_module(module) if colon else textattack.attack_recipes
    except ImportError as error:
        raise UserError(
            f"the recipe {recipe.source} names the attack {name!r}, but {_first_line(error)}"
        ) from error
    found = getattr(place, attribute or module, None)
    is_recipe = inspect.isclass(found) and issubclass(found, base)
    if not is_recipe:
        raise _unknown(
            recipe, "search.attack", name, {cls.__name__: cls for cls in _subclasses(base)}
        )
    return found


def _built_from_parts(recipe: Recipe, options: dict[str, Any], model_wrapper: Any) -> Any:
    textattack = _import_textattack()
    if not recipe.transformations:
        raise UserError(f"the recipe {recipe.source} has no [[transformation]]")
    search = Component(str(options.pop("search_method")), options)
    transformations = [
        _instance(recipe, "transformation", part, textattack.transformations.Transformation)
        for part in recipe.transformations
    ]
    constraints = [
        _instance(
            recipe,
            "constraint",
            part,
            textattack.constraints.Constraint,
            textattack.constraints.PreTransformationConstraint,
        )
        for part in recipe.constraints
    ]
    searcher = _instance(
        recipe, "search.search_method", search, textattack.search_methods.SearchMethod
    )
    goal = textattack.goal_functions.UntargetedClassification(model_wrapper)
    transformation = (
        transformations[0]
        if len(transformations) == 1
        else textattack.transformations.CompositeTransformation(transformations)
    )
    try:
        return textattack.Attack(goal, constraints, transformation, searcher)
    except ValueError as error:  # a search that cannot work on these transformations
        raise UserError(f"the recipe {recipe.source} is no attack: {_first_line(error)}") from error


def _instance(recipe: Recipe, key: str, part: Component, *bases: type[Any]) -> Any:
    """One of TextAttack's objects, by the name of its class and its constructor's arguments."""
    classes = {_hyphened(cls.__name__): cls for base in bases for cls in _subclasses(base)}
    if part.kind not in classes:
        raise _unknown(recipe, key, part.kind, classes)
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in part.options.items()
    }
    with _explained(part.kind):
        try:
            return classes[part.kind](**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the recipe {recipe.source} is wrong at {key} {part.kind}: {_first_line(error)}"
            ) from error


def _unknown(recipe: Recipe, key: str, name: str, known: Mapping[str, type[Any]]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return UserError(
        f"the recipe {recipe.source} is wrong at {key}: TextAttack has no {name!r}; "
        f"the nearest is {near[0]!r}"
    )


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _hyphened(name: str) -> str:
    """``GreedyWordSwapWIR`` as ``greedy-word-swap-wir``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


class _EngineModel:
    """What stands in the place of TextAttack's model wrapper: it leaves the greenlet to ask."""

    model: Any = None

    def __call__(self, texts: Sequence[TextInput]) -> Any:
        """Probabilities of the texts, a float32 tensor of shape (texts, classes)."""
        import greenlet
        import torch

        engine = greenlet.getcurrent().parent
        if engine is None:
            raise RuntimeError("this model answers only while the engine runs the attack")
        probabilities: FloatArray = engine.switch(tuple(texts))
        return torch.from_numpy(probabilities.copy())


def _copy_for_one_example(prototype: Any, queries_left: int | None) -> Any:
    """An attack of its own for one example; what is large, models and word lists, is shared.

    TextAttack's objects keep the example that they are at, so that two examples alive cannot share
    them. TextAttack's own cache is off: it would hide repeated texts, which are queries, and the
    engine has one. Its budget makes it end by itself with the best text it has.
    """
    goal = copy.copy(prototype.goal_function)
    goal.use_cache = False
    goal.batch_size = sys.maxsize  # one request for all that it wants to know at a step
    if queries_left is not None:
        goal.query_budget = queries_left + 1  # it counts the prediction of the original anew
    return type(prototype)(
        goal,
        prototype.constraints + prototype.pre_transformation_constraints,
        prototype.transformation,
        copy.copy(prototype.search_method),
        transformation_cache_size=prototype.transformation_cache_size,
        constraint_cache_size=prototype.constraint_cache_size,
    )


def _run(work: Callable[[], Any], start: Start) -> Search[Any]:
    """Run blocking work in a greenlet, and yield as a request whatever it asks of its model.

    TextAttack begins with the prediction of the original. That query has been made and counted,
    so it is answered from ``start``.
    """
    import greenlet

    worker = greenlet.greenlet(work)
    try:
        with _explained("the attack"):
            asked = worker.switch()
            if not worker.dead and asked == (start.text,):
                asked = worker.switch(start.probabilities[np.newaxis])
        while not worker.dead:
            try:
                response = yield Predict(asked)
            except Exception as error:  # the budget's end or the target's failure, told to the work
                with _explained("the attack"):
                    asked = worker.throw(error)
                continue
            assert isinstance(response, Predictions)
            with _explained("the attack"):
                asked = worker.switch(response.probabilities)
        return asked
    finally:
        if not worker.dead:
            worker.throw(greenlet.GreenletExit)


def _import_textattack() -> Any:
    """TextAttack, imported without a download, a print or a change to the environment.

    Raises:
        UserError: it is not installed, or its cache folder cannot be written.
    """
    if importlib.util.find_spec("textattack") is None:
        raise UserError(
            "TextAttack, which this attack needs, is not installed; "
            "install it with: pip install 'robustlab[textattack]'"
        )
    if "textattack" not in sys.modules:
        _prepare_cache()
        try:
            with _same_environment(), _stopwords_for_import():
                importlib.import_module("textattack")
        except ImportError as error:
            raise UserError(
                f"TextAttack is installed but cannot be imported ({_first_line(error)}); "
                "install versions that fit with: pip install 'robustlab[textattack]'"
            ) from error
    logging.getLogger("textattack.shared.utils.install").setLevel(logging.ERROR)
    return sys.modules["textattack"]


@contextmanager
def _same_environment() -> Iterator[None]:
    """Undo what an import does to the environment variables: TextAttack moves other caches."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _cache_folder() -> Path:
    return Path(os.environ.get("TA_CACHE_DIR", "~/.cache/textattack")).expanduser()


def _prepare_cache() -> None:
    """Tell TextAttack that its first import, with its downloads, lies behind it."""
    mark = _cache_folder() / _FIRST_IMPORT_DONE
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text(
                "Written by robustlab, so that importing TextAttack downloads nothing.\n"
                "Delete this file to let TextAttack fetch its NLTK data on the next import.\n",
                encoding="utf-8",
            )
    except OSError as error:
        raise UserError(
            f"TextAttack needs a cache folder, and {mark.parent} cannot be written "
            f"({error.strerror}); name another in the environment variable TA_CACHE_DIR"
        ) from error


@contextmanager
def _stopwords_for_import() -> Iterator[None]:
    """Let NLTK find a list of stopwords, which TextAttack reads while it is imported.

    Where NLTK's is not installed it finds an empty one, which is gone after the import: recipes
    either state their own list or are refused for want of NLTK's, and never run with this one.
    """
    import nltk

    if _has_nltk("corpora/stopwords"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        stopwords = Path(folder, "corpora", "stopwords")
        stopwords.mkdir(parents=True)
        (stopwords / "english").touch()
        nltk.data.path.append(folder)
        try:
            yield
        finally:
            nltk.data.path.remove(folder)


def _require(resource: str, attack: str) -> None:
    """Raise UserError if a resource is not here, saying where it belongs."""
    kind, _, name = resource.partition(":")
    if kind == "nltk" and not _has_nltk(name):
        raise UserError(
            f"{attack} needs NLTK's {name}, which is not installed: fetch it with "
            f"python -m nltk.downloader {name.rpartition('/')[2]}, or set NLTK_DATA to a folder "
            "that has it"
        )
    if kind == "cache" and not (_cache_folder() / name).exists():
        raise UserError(
            f"{attack} needs TextAttack's {name}, which is not there: put it at "
            f"{_cache_folder() / name}"
        )
    if kind == "module" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"{attack} needs the package {name}, which is not installed; install it with: "
            f"pip install {name}"
        )


def _has_nltk(name: str) -> bool:
    import nltk

    for form in (name, f"{name}.zip"):
        try:
            nltk.data.find(form)
        except LookupError:
            continue
        return True
    return False


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what TextAttack raises for a missing resource into a sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs the package {error.name}, which is not installed"
            if error.name
            else f"{what} needs a package that is not installed: {_first_line(error)}"
        ) from error
    except LookupError as error:
        named = re.search(r"nltk\.download\('([^']+)'\)", str(error))
        if named is None:
            raise
        raise UserError(
            f"{what} needs NLTK's {named[1]}, which is not installed: fetch it with "
            f"python -m nltk.downloader {named[1]}, or set NLTK_DATA to a folder that has it"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
