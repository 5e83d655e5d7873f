"""``deeprelax doctor``: what is installed, what works with it, and how to get what is missing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deeprelax_ase import __version__
from deeprelax_ase.cli.common import OK, SOME_FAILED, terminal
from deeprelax_ase.cli.options import option

#: Libraries that nothing works without, by the modules that are imported.
NEEDED = ("torch", "ase", "numpy", "scipy", "spglib", "safetensors")

#: Extras of the package: what each is for, and the modules that it brings, by the names of their distributions.
EXTRAS: dict[str, tuple[str, dict[str, str]]] = {
    "matgl": ("M3GNet, TensorNet and other potentials of MatGL", {"matgl": "matgl"}),
    "dgl": ("MatGL 2 and its potentials, on Python 3.11", {"dgl": "dgl"}),
    "chgnet": ("CHGNet", {"chgnet": "chgnet"}),
    "torchsim": ("potentials in batches through TorchSim", {"torch-sim-atomistic": "torch_sim"}),
    "sevennet": ("SevenNet", {"sevenn": "sevenn"}),
    "gpaw": ("DFT by GPAW", {"gpaw": "gpaw"}),
    "screening": ("screen, label, learn", {"pyarrow": "pyarrow", "filelock": "filelock", "pymatgen": "pymatgen"}),
    "report": (
        "reports and figures",
        {n: n for n in ("plotly", "jinja2", "matplotlib", "pyarrow", "filelock")},
    ),
    "training": (
        "train, finetune, calibrate, learn",
        {n: n for n in ("lightning", "jsonargparse", "crepes")},
    ),
    "analysis": ("match rates", {"pymatgen": "pymatgen"}),
}

#: Potentials by the names of calculators: the extras that each needs; one set of them is enough.
EXTRA_OF = {
    "m3gnet": ("matgl",),
    "tensornet": ("matgl",),
    "chgnet": ("chgnet",),
    "sevennet": ("torchsim", "sevennet"),
}

#: States of models and potentials.
LOADS, READY, DOWNLOADS, MISSING, BROKEN = "loads", "ready", "downloads", "missing", "broken"


@dataclass
class Checkup:
    """Facts, as JSON can hold them.

    Attributes:
        versions: of the package, Python and the libraries that nothing works without; None for one that is missing.
        devices: processors with their memory.
        models: "loads", or why one does not, by name.
        potentials: by name, ``state`` (ready, downloads, missing, broken) and ``how``: where weights come from, or what
            to do.
        extras: by name, ``purpose``, ``versions`` and the ``command`` that brings what is missing; None if nothing is.
        problems: what has to be mended, and how.
    """

    versions: dict[str, str | None]
    devices: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    potentials: dict[str, dict[str, str]] = field(default_factory=dict)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with ``healthy``."""
        return {"healthy": not self.problems, **asdict(self)}


def check_up(*, load_potentials: bool = False) -> Checkup:
    """Look at this environment; nothing is changed.

    Args:
        load_potentials: load every potential that is there, too, which may download its weights.
    """
    versions = {"deeprelax_ase": __version__, "python": platform.python_version()}
    found = Checkup({**versions, **{name: _version(name, name) for name in NEEDED}})
    found.extras = {name: _extra(name, purpose, modules) for name, (purpose, modules) in EXTRAS.items()}
    missing = [name for name in NEEDED if found.versions[name] is None]
    if missing:
        found.problems.append(f"{', '.join(missing)} cannot be found: pip install --force-reinstall deeprelax-ase")
        return found
    found.devices = dict(_devices())
    found.models = dict(_models())
    found.problems += [f"{name} {state}" for name, state in found.models.items() if state != LOADS]
    found.potentials = {name: _potential(name, found.extras) for name in EXTRA_OF}
    if load_potentials:
        found.potentials |= {
            name: _loaded(name, row) for name, row in found.potentials.items() if row["state"] in (READY, DOWNLOADS)
        }
    found.problems += [f"{name}: {row['how']}" for name, row in found.potentials.items() if row["state"] == BROKEN]
    return found


def _version(distribution: str, module: str) -> str | None:
    """The version of a library that can be found; it is not imported."""
    try:
        if find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"


def _extra(name: str, purpose: str, modules: Mapping[str, str]) -> dict[str, Any]:
    versions = {distribution: _version(distribution, module) for distribution, module in modules.items()}
    command = None if all(versions.values()) else _install(name)
    return {"purpose": purpose, "versions": versions, "command": command}


def _install(*extras: str) -> str:
    return f'pip install "deeprelax-ase[{",".join(extras)}]"'


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {memory:.0f} GiB of memory"
    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists()
        built = "cannot use the GPU here" if torch.version.cuda else "is built without CUDA"
        told = f"torch {built}, and there is a driver: install a build for it, see https://pytorch.org/get-started"
        yield "cuda", told if driver else "none"
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB of memory"


def _models() -> Iterator[tuple[str, str]]:
    """Every model that comes with the package, its files read and checked."""
    from deeprelax_ase.errors import ModelError
    from deeprelax_ase.models.loading import load_model
    from deeprelax_ase.models.registry import WEIGHTS

    for card in sorted(WEIGHTS.glob("*.json")):
        try:
            load_model(card)
        except (ModelError, OSError) as error:
            yield card.stem, f"does not load: {error} Install deeprelax-ase anew."
        else:
            yield card.stem, LOADS


def _potential(name: str, extras: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Whether a potential is to be had, by what is installed and where its weights would come from."""
    from deeprelax_ase.calculators.potentials import PRETRAINED

    if name in PRETRAINED:
        return _of_matgl(name, bool(extras["dgl"]["command"]))
    if any(extras[extra]["command"] for extra in EXTRA_OF[name]):
        return {"state": MISSING, "how": _install(*EXTRA_OF[name])}
    return {"state": READY, "how": "weights come with its package"}


def _of_matgl(name: str, dgl_missing: bool) -> dict[str, str]:
    """The same of a potential of MatGL's: from the folder that its variable names, or MatGL's cache, or its hub."""
    from deeprelax_ase.calculators.potentials import PRETRAINED, missing_files
    from deeprelax_ase.graph.matgl_import import runs_on_dgl

    pretrained = PRETRAINED[name]
    folder, on_dgl = os.environ.get(pretrained.variable, ""), runs_on_dgl()
    needs = _install("dgl" if on_dgl else "matgl")
    ready = not dgl_missing if on_dgl else _version("matgl", "matgl") is not None
    if folder and (missing := missing_files(Path(folder).expanduser())):
        how = f"{pretrained.variable} names {folder}, which lacks {', '.join(missing)}: set it to a folder with these"
        return {"state": BROKEN, "how": how}
    if folder and (ready or name == "m3gnet"):  # which the package computes itself
        return {"state": READY, "how": f"weights of {folder}, which {pretrained.variable} names"}
    if not ready:
        other = f"; or set {pretrained.variable} to a folder with {pretrained.dgl}" if name == "m3gnet" else ""
        return {"state": MISSING, "how": needs + other}
    if Path("~/.cache/matgl", pretrained.potential).expanduser().is_dir():
        return {"state": READY, "how": f"{pretrained.potential} is in MatGL's cache"}
    how = f"MatGL takes {pretrained.potential} from its cache or downloads it; else set {pretrained.variable}"
    return {"state": DOWNLOADS, "how": how}


def _loaded(name: str, row: dict[str, str]) -> dict[str, str]:
    """Load a potential, and tell what became of that."""
    from deeprelax_ase.calculators.registry import get_batched
    from deeprelax_ase.errors import CalculatorError

    try:
        get_batched(name, device="cpu")
    except CalculatorError as error:
        return {"state": BROKEN, "how": str(error)}
    return {**row, "state": LOADS}


EXAMPLES = """\
Examples:

    deeprelax doctor
    deeprelax doctor --load
    deeprelax doctor --json > environment.json

Exit code 1: something has to be mended. An extra that is not installed is no fault.
"""


def doctor(
    load: Annotated[
        bool, option("Load every potential that is there, too; their weights may be downloaded.", "--load")
    ] = False,
    as_json: Annotated[bool, option("Write JSON to the standard output.", "--json")] = False,
) -> None:
    """Tell what is installed and what works: versions, devices, models, potentials, and how to get what is missing."""
    found = check_up(load_potentials=load)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(SOME_FAILED if found.problems else OK)


def _show(found: Checkup) -> None:
    console = terminal()
    _section(console, "Versions", ((name, version or "missing") for name, version in found.versions.items()))
    _section(console, "Devices", found.devices.items())
    _section(console, "Models", found.models.items())
    _section(console, "Potentials", ((name, f"{row['state']}: {row['how']}") for name, row in found.potentials.items()))
    _section(console, "Extras", ((name, _extra_line(row)) for name, row in found.extras.items()))
    if not found.problems:
        console.print("Nothing has to be mended.")
    for problem in found.problems:
        console.print(f"[bold red]To mend:[/] {escape(problem)}", soft_wrap=True)


def _extra_line(row: dict) -> str:
    if row["command"]:
        return f"missing: {row['command']} for {row['purpose']}"
    return ", ".join(f"{name} {version}" for name, version in row["versions"].items())


def _section(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(min_width=_NAMES, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(f"  {name}", escape(text))
    if table.row_count:
        console.print(f"[bold]{title}[/]")
        console.print(table)


#: Columns that names take.
_NAMES = 18
