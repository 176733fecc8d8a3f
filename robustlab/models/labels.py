"""The classes of a data set as a classifier numbers them."""

from __future__ import annotations

from collections.abc import Sequence

from robustlab.errors import UserError
from robustlab.models.target import Target

__all__ = ["align_labels"]


def align_labels(data_names: Sequence[str], target: Target) -> tuple[int, ...]:
    """The target's class for each label of the data.

    The same names in another order or case are matched by name. Different names (``LABEL_0``)
    are matched by position, since a set's indices mean the classes in their order.

    Raises:
        UserError: the target has fewer or more classes than the data have labels.
    """
    names = target.label_names
    if len(names) != len(data_names):
        raise UserError(
            f"{target.spec} tells {len(names)} classes apart ({', '.join(names)}), but the data "
            f"have {len(data_names)} labels ({', '.join(data_names)})"
        )
    by_name = {name.casefold(): number for number, name in enumerate(names)}
    wanted = [name.casefold() for name in data_names]
    if len(by_name) == len(names) and set(by_name) == set(wanted):
        return tuple(by_name[name] for name in wanted)
    return tuple(range(len(names)))
