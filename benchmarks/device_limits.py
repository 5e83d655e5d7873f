"""How near the default comes to what the device can do: bytes and FLOPs of a crystal against ceilings of the same run.

python benchmarks/device_limits.py prototypes.npz --json benchmarks/results/device_limits.json

Ceilings are a large copy, large matrix products and a gather of rows as the messages read them. FLOPs are counted by
torch, bytes are those of the tensors that each operation reads and writes; the sum over neighbours, a kernel of its
own, is counted by its formula. Time by kernel is that of torch's profiler.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from candidates import crystals
from shared import options, read
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode
from training_speed import idle

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.graph import build_graph
from deeprelax_ase.nn import messages
from deeprelax_ase.prediction.devices import stopwatch
from deeprelax_ase.prediction.inference import relax
from deeprelax_ase.prediction.predictor import Predictor

#: Channels of the rows that are gathered, as the shipped network has them.
CHANNELS = 256

#: Kernels and operations that are named, the longest first.
NAMED = 14

#: Kinds of kernels, by what their names hold; the first that fits counts.
KINDS = {
    "matrix products": ("gemm", "cutlass", "_linear", "cublas"),
    "sum over neighbours": ("_forward",),
    "layers of atoms": ("_send", "_receive", "_norms", "_update", "layer_norm"),
    "sorting and gathering": (
        "sort",
        "Sort",
        "scan",
        "Scan",
        "index",
        "gather",
        "scatter",
        "Unique",
        "unique",
        "Select",
    ),
    "small matrices": ("getrf", "getri", "trsm", "syev", "potrf", "Jacobi", "batched", "linalg"),
    "elementwise, copies and sums": ("elementwise", "Cat", "reduce", "Memcpy", "Memset", "fill", "copy"),
}


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of ``work`` on the current device."""
    work()
    spent = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        spent.append(time.perf_counter() - start)
    return sorted(spent)[repeats // 2]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceilings(device: torch.device, *, megabytes: int, side: int) -> dict[str, float]:
    """Bytes and FLOPs a second of a copy, a gather, and matrix products of random numbers."""
    source = torch.randn(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    found = {"copy_GB_per_s": 2 * source.nbytes / 1e9 / seconds(lambda: target.copy_(source))}
    rows = source[: len(source) // CHANNELS * CHANNELS].view(-1, CHANNELS)
    order = torch.randint(len(rows), (len(rows),), device=device)
    into = target[: rows.numel()].view_as(rows)
    gather = seconds(lambda: torch.index_select(rows, 0, order, out=into))
    found["gather_GB_per_s"] = 2 * rows.nbytes / 1e9 / gather
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    before = torch.backends.cuda.matmul.allow_tf32
    for name, kind, rounded in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        if rounded and device.type == "cpu":
            continue
        torch.backends.cuda.matmul.allow_tf32 = rounded
        one, other = a.to(kind), b.to(kind)
        found[f"{name}_TFLOP_per_s"] = 2 * side**3 / 1e12 / seconds(lambda one=one, other=other: one @ other)
    torch.backends.cuda.matmul.allow_tf32 = before
    return found


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, by operation; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = Counter[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        out = [t for t in tree_flatten(made)[0] if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage().data_ptr() for t in given}
        if "empty" in str(function):
            return made
        if not function.is_view and not all(t.untyped_storage().data_ptr() in storages for t in out if t.numel()):
            self.bytes[str(function)] += sum(t.nbytes for t in [*given, *out])
        elif not function.is_view:  # in place
            self.bytes[str(function)] += sum(t.nbytes for t in given)
        return made


def counted(predictor: Predictor, given: list[Crystal]) -> dict[str, Any]:
    """GFLOPs and megabytes of a crystal in a batch of all that are ``given``."""
    graph = build_graph(given, settings=predictor.model.config.graph, device=predictor.device)
    number, sums = len(given), Counter[str]()
    with torch.no_grad(), ExitStack() as patches:
        patches.enter_context(patch("deeprelax_ase.nn.deeprelax_e3.aggregate", _noted_messages(sums)))
        with FlopCounterMode(display=False) as flops, patch("deeprelax_ase.nn.e3_layers._is_fused", lambda *_: False):
            relax(predictor.model, graph, predictor.settings, dtype=predictor.dtype)
        arithmetic = flops.get_total_flops() + sums["flops"]
        sums.clear()
        if predictor.device.type == "cuda":
            for name, noted in _noted_kernels(sums).items():
                patches.enter_context(patch(f"deeprelax_ase.nn.{name}", noted))
        with Traffic() as traffic:
            relax(predictor.model, graph, predictor.settings, dtype=predictor.dtype)
    by_operation = traffic.bytes + Counter({name: n for name, n in sums.items() if name not in ("flops", "least")})
    return {
        "edges": graph.num_edges / number,
        "GFLOP": arithmetic / 1e9 / number,
        "MB": sum(by_operation.values()) / 1e6 / number,
        "MB_by_operation": {name: n / 1e6 / number for name, n in by_operation.most_common(NAMED)},
        "MB_of_messages_at_least": sums["least"] / 1e6 / number,
    }


def _noted_messages(sums: Counter[str]) -> Callable[..., Any]:
    """The sum over neighbours, which notes what it reads at least, each tensor once, and what its gathers read."""
    whole = messages.aggregate

    def noted(scalars, stacks, weights, harmonics, edges):
        n, e, f, size = len(scalars), len(weights), weights.shape[2], weights.element_size()
        sums["least"] += size * f * (11 * n + 5 * e + 9 * n) + 32 * e
        sums["sum over neighbours"] += size * f * (11 * e + 5 * e + 9 * n) + 32 * e
        sums["flops"] += 2 * e * f * (1 + 2 * 8 + 2)
        return whole(scalars, stacks, weights, harmonics, edges)

    return noted


def _noted_kernels(sums: Counter[str]) -> dict[str, Callable[..., Any]]:
    """The kernels of linear maps and of atoms' layers, which note what they read and write, by their names."""
    from deeprelax_ase.nn import triton_layers, triton_linear

    whole, send, update = triton_linear.linear, triton_layers.fused_send, triton_layers.fused_update

    def linear(layer, given, **how):
        made = whole(layer, given, **how)
        sums["linear maps"] += given.nbytes + layer.weight.nbytes + made.nbytes
        return made

    def noted_send(norm, perceptron, x, h):
        sums["layers of atoms"] += 24 * x.nbytes  # five rows and a stack are read, three and a stack are written
        return send(norm, perceptron, x, h)

    def noted_update(x, h, received, **parts):
        sums["layers of atoms"] += (36 + 10 + 41) * x.nbytes  # of the three kernels, in rows as x has
        return update(x, h, received, **parts)

    of_linear = dict.fromkeys(("triton_linear.linear", "triton_layers.linear"), linear)
    return {**of_linear, "triton_layers.fused_send": noted_send, "triton_layers.fused_update": noted_update}


def kernels(predictor: Predictor, given: list[Crystal]) -> dict[str, Any]:
    """Kernels of one batch: the longest, how many are launched, how often the host waits, and the idle share."""
    list(predictor.predict_many(given, bonds=False))
    _wait()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        list(predictor.predict_many(given, bonds=False))
        _wait()
    names, spent, host, spans = Counter[str](), Counter[str](), Counter[str](), []
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            names[event.name] += 1
            spent[event.name] += event.time_range.elapsed_us()
            spans.append((event.time_range.start, event.time_range.end))
        elif event.name.startswith(("cuda", "cu")):
            host[event.name] += 1
    spans.sort()
    longest = [
        {"kernel": name[:90], "calls": names[name], "us_per_crystal": us / len(given)}
        for name, us in spent.most_common(NAMED)
    ]
    idle_share = idle(spans, spans[0][0], max(stop for _, stop in spans)) if spans else None
    kinds = Counter[str]()
    for name, us in spent.items():
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "others")
        kinds[kind] += us / len(given)
    return {
        "kinds": dict(kinds.most_common()),
        "longest": longest,
        "launches": sum(names.values()),
        "us_per_crystal": sum(spent.values()) / len(given),
        "host_calls": dict(host),
        "idle_share": idle_share,
    }


def precisions(device: torch.device, given: list[Crystal], exact: int = 200) -> dict[str, dict[str, Any]]:
    """Network time by the type of its products, and how far (Å) ``exact`` crystals are from float64."""
    reference = _relaxed(Predictor(device=device, dtype="float64"), given[:exact])[0]
    predictor, found = Predictor(device=device), {}
    for name, rounded, lower in (("float32", False, False), ("tf32", True, False), ("bfloat16", False, True)):
        torch.backends.cuda.matmul.allow_tf32 = rounded
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            _relaxed(predictor, given)
            spent = [_relaxed(predictor, given)[1] for _ in range(3)]
            positions = _relaxed(predictor, given[:exact])[0]
        torch.backends.cuda.matmul.allow_tf32 = False
        off = (positions - reference).abs().flatten()
        shares = {"median": 0.5, "9 in 10": 0.9, "99 in 100": 0.99, "most": 1.0}
        found[name] = {"us": 1e6 * sorted(spent)[1] / len(given)}
        found[name] |= {label: float(torch.quantile(off, share)) for label, share in shares.items()}
    return found


def _relaxed(predictor: Predictor, given: list[Crystal]) -> tuple[torch.Tensor, float]:
    """Positions (N, 3) of all, and the seconds that the networks take for them."""
    graph = build_graph(given, settings=predictor.model.config.graph, device=predictor.device)
    timings: dict[str, float] = {}
    timed = partial(stopwatch, timings, device=predictor.device)
    with torch.inference_mode():
        made = relax(predictor.model, graph, predictor.settings, dtype=predictor.dtype, timed=timed)
    return made.positions, timings["network"]


def stages(predictor: Predictor, given: list[Crystal], sizes: list[int]) -> list[dict[str, Any]]:
    """Crystals a second by atoms of a batch, and the microseconds of each stage for a crystal."""
    rows = []
    for size in sizes:
        list(predictor.predict_many(given[: 2 * size // len(given[0])], atoms_per_batch=size, bonds=False))
        _wait()
        start = time.perf_counter()
        made = list(predictor.predict_many(given, atoms_per_batch=size, bonds=False))
        spent = time.perf_counter() - start
        timings = [p.timings for p in made if hasattr(p, "timings")]
        us = {s: 1e6 * sum(t[s] for t in timings) / len(timings) for s in timings[0]}
        row = {"atoms_per_batch": size, "crystals_per_second": len(made) / spent, "us": us}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Measure, print and write."""
    given = options(
        __doc__,
        "prototypes",
        "--device",
        "--json",
        prototypes={"type": Path, "help": "npz file of prototypes"},
        device={"default": "cuda" if torch.cuda.is_available() else "cpu"},
        number={"type": int, "default": 8000, "help": "of ten-atom crystals (default %(default)s)"},
        batches={"type": int, "nargs": "+", "default": [2000, 8000, 20_000], "help": "atoms of a batch"},
        side={"type": int, "default": 8192, "help": "of the matrices that are multiplied"},
        megabytes={"type": int, "default": 2048, "help": "that are copied"},
    ).parse_args()
    device = torch.device(given.device)
    report = read(given.json.parent, given.json.stem) if given.json.exists() else {}
    found: dict[str, Any] = {"environment": environment()}
    found["ceilings"] = ceilings(device, megabytes=given.megabytes, side=given.side)
    print(found["ceilings"], flush=True)
    made = crystals(given.prototypes, 10, given.number)
    found["precisions"] = precisions(device, made[: max(given.batches) // 20])
    print(found["precisions"], flush=True)
    for one_shot in ("default", "fast"):
        predictor = Predictor(device=device, one_shot=one_shot)
        few = made[: max(given.batches) // 10]
        found[one_shot] = {
            "counted": counted(predictor, few),
            "stages": stages(predictor, made, given.batches),
            **({"kernels": kernels(predictor, few)} if device.type == "cuda" else {}),
        }
        print(one_shot, {k: v for k, v in found[one_shot].items() if k != "stages"}, flush=True)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    write_json(given.json, {**report, name: found})


if __name__ == "__main__":
    main()
