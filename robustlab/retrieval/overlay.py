"""Passages added to and removed from an index that itself stays as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from robustlab.data.records import Passage
from robustlab.errors import UserError

__all__ = ["Overlay"]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Changes to a base of passages.

    ``added`` stand behind the base in the order of their addition; ``removed`` are positions in
    the base. A base of n passages and its overlay number their passages 0 … n − 1 and n ….
    """

    added: tuple[Passage, ...] = ()
    removed: frozenset[int] = frozenset()

    def changed(
        self,
        positions: Mapping[str, int],
        add: Sequence[Passage],
        remove: Collection[str],
    ) -> tuple[Overlay, tuple[int, ...]]:
        """A further overlay: first ``remove`` is taken away, then ``add`` is put in.

        ``positions`` maps the base's ids to their places. Also returns which of the passages
        added before are still there, by their index in ``added``. Raises :class:`UserError` for
        an id that is not there to be removed, or is there already and is added.
        """
        here = {passage.id: index for index, passage in enumerate(self.added)}
        removed = set(self.removed)
        for key in set(remove):
            if key in here:
                del here[key]
            elif key in positions and positions[key] not in removed:
                removed.add(positions[key])
            else:
                raise UserError(f"no passage has the id {key!r}, so it cannot be removed")
        kept = tuple(here.values())
        taken = set(here)
        for passage in add:
            in_base = passage.id in positions and positions[passage.id] not in removed
            if in_base or passage.id in taken:
                raise UserError(f"a passage with the id {passage.id!r} is there already")
            taken.add(passage.id)
        return Overlay((*(self.added[index] for index in kept), *add), frozenset(removed)), kept

    def fingerprint_parts(self) -> Iterator[str]:
        """Strings that tell two overlays apart, for a hash."""
        yield "removed"
        yield from map(str, sorted(self.removed))
        yield "added"
        for passage in self.added:
            yield from (passage.id, passage.title, passage.text)
