"""From a name, a file or a table to a defence that fits its target.

A defence is a small TOML file: ``name``, ``kind``, ``summary``, ``paper`` and the numbers of its
kind. The shipped ones are in ``presets/``; ``--defense`` takes one by name, or the path of a
user's own copy.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from robustlab.data.records import Corpus
from robustlab.defense.protocols import Defense, QuestionDefense, TargetDefense
from robustlab.defense.repaired import RepairedClassifier
from robustlab.errors import UserError
from robustlab.models.target import Predict, Target
from robustlab.rag.pipeline import RagPipeline

if TYPE_CHECKING:
    from robustlab.defense.vae import VaeSettings

__all__ = ["DefenseSpec", "Parts", "Settings", "defend", "defense_names", "load_defense"]

DefenseSpec: TypeAlias = str | Mapping[str, Any]
"""A shipped defence by name, a TOML file by path, or a table: ``name`` (either of these) and
numbers that replace those of the file."""

_FOLDER = Path(__file__).resolve().parent / "presets"
_ABOUT = ("name", "kind", "summary", "paper")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a defence is made for and from.

    ``corpus`` are the clean passages; None for a target without a corpus. ``texts`` makes the
    clean texts that defences of a classifier learn from.
    """

    target: Target
    corpus: Corpus | None
    seed: int
    texts: Callable[[], Sequence[str]] | None = None

    def pipeline(self, name: str) -> RagPipeline:
        """The target as a pipeline; :class:`UserError` if it is none."""
        if not isinstance(self.target, RagPipeline):
            raise UserError(
                f"the defence {name} is for RAG pipelines; {self.target.spec} is a "
                f"{self.target.kind} and cannot take it"
            )
        return self.target

    def words(self, name: str) -> Sequence[str]:
        """Clean texts of the target's own field; :class:`UserError` if there are none."""
        if isinstance(self.target, RagPipeline):
            return [passage.contents for passage in self.clean(name).passages]
        self.classifier(name)
        if self.texts is None:
            raise UserError(
                f"the defence {name} learns from clean texts of the data, and there are none here"
            )
        return self.texts()

    def classifier(self, name: str) -> None:
        """:class:`UserError` if the target is neither a pipeline nor a classifier."""
        if not isinstance(self.target, RagPipeline) and Predict not in self.target.answers:
            raise UserError(
                f"the defence {name} is for classifiers and RAG pipelines; {self.target.spec} is a "
                f"{self.target.kind} and cannot take it"
            )

    def clean(self, name: str) -> Corpus:
        """The corpus; :class:`UserError` if there is none."""
        self.pipeline(name)
        if self.corpus is None:
            raise UserError(
                f"the defence {name} learns from the clean corpus: name it with --corpus"
            )
        return self.corpus


class Settings:
    """The numbers of a defence, taken one by one; what is left over in the end was unknown.

    Without a ``default`` a number must be there.

    Raises:
        UserError: a number that is missing, of the wrong type or out of range, or unknown.
    """

    def __init__(self, source: str, table: Mapping[str, Any]) -> None:
        """``source`` is the file's name, for messages."""
        self._source = source
        self._values = {key: value for key, value in table.items() if key not in _ABOUT}
        self._known: list[str] = []
        self.name = str(table["name"])

    def has(self, key: str) -> bool:
        """Whether it is given."""
        return key in self._values

    def integer(self, key: str, *, minimum: int = 0) -> int:
        """A whole number."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._wrong(key, f"a whole number, at least {minimum}", value)
        return value

    def number(self, key: str, *, low: float = 0.0, high: float = 1.0) -> float:
        """A number from ``low`` to ``high``."""
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number", value)
        if not low <= value <= high:
            raise self._wrong(key, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def text(self, key: str) -> str:
        """A text, which may be empty."""
        value = self._take(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of several texts."""
        value = self._take(key)
        if value not in choices:
            raise self._wrong(key, " or ".join(f'"{choice}"' for choice in choices), value)
        return str(value)

    def finish(self) -> None:
        """Refuse what nobody took."""
        left = [key for key in self._values if key not in self._known]
        if left:
            raise UserError(
                f"the defence {self._source} knows no {left[0]!r}; there are: "
                f"{', '.join(self._known) or 'none'}"
            )

    def _take(self, key: str) -> Any:
        self._known.append(key)
        if key not in self._values:
            raise UserError(f"the defence {self._source} lacks {key!r}")
        return self._values[key]

    def _wrong(self, key: str, wanted: str, value: object) -> UserError:
        return UserError(f"the defence {self._source} is wrong at {key}: {value!r} is not {wanted}")


def defense_names() -> tuple[str, ...]:
    """Names of the shipped defences, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_defense(
    spec: DefenseSpec,
    target: Target,
    *,
    corpus: Corpus | None = None,
    texts: Callable[[], Sequence[str]] | None = None,
    seed: int = 0,
) -> Defense:
    """A defence for a target, fitted on the clean corpus where it learns.

    Args:
        spec: name, path or table.
        target: what it is to defend.
        corpus: the clean passages of a RAG pipeline.
        texts: makes the clean texts of a classifier's field.
        seed: of all that is random in it.

    Raises:
        UserError: no such defence, a wrong number, or a target that cannot take it.
    """
    source, table = _read(spec)
    kind = table["kind"]
    if kind not in _BUILDERS:
        raise UserError(
            f"the defence {source} is wrong at kind: there is no {kind!r}; there are: "
            f"{', '.join(_BUILDERS)}"
        )
    settings = Settings(source, table)
    return _BUILDERS[kind](settings, Parts(target, corpus, seed, texts))


def defend(
    target: Target,
    specs: Sequence[DefenseSpec],
    *,
    corpus: Corpus | None = None,
    texts: Callable[[], Sequence[str]] | None = None,
    seed: int = 0,
) -> Target:
    """A target with defences in it; without any, the target itself.

    Args:
        target: a RAG pipeline or a classifier. Of a classifier's defences the repairs come first,
            in their order, and what takes the place of the whole classifier stands behind them.
        specs: the defences.
        corpus: the clean passages of a pipeline.
        texts: makes the clean texts of a classifier's field, called if a defence learns from them.
        seed: of all that is random in them.

    Raises:
        UserError: as :func:`load_defense`.
    """
    if not specs:
        return target
    loaded = [load_defense(spec, target, corpus=corpus, texts=texts, seed=seed) for spec in specs]
    if isinstance(target, RagPipeline):
        from robustlab.defense.pipeline import DefendedRag

        return DefendedRag(target, loaded)
    repairs = []
    for defense in loaded:
        if isinstance(defense, TargetDefense):
            target = defense.wrap(target)
        elif isinstance(defense, QuestionDefense):
            repairs.append(defense)
        else:
            Parts(target, corpus, seed).pipeline(defense.name)
    return RepairedClassifier(target, repairs) if repairs else target


def _read(spec: DefenseSpec) -> tuple[str, Mapping[str, Any]]:
    """What a defence is called in messages, and its table."""
    changes: Mapping[str, Any] = {}
    if not isinstance(spec, str):
        name = spec.get("name")
        if not isinstance(name, str):
            raise UserError('a [[defense]] lacks its name, such as name = "perplexity"')
        changes = {key: value for key, value in spec.items() if key != "name"}
        spec = name
    path = _path(spec)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"the defence {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the defence {path} is no TOML file: {error}") from None
    for key in ("name", "kind"):
        if not isinstance(table.get(key), str) or not table[key].strip():
            raise UserError(f"the defence {spec} lacks {key!r}")
    if "kind" in changes:
        raise UserError(f"the kind of the defence {spec} is {table['kind']} and cannot be changed")
    return spec, {**table, **changes}


def _path(spec: str) -> Path:
    names = defense_names()
    if spec in names:
        return _FOLDER / f"{spec}.toml"
    path = Path(spec)
    if path.suffix == ".toml" and path.is_file():
        return path
    near = difflib.get_close_matches(spec, names, n=1)
    raise UserError(
        f"no defence {spec!r}: it is neither a TOML file nor one of the shipped defences"
        + (f"; the nearest of these is {near[0]}" if near else f": {', '.join(names)}")
    )


def _perplexity(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.perplexity import fit_model_filter, fit_ngram_filter

    corpus = parts.clean(settings.name)
    rate = settings.number("false_positive_rate")
    window = settings.integer("window", minimum=1)
    sample = settings.integer("sample", minimum=1)
    if settings.has("model"):
        from robustlab.models.load import load_target
        from robustlab.models.target import Score

        spec = settings.text("model")
        for unused in ("words", "characters", "folds"):
            if settings.has(unused):
                settings.integer(unused)
        settings.finish()
        model = load_target(spec)
        if model.kind != "causal" or Score not in model.answers:
            raise UserError(
                f"the defence {settings.name} needs a causal model, and {spec} is a {model.kind}"
            )
        return fit_model_filter(
            corpus,
            model,
            name=settings.name,
            false_positive_rate=rate,
            window=window,
            sample=sample,
            seed=parts.seed,
        )
    words = settings.integer("words", minimum=1)
    characters = settings.integer("characters", minimum=1)
    folds = settings.integer("folds", minimum=2)
    settings.finish()
    return fit_ngram_filter(
        corpus,
        name=settings.name,
        false_positive_rate=rate,
        window=window,
        words=words,
        characters=characters,
        folds=folds,
        sample=sample,
        seed=parts.seed,
    )


def _near_duplicate(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.duplicates import fit_near_duplicate_filter

    corpus = parts.clean(settings.name)
    rate = settings.number("false_positive_rate")
    shingle = settings.integer("shingle", minimum=1)
    spared = settings.integer("spared")
    sample = settings.integer("sample", minimum=1)
    settings.finish()
    return fit_near_duplicate_filter(
        corpus,
        name=settings.name,
        false_positive_rate=rate,
        shingle=shingle,
        spared=spared,
        sample=sample,
        seed=parts.seed,
    )


def _vae_settings(settings: Settings) -> VaeSettings:
    from robustlab.defense.vae import VaeSettings

    return VaeSettings(
        hidden=settings.integer("hidden", minimum=1),
        latent=settings.integer("latent", minimum=1),
        beta=settings.number("beta", high=1e6),
        noise=settings.number("noise", high=1e6),
        steps=settings.integer("steps", minimum=1),
        batch=settings.integer("batch", minimum=1),
        learning_rate=settings.number("learning_rate"),
    )


def _vae(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.vae import fit_vae_filter
    from robustlab.retrieval import DenseIndex, SentenceEncoder
    from robustlab.retrieval.encoder import BUILTIN

    corpus = parts.clean(settings.name)
    numbers = _vae_settings(settings)
    rate = settings.number("false_positive_rate")
    folds = settings.integer("folds", minimum=2)
    sample = settings.integer("sample", minimum=1)
    settings.finish()
    retriever = parts.pipeline(settings.name).retriever
    if isinstance(retriever, DenseIndex):
        encoder, vectors = retriever.encoder, retriever.vectors()
    else:
        # A lexical retriever has no embeddings; the filter judges passages by those of MiniLM.
        encoder = SentenceEncoder.load(BUILTIN)
        vectors = encoder.encode([p.contents for p in corpus.passages], role="document")
    return fit_vae_filter(
        corpus,
        encoder,
        vectors,
        numbers,
        name=settings.name,
        false_positive_rate=rate,
        folds=folds,
        sample=sample,
        seed=parts.seed,
    )


def _vae_denoise(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.crossfit import clean_sample
    from robustlab.defense.vae import VaeDenoiser, fit_vae
    from robustlab.retrieval import DenseIndex

    corpus = parts.clean(settings.name)
    numbers = _vae_settings(settings)
    share = settings.number("share")
    sample = settings.integer("sample", minimum=1)
    settings.finish()
    retriever = parts.pipeline(settings.name).retriever
    if not isinstance(retriever, DenseIndex):
        raise UserError(
            f"the defence {settings.name} works on embeddings, and this retriever has none; "
            "choose a dense one with --retriever"
        )
    places = clean_sample(corpus, sample, parts.seed, settings.name)
    model = fit_vae(retriever.vectors()[places], numbers, parts.seed)
    about = {
        **{field: getattr(numbers, field) for field in numbers.__slots__},
        "clean_passages": len(places),
        "corpus_fingerprint": corpus.fingerprint(),
        "seed": parts.seed,
    }
    return VaeDenoiser(settings.name, model, share, about)


def _typo_repair(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.repair import TypoRepair
    from robustlab.resources import minilm_folder

    texts = parts.words(settings.name)
    least = settings.integer("least_length", minimum=1)
    settings.finish()
    # The whole words of MiniLM's vocabulary: the commonest of English, at hand anyway.
    entries = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    known = (entry for entry in entries if entry.isalpha())
    return TypoRepair(settings.name, texts, known, least)


def _unicode(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.repair import UnicodeRepair

    parts.classifier(settings.name)
    settings.finish()
    return UnicodeRepair(settings.name)


def _prompt(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.prompts import PromptFrame

    parts.pipeline(settings.name)
    frame = PromptFrame(
        settings.name,
        before=settings.text("before"),
        after=settings.text("after"),
        opening=settings.text("opening"),
        closing=settings.text("closing"),
    )
    settings.finish()
    return frame


def _majority(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.majority import MajorityVote

    parts.pipeline(settings.name)
    defense = MajorityVote(settings.name, settings.number("doubt"))
    settings.finish()
    return defense


def _keywords(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.keywords import FINALS, KeywordAggregation, Threshold

    parts.pipeline(settings.name)
    final = settings.choice("final", FINALS)
    defense = KeywordAggregation(
        settings.name,
        doubt=settings.number("doubt"),
        threshold=Threshold(settings.number("share"), settings.integer("count", minimum=1)),
        final="count" if final == "count" else "generator",
        branches=settings.integer("branches", minimum=1),
    )
    settings.finish()
    return defense


def _decoding(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.decoding import DecodingAggregation

    generator = parts.pipeline(settings.name).generator
    defense = DecodingAggregation(
        settings.name,
        doubt=settings.number("doubt"),
        lead=settings.number("lead", high=1e6),
        branches=settings.integer("branches", minimum=1),
    )
    settings.finish()
    defense.check(generator)
    return defense


def _ranmask(settings: Settings, parts: Parts) -> Defense:
    from robustlab.defense.ranmask import RanMask

    defense = RanMask(
        settings.name,
        kept=settings.number("kept"),
        copies=settings.integer("copies", minimum=1),
        samples=settings.integer("samples", minimum=1),
        error=settings.number("error", low=1e-12, high=0.5),
        mask=settings.text("mask"),
        seed=parts.seed,
    )
    settings.finish()
    return defense


_BUILDERS: Mapping[str, Callable[[Settings, Parts], Defense]] = {
    "perplexity": _perplexity,
    "near-duplicate": _near_duplicate,
    "vae": _vae,
    "vae-denoise": _vae_denoise,
    "typo-repair": _typo_repair,
    "unicode-normalise": _unicode,
    "prompt": _prompt,
    "majority-vote": _majority,
    "keyword-aggregation": _keywords,
    "decoding-aggregation": _decoding,
    "ranmask": _ranmask,
}
