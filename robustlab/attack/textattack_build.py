"""From a recipe to an attack made of TextAttack's classes."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from robustlab.attack.recipe import Component, Recipe
from robustlab.attack.textattack_bridge import EngineEncoder, own_parts
from robustlab.attack.textattack_resources import (
    explained,
    first_line,
    hyphened,
    import_textattack,
    masked_language_model,
    needs_of_class,
    require,
)
from robustlab.errors import UserError
from robustlab.resources import minilm_folder

__all__ = ["attack_like", "build_attack", "recipe_class"]


def build_attack(recipe: Recipe, model_wrapper: Any) -> Any:
    """A ``textattack.Attack`` on a model wrapper, as the recipe describes it.

    Its goal function is for the kind of goal that the recipe names; the class or text that is
    wanted is the example's.

    Raises:
        UserError: as for :func:`textattack_method`.
    """
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
    if not attack.is_black_box:
        raise UserError(
            f"the attack of the recipe {recipe.source} needs the model's gradients, which "
            "TextAttack's attacks do not get here"
        )
    attack.constraints = [_asking_the_engine(constraint) for constraint in attack.constraints]
    return attack


def attack_like(prototype: Any, *, goal: Any, constraints: Sequence[Any] = ()) -> Any:
    """The same attack with another goal function, and constraints before its own.

    What is large, models and word lists, is shared with the prototype; what TextAttack keeps of
    the example that it is at is not, so that two attacks can be alive at once.
    """
    return type(prototype)(
        goal,
        [*constraints, *prototype.constraints, *prototype.pre_transformation_constraints],
        prototype.transformation,
        copy.copy(prototype.search_method),
        transformation_cache_size=prototype.transformation_cache_size,
        constraint_cache_size=prototype.constraint_cache_size,
    )


def _built_by_class(recipe: Recipe, name: str, model_wrapper: Any) -> Any:
    textattack = import_textattack()
    cls = recipe_class(name, f"the recipe {recipe.source} is wrong at search.attack")
    require(needs_of_class(cls.__name__), cls.__name__)
    with explained(cls.__name__):
        try:
            attack = cls.build(model_wrapper)
        except OSError as error:
            raise UserError(
                f"{cls.__name__} needs a file that is not there, and it cannot be downloaded: "
                f"{first_line(error)}"
            ) from error
        except (TypeError, ValueError) as error:  # such as a search that wants gradients
            raise UserError(f"{cls.__name__} cannot run here: {first_line(error)}") from error
    goals = textattack.goal_functions
    exchangeable = [goals.UntargetedClassification]
    if recipe.threat.attacks_generators:
        exchangeable.append(goals.TextToTextGoalFunction)
    if recipe.threat.goal == "targeted-classification":
        exchangeable.append(goals.TargetedClassification)
    if not isinstance(attack.goal_function, tuple(exchangeable)):
        raise UserError(
            f"the recipe {recipe.source} has the goal {recipe.threat.goal}, but the attack pursues "
            f"{type(attack.goal_function).__name__}"
        )
    goal = _goal_function(recipe, model_wrapper)
    return attack if type(attack.goal_function) is type(goal) else attack_like(attack, goal=goal)


def recipe_class(name: str, wrong: str) -> Any:
    """A subclass of TextAttack's ``AttackRecipe`` by its name, or by ``module:Class``.

    Raises:
        UserError: there is none; the message begins with ``wrong``, which says where it is named.
    """
    textattack = import_textattack()
    base = textattack.attack_recipes.AttackRecipe
    module, colon, attribute = name.partition(":")
    try:
        place = importlib.import_module(module) if colon else textattack.attack_recipes
    except ImportError as error:
        raise UserError(
            f"{wrong}: {first_line(error)}; a module of your own is found if its folder is in "
            "PYTHONPATH"
        ) from error
    found = getattr(place, attribute or module, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        known = {cls.__name__: cls for cls in _subclasses(base)}
        raise _unknown(wrong, name, known)
    return found


def _built_from_parts(recipe: Recipe, options: dict[str, Any], model_wrapper: Any) -> Any:
    textattack = import_textattack()
    if not recipe.transformations:
        raise UserError(f"the recipe {recipe.source} has no [[transformation]]")
    search = Component(str(options.pop("search_method")), options)
    models: dict[str, tuple[Any, Any]] = {}
    transformations = [
        _instance(
            recipe,
            "transformation",
            part,
            textattack.transformations.Transformation,
            own={
                "word-swap-homoglyph-swap": own_parts().homoglyphs,
                "word-swap-word-net": own_parts().word_net,
            },
            models=models,
        )
        for part in recipe.transformations
    ]
    constraints = [
        _instance(
            recipe,
            "constraint",
            part,
            textattack.constraints.Constraint,
            textattack.constraints.PreTransformationConstraint,
            own={"minilm-sentence-similarity": own_parts().similarity},
        )
        for part in recipe.constraints
    ]
    searcher = _instance(
        recipe, "search.search_method", search, textattack.search_methods.SearchMethod
    )
    transformation = (
        transformations[0]
        if len(transformations) == 1
        else textattack.transformations.CompositeTransformation(transformations)
    )
    goal = _goal_function(recipe, model_wrapper)
    try:
        return textattack.Attack(goal, constraints, transformation, searcher)
    except ValueError as error:  # a search that cannot work on these transformations
        raise UserError(f"the recipe {recipe.source} is no attack: {first_line(error)}") from error


def _goal_function(recipe: Recipe, model_wrapper: Any) -> Any:
    """The goal function of the recipe's goal: TextAttack's own for classifiers."""
    goals = import_textattack().goal_functions
    make: Mapping[str, Callable[[Any], Any]] = {
        "untargeted-classification": goals.UntargetedClassification,
        "targeted-classification": goals.TargetedClassification,
    }
    return make.get(recipe.threat.goal, own_parts().goal)(model_wrapper)


def _instance(
    recipe: Recipe,
    key: str,
    part: Component,
    *bases: type[Any],
    own: Mapping[str, type[Any]] | None = None,
    models: dict[str, tuple[Any, Any]] | None = None,
) -> Any:
    """One of TextAttack's objects, by the name of its class and its constructor's arguments.

    ``own`` are classes of ours by kind; ``models`` are masked language models that other parts
    have loaded already.
    """
    classes = {hyphened(cls.__name__): cls for base in bases for cls in _subclasses(base)}
    classes |= own or {}
    if part.kind not in classes:
        raise _unknown(f"the recipe {recipe.source} is wrong at {key}", part.kind, classes)
    require(part, recipe.name)
    arguments: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in part.options.items()
    }
    name = arguments.get("masked_language_model")
    if models is not None and isinstance(name, str):
        if name not in models:
            models[name] = masked_language_model(name)
        arguments["masked_language_model"], arguments["tokenizer"] = models[name]
    with explained(part.kind):
        try:
            return classes[part.kind](**arguments)
        except OSError as error:
            raise UserError(
                f"{part.kind} of the recipe {recipe.source} needs a file that is not there: "
                f"{first_line(error)}"
            ) from error
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the recipe {recipe.source} is wrong at {key} {part.kind}: {first_line(error)}"
            ) from error


def _asking_the_engine(constraint: Any) -> Any:
    """A constraint that has MiniLM's embeddings from the engine; others are left as they are."""
    from textattack.constraints.semantics.sentence_encoders.sentence_bert import SBERT

    if isinstance(constraint, SBERT) and _is_minilm(constraint.model):
        constraint = copy.copy(constraint)
        constraint.model = EngineEncoder()
    return constraint


def _is_minilm(model: Any) -> bool:
    """Whether a sentence-transformers model is the one that the engine has."""
    import torch
    from safetensors.torch import load_file

    if [type(module).__name__ for module in model] != ["Transformer", "Pooling", "Normalize"]:
        return False
    weights = model[0].auto_model.state_dict()
    return model[1].get_config_dict()["pooling_mode"] == "mean" and all(
        name in weights and torch.equal(weights[name].cpu(), weight)
        for name, weight in load_file(minilm_folder() / "model.safetensors").items()
        if name != "embeddings.position_ids"
    )


def _unknown(wrong: str, name: str, known: Mapping[str, type[Any]]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return UserError(f"{wrong}: TextAttack has no {name!r}; the nearest is {near[0]!r}")


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    """All subclasses that are not ours, those of subclasses too."""
    for cls in base.__subclasses__():
        if not cls.__module__.startswith("robustlab."):
            yield cls
        yield from _subclasses(cls)
