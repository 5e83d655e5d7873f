"""Parts that all commands share: exit codes, and the way to end with an error."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.errors import DeepRelaxError, SourceError
from deeprelax_ase.progress import progress as bar_on

if TYPE_CHECKING:
    from deeprelax_ase.screening.run import Progress

#: Exit codes: all went well; something failed; nothing was done; stopped by the user.
OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

#: Options of the command that runs, by their names in Python: what switches each on, and off where that has a name.
options_typed = ContextVar[Mapping[str, tuple[str, str | None]]]("options typed", default=MappingProxyType({}))

_QUOTES = "'\""

#: What Python calls an option, with a value or without: ``overwrite=True``, ``on_uncertain='finish'``, ``max_error``.
_IN_PYTHON = re.compile(
    r"\b([a-z_]+)=(True|False|'[^']*'|\"[^\"]*\"|…|[\d.]*\d(?:e-?\d+)?)|(?<![\w./'\"])([a-z]+_[a-z_]+)(?![\w.=(])"
)


def as_typed(message: str) -> str:
    """``message`` whose options are told as they are typed: ``--overwrite``, ``--on-uncertain finish``.

    What is no option of the command stays as it is.
    """

    def typed(found: re.Match[str]) -> str:
        name, value = found[1] or found[3], found[2]
        on, off = options_typed.get().get(name, (None, None))
        option = off if value == "False" else on
        if value in ("True", "False", None):
            return option or found[0]
        return f"{option} {value if ' ' in value else value.strip(_QUOTES)}" if option else found[0]

    return _IN_PYTHON.sub(typed, message)


def stop(message: str, code: int = USAGE) -> NoReturn:
    """End with a message and an exit code."""
    errors().print(f"[bold red]Error:[/] {escape(as_typed(message))}", soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def stopping(output: object = None, *, also: type[Exception] = DeepRelaxError) -> Iterator[None]:
    """End with a message where what was asked for is refused, or a file cannot be read or written.

    Args:
        output: file that is written, to be named; by default the one that the error names.
        also: errors besides the package's own and ``ValueError`` that refuse something.
    """
    try:
        yield
    except (DeepRelaxError, ValueError, also) as error:
        stop(str(error))
    except OSError as error:
        named = error.filename is not None  # what cannot be fetched has no file
        told = f"{error.filename} cannot be read or written: {error.strerror}" if named else str(error)
        stop(f"{output} cannot be written: {error}" if output else told, SOME_FAILED)


@contextmanager
def going_on_with(folder: object) -> Iterator[None]:
    """End with a message where work on a ``folder`` that the same command goes on with is interrupted, or fails."""
    try:
        yield
    except KeyboardInterrupt:
        errors().print(f"interrupted: the same command goes on with {escape(str(folder))}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except SourceError as error:
        stop(f"{error} What was done is kept; the same command goes on.", SOME_FAILED)
    except (DeepRelaxError, ValueError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error}. What was done is kept; the same command goes on.", SOME_FAILED)


@contextmanager
def working_in(folder: object, *, quiet: bool) -> Iterator[Callable[[Progress, str], None]]:
    """Do work on a ``folder`` that the same command goes on with, see :func:`going_on_with`, behind a bar.

    Yields:
        what shows how far it is, with a text of what is done.
    """
    with going_on_with(folder), plain_warnings(), bar_on(errors(), visible=not quiet) as bar:
        without_warnings_of_potentials()
        task = bar.add_task("reading", total=None)

        def show(progress: Progress, text: str) -> None:
            if progress.done == progress.before:  # so that the rate is this call's
                bar.reset(task, total=progress.total, completed=progress.done)
            bar.update(task, description=text, total=progress.total, completed=progress.done)

        yield show


def errors() -> Console:
    """Return the console for errors and progress: standard error."""
    return Console(stderr=True, highlight=False, emoji=False)


def terminal() -> Console:
    """Return the console for results: standard output. Names such as ``a:b:`` are no pictures."""
    return Console(highlight=False, emoji=False)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as what they say, without where in the code they come from."""

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        errors().print(f"[yellow]Note:[/] {escape(as_typed(str(message)))}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def without_warnings_of_potentials() -> None:
    """Pass over what the libraries of potentials warn of, inside :func:`plain_warnings`: nothing a user could mend."""
    warnings.filterwarnings("ignore", module=r"(chgnet|dgl|matgl|torch)\b")


@contextmanager
def imports() -> Iterator[None]:
    """Import torch, ASE and what else stays, without looking for garbage among it, which takes a seventh of the time.

    What is there at the end is never looked through again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def refuse_taken(*files: Path | None, overwrite: bool) -> None:
    """End before the work where one of the ``files`` to write exists already, or cannot be written."""
    from deeprelax_ase.errors import OutputError
    from deeprelax_ase.io.output import check_place

    try:
        for file in filter(None, files):
            check_place(file, inputs=[], overwrite=overwrite)
    except OutputError as error:
        stop(str(error))


def require(module: str, extra: str) -> None:
    """End with advice if ``module``, which the ``extra`` brings, is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        stop(f'{module} is not installed: pip install "deeprelax-ase[{extra}]"')
