"""Writes an almanac of a world that does not exist, with questions about it.

The passages are training data for extractive reading: no pretrained model can know the answers, so
a reader has to find the subject's name in a passage and copy the span that answers. The words, the
relations and their phrasings stand in ``almanac.toml`` beside this file; this is what draws from
them.

    python scripts/make_almanac.py --passages 2000 --seed 0 --out DIR

writes DIR in BEIR layout (``corpus.jsonl``, ``queries.jsonl`` with ``answers``,
``qrels/train.tsv``) and a ``card.toml``. The same seed gives the same bytes everywhere, and a
smaller almanac is the beginning of a larger one with the same seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Almanac", "Passage", "Question", "main", "make_almanac", "write_almanac"]

CONTENT = Path(__file__).with_name("almanac.toml")
WORDS_PER_PASSAGE = range(45, 121)
SENTENCES_PER_PASSAGE = range(4, 9)
WORDS_PER_ANSWER = range(1, 6)
FEWEST_FACTS = 4
CASUAL_SHARE = 0.05  # of the questions: lower-cased or without the question mark

Item = TypeVar("Item")


# --------------------------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of the corpus: 45 to 120 words on one to three entities of a kind."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one right answer; every string in ``answers`` stands in the passage."""

    id: str
    text: str
    answers: tuple[str, ...]
    passage_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Almanac:
    """The whole corpus, in the order in which it was written."""

    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]


# --------------------------------------------------------------------------------- grammar


@dataclass(frozen=True, slots=True)
class Relation:
    """One attribute of a kind: how its value is drawn, told and asked for."""

    name: str
    value: str
    say: tuple[str, ...]
    aside: tuple[str, ...]
    ask: tuple[str, ...]
    reverse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing the world holds, such as towns or ships."""

    name: str
    noun: str
    plural: str
    copula: str
    pool: str
    names: tuple[str, ...]
    intro: tuple[str, ...]
    stray: tuple[str, ...]
    relations: tuple[Relation, ...]

    @property
    def is_person(self) -> bool:
        """People are called by surname and by she or he; all else is ``the noun`` and it."""
        return not self.noun


@dataclass(frozen=True, slots=True)
class Sound:
    """A phonology: a coined word is a start, one or more middles and an end."""

    start: tuple[str, ...]
    middle: tuple[str, ...]
    end: tuple[str, ...]
    kin: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Everything that ``almanac.toml`` says."""

    words: Mapping[str, tuple[str, ...]]
    places: tuple[Sound, ...]
    female: Sound
    male: Sound
    kinds: tuple[Kind, ...]


def _relation(name: str, table: Mapping[str, Any]) -> Relation:
    lists = {key: tuple(table.get(key, ())) for key in ("say", "aside", "ask", "reverse")}
    return Relation(name=name, value=table["value"], **lists)


def _kind(name: str, table: Mapping[str, Any]) -> Kind:
    return Kind(
        name=name,
        noun=table["noun"],
        plural=table["plural"],
        copula=table.get("copula", "is"),
        pool=table.get("pool", ""),
        names=tuple(table.get("name", ())),
        intro=tuple(table["intro"]),
        stray=tuple(table["stray"]),
        relations=tuple(_relation(key, fact) for key, fact in table["facts"].items()),
    )


def _sound(table: Mapping[str, Sequence[str]]) -> Sound:
    return Sound(*(tuple(table.get(part, ())) for part in ("start", "middle", "end", "kin")))


@cache
def load_grammar() -> Grammar:
    """Reads ``almanac.toml``."""
    table = tomllib.loads(CONTENT.read_text(encoding="utf-8"))
    sounds = table["sounds"]
    return Grammar(
        words={name: tuple(entries) for name, entries in table["words"].items()},
        places=tuple(_sound(sound) for sound in sounds["places"].values()),
        female=_sound(sounds["female"]),
        male=_sound(sounds["male"]),
        kinds=tuple(_kind(name, kind) for name, kind in table["kinds"].items()),
    )


# Slots that wait until a sentence is written, when its subject and its value are known.
PRONOUN_SLOTS = ("they", "their", "them")
LATE_SLOTS = frozenset({"S", "S's", "O", "V", "a V", "short", *PRONOUN_SLOTS})
SLOT = re.compile(r"\{([^{}]+)\}")


@cache
def parse(pattern: str) -> tuple[str | tuple[str, ...], ...]:
    """Splits a pattern into literal text (str) and slots (tuples of a name and its arguments)."""
    parts: list[str | tuple[str, ...]] = []
    for number, piece in enumerate(SLOT.split(pattern)):
        if number % 2 == 0:
            parts.append(piece)
        else:
            parts.append("{" + piece + "}" if piece in LATE_SLOTS else tuple(piece.split()))
    return tuple(parts)


# ------------------------------------------------------------------------------------ dice


class Dice:
    """A stream of choices that is the same under every Python version and hash seed.

    Python promises only that ``random()`` keeps its sequence for a given seed; ``choice``,
    ``shuffle`` and ``sample`` have changed before. So all draws are made from ``random()`` here,
    and the seed comes from SHA-256, because ``hash`` of a string differs from process to process.
    """

    def __init__(self, label: str) -> None:
        digest = hashlib.sha256(label.encode("utf-8")).digest()
        self._random = random.Random(int.from_bytes(digest[:8], "big")).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self._random() * len(items))]

    def sample(self, items: Iterable[Item], count: int) -> list[Item]:
        """Up to ``count`` of the items, in random order."""
        left = list(items)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(min(count, len(left)))]

    def jostled(self, items: Sequence[Item], strength: int) -> list[Item]:
        """The items in nearly their own order."""
        keys = [place + self._random() * strength for place in range(len(items))]
        return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]


# -------------------------------------------------------------------------------- spelling

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
# Coined words that contain one of these are coined again.
UNWANTED = (
    "anus",
    "cock",
    "cunt",
    "fuck",
    "homo",
    "naz",
    "nig",
    "penis",
    "piss",
    "porn",
    "rape",
    "shit",
)
ARTICLE = re.compile(r"\b([Aa])n? (?=([\"A-Za-z0-9-]+))")
STARTS_WITH_VOWEL_SOUND = re.compile(
    r"[\"]?(?:[aei]|o(?!nce\b|ne\b)|u(?!ni[^nm])|8|11\b|18\b|hour|heir)"
)


def in_words(number: int) -> str:
    """A number below one hundred in words: 42 is forty-two."""
    if number < len(ONES):
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


NUMBERS_ABOVE_ONE = frozenset(map(in_words, range(2, 100)))


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, past an opening quotation mark."""
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def with_articles(text: str) -> str:
    """Puts ``a`` or ``an`` as the next word asks."""

    def chosen(match: re.Match[str]) -> str:
        vowel = STARTS_WITH_VOWEL_SOUND.match(match[2].lower())
        return f"{match[1]}n " if vowel else f"{match[1]} "

    return ARTICLE.sub(chosen, text)


def bare(text: str) -> str:
    """A value without its quotation marks and leading article, as an answer is given."""
    text = text.strip('"')
    for article in ("the ", "a ", "an "):
        text = text.removeprefix(article)
    return text


def with_indefinite(value: str) -> str:
    """``a`` or ``an`` before a value, unless it is a plural that starts with a number."""
    is_plural = value.partition(" ")[0] in NUMBERS_ABOVE_ONE
    return value if is_plural else with_articles(f"a {value}")


def possessive(name: str) -> str:
    """The name with an apostrophe and s."""
    return f"{name}'s"


# -------------------------------------------------------------------------------- entities


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world, with a value for every relation of its kind."""

    kind: Kind
    name: str
    female: bool
    facts: Mapping[str, str]

    @property
    def short(self) -> str:
        """The surname of a person, or the name without its article."""
        return self.name.rsplit(" ", 1)[-1] if self.kind.is_person else bare(self.name)

    @property
    def pronouns(self) -> tuple[str, str, str]:
        """Subject, possessive and object form."""
        if not self.kind.is_person:
            return "it", "its", "it"
        return ("she", "her", "her") if self.female else ("he", "his", "him")


class District:
    """A corner of the world whose towns, rivers and families its entities share.

    Passages of a district therefore resemble each other: same town, same surname, same relations,
    other values. It also does the drawing, and sees to it that no two values within a passage and
    no two names within the corpus are alike.
    """

    def __init__(self, grammar: Grammar, dice: Dice, taken: set[str]) -> None:
        """``taken`` holds every unique name of the corpus so far; all districts share it."""
        self.grammar = grammar
        self.dice = dice
        self._taken = taken
        self._used: list[str] = []  # what the passage at hand already holds
        self._drawers: dict[str, Callable[..., str]] = {
            "year": lambda low, high: str(self._between(low, high)),
            "num": lambda low, high: f"{self._between(low, high):,}",
            "round": lambda low, high, step: f"{self._round(low, high, step):,}",
            "few": lambda low, high: in_words(self._between(low, high)),
            "dec": lambda low, high: f"{self._between(low, high) / 10:.1f}",
            "date": self._date,
            "coined": self._coined,
            "stem": self._stem,
            "surname": self._surname,
            "female": lambda: self._coin(self.grammar.female, self.grammar.female.end),
            "male": lambda: self._coin(self.grammar.male, self.grammar.male.end),
            "person": self._person,
            "relative": lambda: f"{self.expand('{given}')} {self.dice.pick(self.families)}",
            "land": lambda: self.land,
            "town": lambda: self.dice.pick(self.towns),
            "river": lambda: self.dice.pick(self.rivers),
            "new": lambda place: self.unique((f"{{{place}_name}}",)),
            "lower": lambda slot: self._slot((slot,), {}).lower(),
        }
        self.sound = self.dice.pick(self.grammar.places)
        self.families = [self._surname() for _ in range(3)]
        self.land = self.unique(("{land_name}",))
        self.towns = [self.unique(("{town_name}",)) for _ in range(11)]
        self.rivers = [self.unique(("{river_name}",)) for _ in range(7)]
        self._natives = {"town": list(self.towns), "river": list(self.rivers)}

    def expand(self, pattern: str, facts: Mapping[str, str] | None = None) -> str:
        """Fills the slots of a pattern; no slot gets what an earlier one of the pattern got."""
        drawn: list[str] = []
        written: list[str] = []
        for part in parse(pattern):
            if isinstance(part, str):
                written.append(part)
                continue
            word = self._slot(part, facts or {})
            for _ in range(8):
                if word not in drawn:
                    break
                word = self._slot(part, facts or {})
            drawn.append(word)
            written.append(word)
        return "".join(written)

    def unique(self, patterns: Sequence[str]) -> str:
        """A name that nothing else in the corpus has.

        Ends because every list of names holds patterns with a coined word, of any length.
        """
        while True:
            name = with_articles(self.expand(self.dice.pick(patterns)))
            key = bare(name).lower()
            if key not in self._taken:
                self._taken.add(key)
                return name

    def fresh(self, pattern: str, facts: Mapping[str, str] | None = None) -> str:
        """A value unlike all that the passage already holds."""
        value = self.expand(pattern, facts)
        for _ in range(60):
            if not self._clashes(value):
                break
            value = self.expand(pattern, facts)
        self._used.append(bare(value).lower())
        return with_articles(value)

    def stray(self, pattern: str) -> str:
        """A sentence that answers no question, with fresh names and numbers."""
        parts = parse(pattern)
        return "".join(
            part if isinstance(part, str) else self.fresh("{" + " ".join(part) + "}")
            for part in parts
        )

    def entities(self, kind: Kind, count: int) -> list[Entity]:
        """The subjects of the next passage."""
        names = [self._entity_name(kind) for _ in range(count)]
        self._used = [bare(name).lower() for name in names]
        return [self._entity(kind, name) for name in names]

    def _entity(self, kind: Kind, name: str) -> Entity:
        facts: dict[str, str] = {}
        for relation in kind.relations:
            facts[relation.name] = self.fresh(relation.value, facts)
        return Entity(kind=kind, name=name, female=self.dice.chance(0.5), facts=facts)

    def _entity_name(self, kind: Kind) -> str:
        if not kind.pool:
            return self.unique(kind.names)
        natives = self._natives[kind.pool]
        return natives.pop() if natives else self.unique((f"{{{kind.pool}_name}}",))

    def _clashes(self, value: str) -> bool:
        padded = f" {bare(value).lower()} "
        return any(f" {word} " in padded or padded in f" {word} " for word in self._used)

    def _slot(self, slot: tuple[str, ...], facts: Mapping[str, str]) -> str:
        name, *arguments = slot
        if name == "later":
            earlier, low, high = arguments
            return str(int(facts[earlier][-4:]) + self._between(low, high))
        if name in self._drawers:
            return self._drawers[name](*arguments)
        words = self.expand(self.dice.pick(self.grammar.words[name.lower()]))
        return words if name.islower() else " ".join(map(capitalised, words.split(" ")))

    def _between(self, low: str, high: str) -> int:
        return self.dice.between(int(low), int(high))

    def _round(self, low: str, high: str, step: str) -> int:
        return self.dice.between(int(low) // int(step), int(high) // int(step)) * int(step)

    def _date(self, low: str, high: str) -> str:
        month = self.dice.pick(self.grammar.words["month"])
        return f"{self.dice.between(1, 28)} {month} {self._between(low, high)}"

    def _coin(self, sound: Sound, ends: Sequence[str]) -> str:
        """A word of this phonology that ends in one of ``ends``."""
        while True:
            middle = last = self.dice.pick(sound.middle)
            while self.dice.chance(0.18):
                following = self.dice.pick(sound.middle)
                if following != last:
                    middle, last = middle + following, following
            word = self.dice.pick(sound.start) + middle + self.dice.pick(ends)
            if not any(part in word.lower() for part in UNWANTED):
                return word

    def _local_sound(self) -> Sound:
        return self.sound if self.dice.chance(0.75) else self.dice.pick(self.grammar.places)

    def _coined(self) -> str:
        sound = self._local_sound()
        return self._coin(sound, sound.end)

    def _stem(self) -> str:
        return self._coin(self._local_sound(), ("",))

    def _surname(self) -> str:
        if self.dice.chance(0.3):
            return self.dice.pick(self.grammar.words["plain_surname"])
        sound = self._local_sound()
        return self._coin(sound, sound.kin)

    def _person(self) -> str:
        name = self.unique(("{relative}", "{full_name}", "{full_name}"))
        return f"{self.expand('{rank}')} {name}" if self.dice.chance(0.12) else name


# ------------------------------------------------------------------------------- sentences

# A phrase that starts like this can only follow the subject; the others can also come before it.
RELATIVE = ("which ", "who ", "whose ", "where ", "from which ")
PREPOSITION = (
    r"\b(?:above|as|at|below|beneath|beside|by|down|for|from|in|inside|into|of|off|on|over|past|"
    r"than|through|to|under|up|with|without) "
)
UNFIT_FOR_PRONOUN = re.compile(rf"{PREPOSITION}\{{S\}}|^\{{S\}}, ", re.IGNORECASE)
# Only such a sentence leaves no doubt whom a pronoun in the next one means.
PLAIN_SUBJECT = re.compile(r"^\{S\}|, \{S\}|^(?:In|At|On|For|After|With|By) [^,{]*\{S\}")


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence in which only the mention of its subject is still open."""

    subject: Entity | None
    text: str


def filled(pattern: str, entity: Entity, value: str = "") -> str:
    """The pattern with everything but the mention of the subject."""

    def late(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "V":
            return value
        if slot == "a V":
            return with_indefinite(value)
        if slot == "short":
            return entity.short
        if slot in PRONOUN_SLOTS:
            return entity.pronouns[PRONOUN_SLOTS.index(slot)]
        return match[0]

    return SLOT.sub(late, pattern)


def mentioned(text: str, entity: Entity, how: str) -> str:
    """The text with the subject put in as its ``name``, ``noun`` or ``pronoun``."""
    if how == "pronoun":
        subject, owner, target = entity.pronouns
    else:
        noun = entity.short if entity.kind.is_person else f"the {entity.kind.noun}"
        subject = target = entity.name if how == "name" else noun
        owner = possessive(subject)
    return text.replace("{S}", subject).replace("{S's}", owner).replace("{O}", target)


class Writer:
    """Tells facts in sentences and sentences in passages."""

    def __init__(self, district: District) -> None:
        self.district = district
        self.dice = district.dice
        self._intros: list[str] = []  # each at most once in a passage
        self._said: set[str] = set()  # phrasings that the passage already has

    def passage(self, entities: Sequence[Entity]) -> tuple[str, list[tuple[Entity, Relation]]]:
        """A text of the right size on these entities, and the facts that it tells."""
        while True:
            self._intros = self.dice.sample(entities[0].kind.intro, len(entities))
            self._said.clear()
            plan = self._plan(entities)
            told = [(entity, relation) for entity, facts in plan for relation in facts]
            sentences = self._sentences(self._lines(plan), alone=len(entities) == 1)
            text = " ".join(sentences)
            if (
                len(told) >= FEWEST_FACTS
                and len(sentences) in SENTENCES_PER_PASSAGE
                and len(text.split()) in WORDS_PER_PASSAGE
            ):
                return text, told

    def _plan(self, entities: Sequence[Entity]) -> list[tuple[Entity, list[Relation]]]:
        """Which facts to tell; several entities share most relations, so that the name decides."""
        kind = entities[0].kind
        relations = self.dice.sample(kind.relations, 8)
        if len(entities) == 1:
            return [(entities[0], self._ordered(relations[: self.dice.between(5, 8)], kind))]
        shared, others = relations[: 5 - len(entities)], relations[5 - len(entities) :]
        extra = self.dice.between(0, 1)
        return [
            (entity, self._ordered(shared + self.dice.sample(others, extra), kind))
            for entity in entities
        ]

    def _ordered(self, relations: Sequence[Relation], kind: Kind) -> list[Relation]:
        """Nearly in the order of the kind, so that a birth is told early and a death late."""
        return self.dice.jostled(sorted(relations, key=kind.relations.index), 4)

    def _lines(self, plan: Sequence[tuple[Entity, list[Relation]]]) -> list[Line]:
        if len(plan) == 1:
            entity, relations = plan[0]
            lines = self._introduced(entity, self._told(entity, relations))
            return self._with_strays(lines, entity.kind, self.dice.between(1, 2))
        if self.dice.chance(0.4):
            lines = self._in_turn(plan)
        else:
            lines = self._one_after_another(plan)
        strays = self.dice.between(0, 1) if len(plan) == 2 else 0
        return self._with_strays(lines, plan[0][0].kind, strays)

    def _one_after_another(self, plan: Sequence[tuple[Entity, list[Relation]]]) -> list[Line]:
        """All of the first entity, then all of the second; at times a comparison in between."""
        (first, facts), (second, others) = plan[0], plan[1]
        contrast: list[Line] = []
        shared = [relation for relation in facts if relation in others]
        if shared and self.dice.chance(0.6):
            relation = self.dice.pick(shared)
            contrast = self._contrast(first, second, relation)
        if contrast:
            facts = [other for other in facts if other is not relation]
            others = [other for other in others if other is not relation]
        lines = self._introduced(first, self._told(first, facts)) + contrast
        lines += self._told(second, others)
        for entity, relations in plan[2:]:
            lines += self._introduced(entity, self._told(entity, relations))
        return lines

    def _in_turn(self, plan: Sequence[tuple[Entity, list[Relation]]]) -> list[Line]:
        """The entities take turns, a sentence each."""
        columns = [
            self._introduced(entity, self._told(entity, relations)) for entity, relations in plan
        ]
        longest = max(map(len, columns))
        return [lines[row] for row in range(longest) for lines in columns if row < len(lines)]

    def _told(self, entity: Entity, relations: Sequence[Relation]) -> list[Line]:
        """The facts in sentences of one or two facts each."""
        lines: list[Line] = []
        left = list(relations)
        while left:
            relation = left.pop(0)
            text = filled(self._phrase(relation.say), entity, entity.facts[relation.name])
            if left and text.startswith("{S} ") and self.dice.chance(0.5):
                text = self._joined(text, entity, left.pop(0))
            lines.append(Line(entity, text))
        return lines

    def _phrase(self, patterns: Sequence[str]) -> str:
        """One of the phrasings, rarely one that the passage has already."""
        pattern = self.dice.pick(patterns)
        if pattern in self._said and self.dice.chance(0.8):
            unsaid = [other for other in patterns if other not in self._said]
            pattern = self.dice.pick(unsaid or patterns)
        self._said.add(pattern)
        return pattern

    def _joined(self, text: str, entity: Entity, relation: Relation) -> str:
        """The sentence with a second fact beside its subject, before it, or after ``and``."""
        value = entity.facts[relation.name]
        other = filled(self._phrase(relation.say), entity, value)
        rest = text.removeprefix("{S} ")
        if other.startswith("{S} ") and "," not in text and self.dice.chance(0.4):
            return f"{text[:-1]} and {other.removeprefix('{S} ')}"
        return self._beside(filled(self._phrase(relation.aside), entity, value), rest)

    def _beside(self, phrase: str, rest: str) -> str:
        if phrase.startswith(RELATIVE) or self.dice.chance(0.5):
            return f"{{S}}, {phrase}, {rest}"
        return f"{phrase}, {{S}} {rest}"

    def _introduced(self, entity: Entity, lines: list[Line]) -> list[Line]:
        """The lines with a word on what their subject is, in the first of them or before it."""
        first = lines[0].text
        intro = self.district.expand(self._intros.pop())
        if first.startswith("{S} ") and self.dice.chance(0.75):
            return [Line(entity, self._beside(intro, first.removeprefix("{S} "))), *lines[1:]]
        return [Line(entity, f"{{S}} {entity.kind.copula} {intro}."), *lines]

    def _contrast(self, first: Entity, second: Entity, relation: Relation) -> list[Line]:
        """One sentence that sets the two entities side by side, if the phrasings allow it."""
        clauses = [
            mentioned(filled(pattern, entity, entity.facts[relation.name]), entity, "name")
            for entity in (first, second)
            if (pattern := self.dice.pick(relation.say)).startswith("{S} ") and "," not in pattern
        ]
        if len(clauses) < 2:
            return []
        link = self.dice.pick((", while ", ", whereas ", "; by contrast, ", ", but "))
        return [Line(None, clauses[0][:-1] + link + clauses[1])]

    def _with_strays(self, lines: list[Line], kind: Kind, count: int) -> list[Line]:
        lines = list(lines)
        for pattern in self.dice.sample(kind.stray, count):
            place = self.dice.between(1, len(lines))
            lines.insert(place, Line(None, self.district.stray(pattern)))
        return lines

    def _sentences(self, lines: Sequence[Line], *, alone: bool) -> list[str]:
        """The lines with their subjects named so that each reference is clear."""
        written: list[str] = []
        named: set[str] = set()
        before: Entity | None = None
        for line in lines:
            text = line.text
            if line.subject is not None:
                how = self._mention(line, before, known=line.subject.name in named, alone=alone)
                text = mentioned(text, line.subject, how)
                named.add(line.subject.name)
            before = line.subject if PLAIN_SUBJECT.search(line.text) else None
            written.append(capitalised(with_articles(text)))
        return written

    def _mention(self, line: Line, before: Entity | None, *, known: bool, alone: bool) -> str:
        """A pronoun only right after a sentence on the same subject, a noun only if it is alone."""
        if not known:
            return "name"
        fit = line.subject is before and not UNFIT_FOR_PRONOUN.search(line.text)
        if fit and self.dice.chance(0.7):
            return "pronoun"
        return "noun" if alone and self.dice.chance(0.55) else "name"


# ------------------------------------------------------------------------------- questions


def _as_it_stands(answer: str, text: str) -> str:
    """The answer in the case in which the passage has it: a sentence may begin with it."""
    for form in (answer, capitalised(answer)):
        if form in text:
            return form
    raise ValueError(f"the passage does not hold the answer {answer!r}: {text}")


def _answers(value: str, ranks: Sequence[str], text: str) -> tuple[str, ...]:
    """The value as an answer; a person is rightly named with or without a rank."""
    full = bare(value)
    rank, _, name = full.partition(" ")
    forms = (full, name) if rank in ranks else (full,)
    return tuple(_as_it_stands(form, text) for form in forms)


def _casual(text: str, dice: Dice) -> str:
    """Now and then a question as people type it."""
    if not dice.chance(CASUAL_SHARE):
        return text
    return text.lower() if dice.chance(0.5) else text.rstrip("?.")


def _asked(entity: Entity, relation: Relation, dice: Dice) -> tuple[str, str]:
    """A question on the fact and the value that answers it."""
    value = entity.facts[relation.name]
    backwards = bool(relation.reverse) and dice.chance(0.3)
    pattern = dice.pick(relation.reverse if backwards else relation.ask)
    text = mentioned(filled(pattern, entity, value), entity, "name")
    return _casual(capitalised(text), dice), entity.name if backwards else value


# ----------------------------------------------------------------------------------- world

KINDS_PER_DISTRICT = 4
# How many entities each passage of a kind tells of, in one district.
GROUPS = ((1, 2), (2, 1), (1, 3), (3, 1), (1, 1, 2), (2, 1, 1), (2, 2), (1, 2, 2))


def _title(entities: Sequence[Entity], land: str, dice: Dice) -> str:
    if len(entities) == 1:
        return capitalised(bare(entities[0].name))
    if dice.chance(0.5):
        return f"{in_words(len(entities)).capitalize()} {entities[0].kind.plural} of {land}"
    names = [bare(entity.name) for entity in entities]
    return capitalised(f"{', '.join(names[:-1])} and {names[-1]}")


Page = tuple[str, str, list[tuple[str, tuple[str, ...]]]]  # title, text, questions with answers


def _pages(grammar: Grammar, seed: int) -> Iterator[Page]:
    """One passage after another, without end."""
    taken: set[str] = set()
    number = 0
    while True:
        dice = Dice(f"almanac/{seed}/{number}")
        district = District(grammar, dice, taken)
        writer = Writer(district)
        for kind in dice.sample(grammar.kinds, KINDS_PER_DISTRICT):
            for size in dice.pick(GROUPS):
                entities = district.entities(kind, size)
                text, told = writer.passage(entities)
                questions = []
                for entity, relation in dice.sample(told, dice.between(3, 5)):
                    question, value = _asked(entity, relation, dice)
                    questions.append((question, _answers(value, grammar.words["rank"], text)))
                yield _title(entities, district.land, dice), text, questions
        number += 1


def make_almanac(passages: int, seed: int) -> Almanac:
    """Writes so many passages of the world with this seed, and three to five questions on each."""
    if passages < 1:
        raise ValueError("an almanac needs at least one passage")
    corpus: list[Passage] = []
    questions: list[Question] = []
    pages = islice(_pages(load_grammar(), seed), passages)
    for number, (title, text, asked) in enumerate(pages):
        passage_id = f"p{number:07d}"
        corpus.append(Passage(passage_id, title, text))
        for place, (question, answers) in enumerate(asked):
            questions.append(Question(f"{passage_id}-q{place}", question, answers, (passage_id,)))
    return Almanac(tuple(corpus), tuple(questions))


# ----------------------------------------------------------------------------------- files


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _qrels(questions: Sequence[Question]) -> str:
    pairs = ((question.id, page) for question in questions for page in question.passage_ids)
    return "query-id\tcorpus-id\tscore\n" + "".join(
        f"{query}\t{page}\t1\n" for query, page in pairs
    )


def _card(almanac: Almanac, seed: int, split: str) -> str:
    passages, questions = len(almanac.passages), len(almanac.questions)
    command = f"scripts/make_almanac.py --passages {passages} --seed {seed} --split {split}"
    return f"""\
what = "Passages on a fictional world, with questions whose answers stand in them"
author = "robustlab"
generator = "{command}"
content_sha256 = "{hashlib.sha256(CONTENT.read_bytes()).hexdigest()}"
seed = {seed}
licence = "Apache-2.0"

[counts]
passages = {passages}
questions = {questions}

[splits]
{split} = {questions}
"""


def _files(almanac: Almanac, seed: int, split: str) -> dict[str, str]:
    corpus = ({"_id": page.id, "title": page.title, "text": page.text} for page in almanac.passages)
    queries = (
        {"_id": question.id, "text": question.text, "answers": question.answers}
        for question in almanac.questions
    )
    return {
        "corpus.jsonl": _jsonl(corpus),
        "queries.jsonl": _jsonl(queries),
        f"qrels/{split}.tsv": _qrels(almanac.questions),
        "card.toml": _card(almanac, seed, split),
    }


def write_almanac(almanac: Almanac, out: Path, *, seed: int, split: str = "train") -> None:
    """Writes the corpus in BEIR layout; ``out`` appears complete or not at all.

    Raises FileExistsError if there is anything at ``out``.
    """
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        for name, text in _files(almanac, seed, split).items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


# ----------------------------------------------------------------------------------- shell


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _split_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of letters, digits, - and _ only")
    return text


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write an almanac of a fictional world.")
    parser.add_argument("--passages", type=_count, default=2000, metavar="N", help="default 2000")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes; default 0")
    parser.add_argument("--split", type=_split_name, default="train", help="default train")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist yet")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (0 done, 2 the user's mistake)."""
    arguments = _arguments(argv)
    if os.path.lexists(arguments.out):
        print(f"{arguments.out} exists already; name a folder that does not.", file=sys.stderr)
        return 2
    almanac = make_almanac(arguments.passages, arguments.seed)
    try:
        write_almanac(almanac, arguments.out, seed=arguments.seed, split=arguments.split)
    except OSError as error:
        print(f"{arguments.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    counts = f"{len(almanac.passages)} passages, {len(almanac.questions)} questions"
    print(f"{arguments.out}: {counts}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
