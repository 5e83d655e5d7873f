"""The page and the picture of benchmarks/time_to_minimum.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import table

#: Of the models that ship.
CARDS = Path(__file__).resolve().parents[1] / "deeprelax_ase" / "models" / "weights"
#: Names of potentials, by the end of the name of their results.
RUNS = {"M3GNet": "M3GNet-MP-2021.2.8-PES", "Nequix": "Nequix-OAM-1"}

#: Names of methods, and their sign and colour.
NAMES = {
    "nothing": ("nothing done", "", "grey"),
    "one shot, fast": ('one shot, `one_shot="fast"`', "v", "tab:blue"),
    "one shot, default": ("one shot", "o", "tab:blue"),
    "quick jump, fast": ('jump of `one_shot="fast"`, `finish="fast"`, in batches', "v", "tab:green"),
    "jump, fast": ('jump, `finish="fast"`, in batches', "o", "tab:green"),
    "jump, fire": ("jump, FIRE, in batches", "s", "tab:green"),
    "fast": ("`fast` alone, in batches", "o", "tab:orange"),
    "fire": ("FIRE alone, in batches", "s", "tab:orange"),
    "TorchSim's fire": ("TorchSim's FIRE, in batches", "s", "tab:red"),
    "TorchSim's lbfgs": ("TorchSim's L-BFGS, in batches", "o", "tab:red"),
    "jump, fast, one by one": ('jump, `finish="fast"`, one by one', "o", "tab:purple"),
    "fire, one by one": ("ASE's FIRE, one by one", "s", "tab:purple"),
}
#: eV/Å, to which relaxations go.
LIMITS = (0.1, 0.05)
#: What the panels of the picture show: its unit, that unit in Å or eV/atom, and the least that is drawn.
PANELS = (("coordinates", "Å", 1, 1e-4), ("energy", "meV/atom", 1e3, 1e-2))
#: Methods that jump and finish side by side.
JUMPS = ("quick jump, fast", "jump, fast", "jump, fire")
#: Methods that relax without a jump, side by side.
ITERATIVE = ("fast", "fire", "TorchSim's fire", "TorchSim's lbfgs")

_HEAD = """# Time to a potential's minimum

```sh
DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/time_to_minimum.py pairs_universal.npz \\
    pairs_generated_[d-g].npz --each 30 --few 3 --torch-sim --device cuda \\
    --json benchmarks/results/time_to_minimum-M3GNet-cuda.json
```

On a CPU with `--device cpu --threads 1 --busy --each 50 --every 10 --few 4` instead of `--each 30 --few 3 --torch-sim
--device cuda`; under Nequix with `--every 5 --few 1 --steps 200 --potential nequix_torch_sim:nequix --model
DeepRelax-PBE`; into their own files. The figure and the first tables are of one run on one GPU, Nequix after M3GNet;
what CPUs take was measured on other machines. M3GNet's on a CPU, seconds of the processor, are of a busy machine, on
which a run varied by some tenths, and without TorchSim. Nequix is of earlier code and of the weights before the last
three stages of training; rounds on a GPU lost more time around the calls. Under M3GNet other jobs were at work on the
machine's other GPU and cores.

Test crystals of the universal set and of the nine generated kinds in equal parts, from the unrelaxed crystal, cells as
`DeepRelaxOptimizer` moves them; TorchSim's optimizers move all of every cell, those of layers too. One by one were
a few.
The minimum is where FIRE comes to {minimum} eV/Å from the relaxed crystal
of the pair; crystals for which it does not, in {steps} steps (Nequix: {few_steps}), are left out. A relaxation
may end in another minimum, below this one too.

Times are wall-clock times of one process, from crystals in memory to crystals in memory, divided by the number of
crystals. A batch lasts as long as its slowest crystal, at most so many steps; among more crystals others would take the
places of those that are done. So the time in which 99 % are done is told beside it."""


_MANY = """### Where the GPU is full

Of {name} too, with today's code and more crystals than a GPU takes at once: others enter as crystals leave, and no
batch waits for its slowest crystal until the end. `--each 300 --few 0 --some 400`, into a file of its own. What the
jump refuses (wires, molecules, layers that lie aslant) counts as not converged and ends where it began. Quick shots and
jumps ran before the default ones, and their times may hold what the first batch of a size costs. {saved} {where}"""


def write_page(results: Path, page: Path) -> None:
    """Write the page, and the picture beside it, of ``time_to_minimum-*.json`` in ``results``."""
    from shared import read

    runs = {}
    for name in RUNS:
        found = {d: results / f"time_to_minimum-{name}-{d}.json" for d in ("cuda", "cpu")}
        runs[name] = {device: read(results, file.stem) for device, file in found.items() if file.exists()}
    runs = {name: of for name, of in runs.items() if of}
    first = runs["M3GNet"]["cuda"]
    few_steps = runs.get("Nequix", {}).get("cuda", first)["steps"]
    parts = [
        _HEAD.format(
            minimum=first["minimum"],
            steps=first["steps"],
            few_steps=few_steps,
        )
    ]
    picture = page.with_suffix(".svg")
    draw(runs, picture)
    parts.append(f"![Distance from the minimum against time, under {' and '.join(runs)}]({picture.name})")
    for name, of in runs.items():
        parts += [f"## Under {RUNS[name]}", _about(of), _table(of), _ratios(of)]
        parts += _anew(results, name)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def saved(run: dict[str, Any]) -> str:
    """What the jump saves and costs where all of a GPU is at work, in sentences."""
    rows = {key[0]: row for key, row in _measured(run).items() if key[1] in (None, min(LIMITS))}
    jump, alone, shot = (rows[name] for name in ("jump, fast", "fast", "one shot, default"))
    until = [row["done"]["0.99"] for row in (jump, alone)]
    fewer, least = alone["calls"] - jump["calls"], jump["calls"] / alone["calls"]
    after = [100 - 100 * early / row["seconds"] for early, row in zip(until, (jump, alone), strict=True)]
    ratios = [until[0] / until[1], jump["seconds"] / alone["seconds"]]
    return (
        f"The jump saves {fewer:.1f} of {alone['calls']:.1f} calls, which alone would make {least:.2f} of the time of "
        f"`fast` alone; the prediction takes {_ms(shot['seconds'])} of the {_ms(jump['seconds'])} ms, and all that "
        f"comes before crystals relax side by side {_ms(jump['begun'])} ({_ms(alone['begun'])} alone). Until 99 % are "
        f"done the ratio is **{ratios[0]:.2f}**, over all {ratios[1]:.2f}: what comes after takes {after[0]:.0f} % of "
        f"the time with the jump, {after[1]:.0f} % without{_late(alone, run['steps'])}."
    )


def _late(row: dict[str, Any], steps: int) -> str:
    """Say how many crystals a method does not bring to a minimum; they alone may take the last rounds."""
    late = round(row["crystals"] * (1 - row["converged"]))
    return f", where {late} did not converge in {steps} steps" if late else ""


def _anew(results: Path, name: str) -> list[str]:
    """What more crystals take than a GPU takes at once."""
    from shared import read

    if not (results / f"time_to_minimum-{name}-many-cuda.json").exists():
        return []
    many = read(results, f"time_to_minimum-{name}-many-cuda")
    where = _where(*read(results, f"time_to_minimum-{name}-stages", f"time_to_minimum-{name}-three"))
    text = _MANY.format(name=name, saved=saved(many), where=where)
    return [text, _about({"cuda": many}), _table({"cuda": many}), _ratios({"cuda": many})]


def _where(stages: dict[str, Any], three: dict[str, Any]) -> str:
    """Where the time of a process goes, and what several on one GPU take."""
    jump = stages["runs"]["jump, fast"]
    spent = {name: seconds / jump["seconds"] for name, (seconds, _) in jump["stages"].items()}
    groups = {
        "the steps and the potential's calls": ("launch", "wait for the potential", "step", "curvature", "keep"),
        "the prediction": ("predict", "look_together"),
        "writing down what became of each, most of it while the potential computes": ("told", "place"),
        "moving crystals to their predictions and judging these": ("jump", "move_to", "evaluate_starts", "begin"),
    }
    told = ", ".join(f"{100 * sum(spent.get(k, 0) for k in keys):.0f} % to {name}" for name, keys in groups.items())
    runs = three["runs"]
    rates = [_ms(run["seconds"] / run["crystals"]) for run in (runs["jump, fast"], runs["fast"])]
    return (
        f"Of the time of {jump['crystals']:,} crystals in another run went {told}. Three processes with as many each "
        f"on one GPU took {rates[0]} ms a crystal with the jump and {rates[1]} without, "
        f"{runs['jump, fast']['seconds'] / runs['fast']['seconds']:.2f}."
    )


def _about(of: dict[str, Any]) -> str:
    told = []
    if gpu := of.get("cuda"):
        there = gpu["environment"]
        told = [
            f"{_crystals(gpu)}, on an {there['gpu']} with torch {there['torch']} and TorchSim "
            f"{there['torch-sim-atomistic']}; jumps by `{gpu['model']}`{other_weights(gpu)}."
        ]
    if cpu := of.get("cpu"):
        there = cpu["environment"]
        told.append(
            f"CPU: {_crystals(cpu)}, one thread of an {there['processor']} with {there['cores']} cores; jumps by "
            f"`{cpu['model']}`."
        )
        if cpu.get("busy"):
            told.append("The machine had other work to do: times are the processor's, of the one process.")
    return " ".join(told)


def other_weights(run: dict[str, Any]) -> str:
    """Say whether a model was run with other weights than those that ship, where the run tells."""
    card = CARDS / f"{run['model']}.json"
    if "weights" not in run or run["weights"] in card.read_text(encoding="utf-8"):
        return ""
    return f" with other weights ({run['weights'][:8]}) than those that ship"


def _crystals(run: dict[str, Any]) -> str:
    atoms = run["atoms"] / run["crystals"]
    return f"{run['crystals']} of {run['chosen']} crystals, {atoms:.1f} atoms on average"


def _key(row: dict[str, Any]) -> tuple[str, float | None]:
    return row["method"], row["fmax"]


def _measured(run: dict[str, Any] | None) -> dict[tuple[str, float | None], dict[str, Any]]:
    return {} if run is None else {_key(row): row for row in run["rows"] if "failed" not in row}


def _table(of: dict[str, Any]) -> str:
    gpu, cpu = _measured(of.get("cuda")), _measured(of.get("cpu"))
    heading = (
        "method | to (eV/Å) | crystals | GPU (ms) | until 99 % are done | one CPU thread (ms) | calls | converged | "
    )
    heading += "coordinates (Å): mean, median | energy (meV/atom): mean, median | within 25 meV/atom"
    rows = []
    for key in sorted({**gpu, **cpu}, key=_order):
        row, other = gpu.get(key), cpu.get(key)
        told = row or other
        name, fmax = NAMES[key[0]][0], "" if key[1] is None else f"{key[1]:g}"
        done = f"{_ms(row['done']['0.99'])}" if row and "done" in row else ""
        shares = [f"{told['calls']:.1f}", f"{100 * told['converged']:.0f} %"] if "calls" in told else ["", ""]
        coordinates, energy = told["coordinates"], told["energy"]
        rows.append(
            [
                name,
                fmax,
                str(told["crystals"]),
                "" if row is None else _ms(row["seconds"]),
                done,
                "" if other is None else _ms(other["seconds"]),
                *shares,
                f"{coordinates['mean']:.3f}, {coordinates['median']:.4f}",
                f"{1e3 * energy['mean']:+.1f}, {1e3 * energy['median']:+.2f}",
                f"{100 * told['near']:.0f} %",
            ]
        )
    told = [k for k, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    names = heading.split(" | ")
    return table([names[k] for k in told], [[cells[k] for k in told] for cells in rows], "lrr")


def _order(key: tuple[str, float | None]) -> tuple[int, float]:
    return list(NAMES).index(key[0]), -(key[1] or 0)


def _ms(seconds: float) -> str:
    return "0" if seconds < 1e-5 else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _ratios(of: dict[str, Any]) -> str:
    """What the jump saves of the time to convergence, where all crystals were timed."""
    lines = []
    for device, run in of.items():
        rows = {key[0]: row for key, row in _measured(run).items() if key[1] == min(LIMITS)}
        jumps = {name: row for name, row in rows.items() if name in JUMPS}
        for group, names in (("what else relaxes in batches", ITERATIVE), ("TorchSim's", ITERATIVE[2:])):
            others = {name: rows[name] for name in names if name in rows}
            if not jumps or not others:
                continue
            best, rival = (min(these, key=lambda name: these[name]["seconds"]) for these in (jumps, others))
            ratio = jumps[best]["seconds"] / others[rival]["seconds"]
            some = others[rival]["crystals"]
            fewer = "" if some == jumps[best]["crystals"] else f", which had {some} of the crystals"
            lines.append(
                f"{'GPU' if device == 'cuda' else 'CPU'}: {_plain(best)} takes **{ratio:.2f}** of the time of the best "
                f"of {group}, {_plain(rival)}{fewer}."
            )
    return "To convergence (aim: at most 0.5). " + " ".join(lines)


def _plain(name: str) -> str:
    return NAMES[name][0].removesuffix(", in batches")


def draw(runs: dict[str, dict[str, Any]], picture: Path) -> None:
    """Distances of coordinates and energies against the time of a crystal, under each potential."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "deeprelax"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(len(runs), 2, figsize=(10, 1 + 4.2 * len(runs)), sharex=True, squeeze=False)
    for (name, of), panels in zip(runs.items(), rows, strict=True):
        for axes, (what, unit, scale, least) in zip(panels, PANELS, strict=True):
            _fill(axes, of, what, scale, least)
            axes.set(xscale="log", yscale="log", ylabel=f"{what}: median ({unit})", title=RUNS[name])
    for axes in rows[-1]:
        axes.set_xlabel("time of a crystal (s)")
    drawn = dict(pair for axes in rows[:, 0] for pair in zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(drawn.values(), drawn.keys(), loc="lower center", ncols=3, fontsize=8)
    figure.suptitle(f"Hollow: one thread of a CPU; small: to {max(LIMITS)} eV/Å, else to {min(LIMITS)}")
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)


def _fill(axes: Any, of: dict[str, Any], what: str, scale: float, least: float) -> None:
    """Draw one panel: what is left of the distance ``what`` times ``scale``, no less than ``least``."""
    gpu = _measured(of.get("cuda") or of["cpu"])
    axes.axhline(scale * gpu["nothing", None][what]["median"], color="grey", linestyle=":", label="nothing done")
    for device, run in of.items():
        for (name, fmax), row in _measured(run).items():
            if name == "nothing":
                continue
            same = gpu.get((name.removesuffix(", one by one"), fmax), row)  # ends there, of more crystals
            label, sign, colour = NAMES[name]
            shown = (device == "cuda" or "cuda" not in of) and fmax in (None, min(LIMITS))
            axes.plot(
                row["seconds"],
                max(scale * same[what]["median"], least),
                sign,
                color=colour,
                markerfacecolor=colour if device == "cuda" else "white",
                markersize=8 if fmax in (None, min(LIMITS)) else 5,
                label=label.replace("`", "") if shown else None,
            )
