"""``--config FILE``: options of the commands in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from robustlab.errors import UserError

__all__ = ["config_option"]


def config_option() -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option ``--config``, read before all others; it gives them new defaults."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_apply,
        help="TOML file with options: top-k = 3, for one command alone under [COMMAND].",
    )


def _apply(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    assert ctx.command.name is not None
    assert ctx.parent is not None
    group = ctx.parent.command
    assert isinstance(group, click.Group)
    commands = {
        name: _options(command)
        for name in group.list_commands(ctx)
        if (command := group.get_command(ctx, name)) is not None
    }
    own = commands[ctx.command.name]
    defaults: dict[str, Any] = {}
    content = _read(value)
    # A key at the top may belong to another command only; the command's own table comes last.
    shared = {key: entry for key, entry in content.items() if key not in commands}
    for key, entry in shared.items():
        if not any(_option_name(key) in options for options in commands.values()):
            raise UserError(f"{value}: no command has the option {key!r}")
        if _option_name(key) in own:
            defaults |= _default(own, key, entry, value)
    for name, options in commands.items():
        table = content.get(name, {})
        if not isinstance(table, Mapping):
            raise UserError(f"{value}: {name!r} is a command, so it must be a table: [{name}]")
        for key, entry in table.items():
            if _option_name(key) not in options:
                raise UserError(f"{value}: {name} has no option {key!r}")
            if options is own:
                defaults |= _default(own, key, entry, value)
    ctx.default_map = {**defaults, **(ctx.default_map or {})}  # --resume may have been first


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from None


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that a file may set, by their long name without dashes."""
    return {
        name.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.is_eager
        for name in parameter.opts
        if name.startswith("--")
    }


def _option_name(key: str) -> str:
    return key.replace("_", "-")


def _default(
    options: Mapping[str, click.Option], key: str, entry: Any, path: Path
) -> dict[str, Any]:
    """The entry under the parameter's name; click converts and checks it as if it were typed."""
    option = options[_option_name(key)]
    if option.is_flag != isinstance(entry, bool):
        raise UserError(f"{path}: {key} must {'' if option.is_flag else 'not '}be true or false")
    if not isinstance(entry, bool | int | float | str):
        raise UserError(f"{path}: {key} must be a single value, not {type(entry).__name__}")
    assert option.name is not None
    # As text, so that 2.5 is refused where a whole number is asked for.
    return {option.name: entry if isinstance(entry, bool) else str(entry)}
