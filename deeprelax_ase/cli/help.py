"""Help that reads well at 80 columns: options in groups, a default told one way, examples on their own lines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

from typer.core import TyperCommand, TyperGroup

from deeprelax_ase.cli.common import options_typed

#: Begins the lines of an epilog that stay as they are: examples, and tables.
_AS_IT_IS = "    "

#: Stands for a hyphen while lines are filled: they may end at others.
_HYPHEN = "\u2011"

#: Groups that come before the others.
_FIRST = ("Arguments", "Options")

#: Columns that names of options take at most before their text begins on the next line.
_NAMES = 26


class _Shown:
    """The parts of help that commands and groups share. ``formatter`` is click's, and writes into memory."""

    def get_help(self, ctx: Any) -> str:
        """All of it."""
        return super().get_help(ctx).replace(_HYPHEN, "-")  # type: ignore[misc]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_whole(inspect.cleandoc(self.help or "").partition("\f")[0]))  # type: ignore[attr-defined]

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the command with what it must be given."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]  # type: ignore[attr-defined]
        needed = [p.metavar if p.required else f"[{p.metavar}]" for p in arguments]
        more = ["COMMAND [ARGS]..."] if isinstance(self, TyperGroup) else []
        formatter.write_usage(ctx.command_path, " ".join(["[OPTIONS]", *needed, *more]))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options in their groups, and the commands of a group."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in _FIRST}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            if parameter.param_type_name == "argument":
                title = "Arguments"
            else:
                title = getattr(parameter, "rich_help_panel", None) or "Options"
            if not getattr(parameter, "hidden", False):
                groups.setdefault(title, []).append((_names(parameter), _text(parameter)))
        for title in sorted(groups, key=lambda title: title not in _FIRST):  # and the others in the order of options
            _write(formatter, title, groups[title])
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write examples as they stand, and fill what is said beside them."""
        for paragraph in (self.epilog or "").strip("\n").split("\n\n"):  # type: ignore[attr-defined]
            formatter.write_paragraph()
            if paragraph.startswith(_AS_IT_IS):
                formatter.write("".join(f"{line[2:]}\n" for line in paragraph.splitlines()))
            elif paragraph:
                formatter.write_text(_whole(" ".join(paragraph.split())))


class HelpCommand(_Shown, TyperCommand):
    """A command with such help, whose errors name its options as they are typed."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        options = (p for p in self.params if p.param_type_name == "option")
        typed = {str(p.name): (p.opts[-1], next(iter(p.secondary_opts), None)) for p in options}
        before = options_typed.set(typed)
        try:
            return super().invoke(ctx)
        finally:
            options_typed.reset(before)


class HelpGroup(_Shown, TyperGroup):
    """A group of commands with such help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by group, the first sentence of each whole."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            title = getattr(command, "rich_help_panel", None)
            groups.setdefault(title if isinstance(title, str) else "Commands", []).append(
                (name, command.get_short_help_str(limit=1000))
            )
        for title, rows in groups.items():
            _write(formatter, title, rows)


def _write(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=_NAMES)


def _names(parameter: Any) -> str:
    """``-o, --output OUT``; ``--relax-cell / --fixed-cell``."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += f" / {', '.join(parameter.secondary_opts)}"
    return names if parameter.is_flag else f"{names} {parameter.metavar or 'VALUE'}"


def _text(parameter: Any) -> str:
    """Help, and in the same words everywhere whether it must be given, or what it is by default."""
    parts = [f"{(parameter.help or '').rstrip('.')}."]
    if parameter.required:
        parts.append("Required.")
    elif default := _default(parameter):
        parts.append(f"Default: {default}.")
    return _whole(" ".join(parts))


def _whole(text: str) -> str:
    """``text`` whose options are not parted at their hyphens, as click fills lines."""
    return re.sub(r"(?<=\S)-|(?<=-)-", _HYPHEN, text)


def _default(parameter: Any) -> str:
    shown, value = parameter.show_default, parameter.default
    if isinstance(shown, str):
        return shown
    if not shown or value is None or getattr(parameter, "is_flag", False):
        return ""
    return " ".join(map(_plain, value if isinstance(value, Iterable) and not isinstance(value, str) else [value]))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value.value if isinstance(value, Enum) else value)
