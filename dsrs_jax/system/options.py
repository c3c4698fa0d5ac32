"""A command's options, declared once: a frozen dataclass from which the parser is made.

    @dataclasses.dataclass(frozen=True)
    class Settings:
        n: int = option(50_000, "draws under each law", metavar="N", often=True)
        images: ImageOptions = group(ImageOptions)   # a dataclass of options that commands share

    settings = parse(Settings, argv, program="dsrs-jax certify")

An option's type is its field's: `bool` is a flag, `tuple[float, ...]` may be repeated, `X | None`
is an X that need not be given. A field without a default that is not a flag must be given.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from dsrs_jax.system.files import refuse_address

_KEY = "option"
Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class _Option:
    help: str
    metavar: str | None
    choices: Sequence[str] | None
    flags: tuple[str, ...]
    often: bool
    positional: bool
    local: bool
    several: bool


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    often: bool = False,
    positional: bool = False,
    local: bool = False,
    several: bool = False,
) -> Any:
    """A field that is an option.

    Args:
        default: of the field; without it the option must be given.
        help: one line; the default and the choices are added to it.
        metavar: what stands for the value in the help.
        choices: the values that are allowed.
        flags: its names, where they are not the field's with hyphens.
        often: whether it stands with the first options of the help.
        positional: whether it is given by its place.
        local: whether it is a path on this machine: an address is refused.
        several: whether values follow one another, instead of the option's being repeated.
    """
    found = _Option(help, metavar, choices, tuple(flags), often, positional, local, several)
    return dataclasses.field(default=default, metadata={_KEY: found})


def group(kind: type) -> Any:
    """A field that is a group of options; the first line of the dataclass names it in the help."""
    return dataclasses.field(default_factory=kind, metadata={_KEY: kind})


def parse(kind: type[Settings], argv: Sequence[str], *, program: str, description: str) -> Settings:
    """The settings that a command line gives; ends the program for --help and for a mistake.

    A mistake is told in one line, with exit code 2.
    """
    parser = _parser(kind, program, description)
    return _made(kind, vars(parser.parse_args(argv)))


def without(kind: type, words: Sequence[str]) -> list[str]:
    """A command's words without the options of one group."""
    parser = _OneLineParser(add_help=False, allow_abbrev=False)
    for field, found, hint in _options(kind):
        _add(parser, field, found, hint)
    return parser.parse_known_args(list(words))[1]


def _name(field: dataclasses.Field[Any], found: _Option) -> str:
    """As the help has it."""
    return (found.metavar or field.name.upper()) if found.positional else spelled(field.name)


def spelled(name: str) -> str:
    """A field's name as an option: grid_unit is --grid-unit."""
    return "--" + name.replace("_", "-")


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 110)
        super().__init__(prog, max_help_position=30, width=max(width - 2, 40))


def _parser(kind: type, program: str, description: str) -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog=program,
        usage=f"{program} " + "".join(f"{p} " for p in _positionals(kind)) + "[options]",
        description=description,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,  # the dataclass has the defaults
        allow_abbrev=False,
        add_help=False,
    )
    first = parser.add_argument_group("most used")
    groups: dict[type, Any] = {}
    rest = []
    for owner, field, found, hint in _all_options(kind):
        if found.positional or found.often:
            _add(first, field, found, hint)
        else:
            rest.append((owner, field, found, hint))
    alone = [owner for owner, *_ in rest]
    for owner, field, found, hint in rest:
        owner = kind if alone.count(owner) == 1 else owner  # one option needs no title
        if owner not in groups:
            title = "more" if owner is kind else _title(owner)
            groups[owner] = parser.add_argument_group(title)
        _add(groups[owner], field, found, hint)
    first.add_argument("--help", "-h", action="help", help="this list")
    return parser


def _title(kind: type) -> str:
    title = (kind.__doc__ or kind.__name__).strip().splitlines()[0].rstrip(".")
    return title[0].lower() + title[1:]


def _options(kind: type) -> Iterator[tuple[dataclasses.Field[Any], _Option, Any]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        found = field.metadata.get(_KEY)
        if isinstance(found, _Option):
            yield field, found, hints[field.name]


def _groups(kind: type) -> Iterator[tuple[str, type]]:
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        found = field.metadata.get(_KEY)
        if isinstance(found, type):
            yield field.name, found


def _all_options(kind: type) -> Iterator[tuple[type, dataclasses.Field[Any], _Option, Any]]:
    """In the order of the fields, groups where they stand."""
    own = {field.name: (field, found, hint) for field, found, hint in _options(kind)}
    nested = dict(_groups(kind))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in own:
            yield (kind, *own[field.name])
        elif field.name in nested:
            yield from _all_options(nested[field.name])


def _positionals(kind: type) -> list[str]:
    found = [(_name(f, o), o.several) for _, f, o, _ in _all_options(kind) if o.positional]
    return [f"{name} ..." if several else name for name, several in found]


def _add(parser: Any, field: dataclasses.Field[Any], found: _Option, hint: Any) -> None:
    inner, repeated = _value_type(hint)
    keywords: dict[str, Any] = {"help": _help(field, found)}
    names = found.flags or (spelled(field.name),)
    if found.positional:
        names = (field.name,)
    else:
        keywords["dest"] = field.name
        required = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        keywords["required"] = required
    if inner is bool:
        parser.add_argument(*names, action="store_true", **keywords)
        return
    if repeated:
        keywords["action"] = "extend" if found.several else "append"
    if found.several:
        needed = field.default is dataclasses.MISSING or not found.positional
        keywords["nargs"] = "+" if needed else "*"
    if inner is not str:
        keywords["type"] = inner
    keywords["metavar"] = found.metavar
    if found.choices is not None:
        keywords["choices"] = tuple(found.choices)
        keywords["metavar"] = found.metavar or "NAME"
    parser.add_argument(*names, **keywords)


def _help(field: dataclasses.Field[Any], found: _Option) -> str:
    """What the option is, which values it takes, and which one it has by itself."""
    parts = [found.help, ", ".join(found.choices or ())]
    said = ": ".join(part for part in parts if part)
    shown = isinstance(field.default, str | int | float) and field.default not in ("", False)
    return f"{said} ({field.default})" if shown else said


def _value_type(hint: Any) -> tuple[type, bool]:
    """(type of one value, whether the option may be repeated)."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _made(kind: type[Settings], given: dict[str, Any]) -> Settings:
    fields: dict[str, Any] = {}
    for field, found, _ in _options(kind):
        if field.name in given:
            value = given[field.name]
            for path in (value if isinstance(value, list) else [value]) if found.local else ():
                refuse_address(path, _name(field, found))
            fields[field.name] = tuple(value) if isinstance(value, list) else value
    for name, nested in _groups(kind):
        fields[name] = _made(nested, given)
    return kind(**fields)
