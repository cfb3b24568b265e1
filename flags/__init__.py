"""Command lines from frozen dataclasses: a field is a flag.

    @dataclass(frozen=True)
    class Flags:
        steps: int = flag(60, "most control steps of an episode", unit="control steps")

    flags = parse(Flags, argv, __doc__)

Only this file makes an ArgumentParser. Parsing loads nothing and writes nothing; whether the values go together is
checked afterwards by the command, which raises `FlagError` where they do not.
"""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class FlagError(ValueError):
    """A flag cannot be used; one line that names the flag, the value and the remedy."""


@dataclass(frozen=True)
class _About:
    """What a field says of its flag."""

    help: str
    unit: str
    choices: tuple[str, ...] | None
    metavar: str | tuple[str, ...] | None
    group: str
    default_says: str | None
    positional: bool


def flag(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: Sequence[str] | None = None,
    metavar: str | tuple[str, ...] | None = None,
    group: str = "",
    default_says: str | None = None,
) -> Any:
    """A dataclass field that is the flag of its name.

    Args:
        default: its value where the flag is not given; False makes it a switch.
        help: what it means, in a line.
        unit: of the value.
        choices: the values that it takes.
        metavar: what stands for the value in the help.
        group: the heading that it stands under.
        default_says: the default in words, where the value itself says nothing.
    """
    about = _About(help, unit, tuple(choices) if choices else None, metavar, group, default_says, positional=False)
    return field(default=default, metadata={"flag": about})


def positional(help: str, *, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field that is an argument without a flag."""
    about = _About(help, "", tuple(choices) if choices else None, None, "", None, positional=True)
    return field(metadata={"flag": about})


def required(help: str, *, metavar: str | None = None) -> Any:
    """A dataclass field that is a flag without which nothing can be done."""
    return field(metadata={"flag": _About(help, "", None, metavar, "", None, positional=False)})


def parse(
    flags: type[T], argv: Sequence[str] | None, description: str | None, recorded: Mapping[str, Any] | None = None
) -> T:
    """`argv` as an object of the dataclass `flags`; what is wrong ends the program with one line and exit code 2.

    Args:
        flags: the dataclass.
        argv: the arguments, None: the program's own.
        description: stands above the flags in --help.
        recorded: defaults that replace those of the dataclass.
    """
    parser = _Parser(description=description, formatter_class=_Help, allow_abbrev=False, usage=argparse.SUPPRESS)
    _add_fields(parser, flags)
    parser.set_defaults(**(recorded or {}))
    return _build(flags, parser.parse(argv))


def parse_command(
    commands: Mapping[str, tuple[type, str]], argv: Sequence[str] | None, description: str | None
) -> tuple[str, Any]:
    """The command that `argv` names, of those by name with their dataclasses and purposes, and its flags."""
    parser = _Parser(description=description, formatter_class=_Help, allow_abbrev=False, usage=argparse.SUPPRESS)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, (flags, purpose) in commands.items():
        command = subparsers.add_parser(
            name, help=purpose, description=purpose, formatter_class=_Help, allow_abbrev=False, usage=argparse.SUPPRESS
        )
        _add_fields(command, flags)
    values = parser.parse(argv)
    name = values.pop("command")
    return name, _build(commands[name][0], values)


def refuse(message: object) -> NoReturn:
    """End the program as bad input does: one line, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def as_flag_error(*kinds: type[Exception], about: str = "") -> Iterator[None]:
    """Errors of these kinds are `about` what the user gave, a flag and its value."""
    try:
        yield
    except kinds as error:
        raise FlagError(f"{about}: {error}" if about else str(error)) from error


def exit_code(work: Callable[[], int], *failures: type[Exception], interrupted: str = "") -> int:
    """The exit code of a command that does `work`.

    A FlagError is refused, with 2. One of `failures` is one line and 1; a KeyError among them is something that an
    episode lacks. Ctrl-C is 130, and says `interrupted`. Whatever else comes is a fault of the program's own.
    """
    try:
        return work()
    except KeyboardInterrupt:
        print(interrupted, end="\n" if interrupted else "", file=sys.stderr)
        return 128 + signal.SIGINT
    except FlagError as error:
        refuse(error)
    except failures as error:
        message = " ".join(str(error).split())
        if isinstance(error, KeyError):
            message = f"an episode is not whole: {error.args[0]}; vpl_dataset.py validate says which"
        print(f"error: {message}", file=sys.stderr)
        return 1


def converted(flags: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values`, JSON types, that are flags of the dataclass, in their types."""
    hints = get_type_hints(flags)
    result: dict[str, Any] = {}
    for f, _ in described(flags):
        if f.name in values:
            kind, many = _value_type(hints[f.name])
            value = values[f.name]
            if isinstance(value, list):
                value = tuple(map(kind, value))
            elif value is not None and many is None and kind in (str, Path):
                value = kind(value)
            result[f.name] = value
    return result


def described(flags: type) -> Iterator[tuple[Field, _About]]:
    """The flags of a dataclass in order, with what is said of them."""
    return ((f, f.metadata["flag"]) for f in fields(flags) if "flag" in f.metadata)


def default_text(field: Field, about: _About) -> str:
    """A flag's default as the help and the guide show it; "" where there is none."""
    if about.default_says is not None:
        return about.default_says
    default = field.default
    if default is MISSING or default is None or default == "":
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(f"{number:g}" for number in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _add_fields(parser: argparse.ArgumentParser, flags: type) -> None:
    hints = get_type_hints(flags)
    groups: dict[str, Any] = {"": parser}
    for f, about in described(flags):
        if about.group not in groups:
            groups[about.group] = parser.add_argument_group(about.group)
        kind, many = _value_type(hints[f.name])
        options: dict[str, Any] = {"help": _help_text(f, about), "metavar": about.metavar, "choices": about.choices}
        if f.default is False:
            options = {"help": options["help"], "action": "store_true"}
        elif about.positional:
            options |= {"type": kind, "nargs": many, "metavar": f.name}
        elif f.default is MISSING:
            options |= {"type": kind, "nargs": many, "required": True}
        elif many == "+":
            options |= {"type": kind, "action": "append", "default": []}
        else:
            options |= {"type": kind, "nargs": many, "default": f.default}
        names = [f.name] if about.positional else [f"--{f.name}"]
        groups[about.group].add_argument(
            *names, **{k: v for k, v in options.items() if v is not None or k == "default"}
        )


def _help_text(f: Field, about: _About) -> str:
    default = "" if f.default is False else default_text(f, about)
    extra = ", ".join(part for part in (about.unit, f"default {default}" if default else "") if part)
    return (f"{about.help} ({extra})" if extra else about.help).replace("%", "%%")


def _value_type(hint: Any) -> tuple[Any, int | str | None]:
    """The type of one value, and how many there are: a number, "+" for any number, None for one."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return (parts[0], "+") if parts[-1] is Ellipsis else (parts[0], len(parts))
    return hint, None


def _build(flags: type[T], values: dict[str, Any]) -> T:
    return flags(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class _Parser(argparse.ArgumentParser):
    """One line for what is wrong, with the nearest flag that there is."""

    def parse(self, argv: Sequence[str] | None) -> dict[str, Any]:
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            self._refuse_unknown(unknown[0], namespace)
        return vars(namespace)

    def _refuse_unknown(self, word: str, namespace: argparse.Namespace) -> NoReturn:
        parser: argparse.ArgumentParser = self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser = action.choices[namespace.command]
        known = [name for action in parser._actions for name in action.option_strings]
        nearest = difflib.get_close_matches(word.partition("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists the flags"
        self.error(f"unrecognized argument {word}; {hint}")

    def error(self, message: str) -> NoReturn:
        refuse(message)


class _Help(argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and room for the longest flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)
