"""Crystals a second on a GPU: neighbour search and network of an end-to-end model, one pass, one member.

python benchmarks/throughput.py pairs_universal.npz --model DeepRelax-PBE

Needs nothing but torch, numpy and safetensors beside the package. Each stage is timed alone and with the other, in
full precision with TF32, under bfloat16, and under bfloat16 as one CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deeprelax_ase.data import load_pairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.nn.deeprelax_e3 import network_input


def seconds(call: Callable[[], object], repeats: int = 10) -> float:
    """Mean time of a call, the first two left out."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


@torch.no_grad()
def rates(model: str, data: Path, atoms: int, batch: int) -> dict[str, float]:
    """Crystals a second for a ``batch`` of crystals of so many ``atoms``."""
    network = load_model(model).networks[0].cuda()
    pairs = load_pairs(data, dtype=torch.float32)
    like = (pairs.counts == atoms).nonzero().squeeze(1)
    pairs = pairs.take(like[torch.arange(batch) % len(like)]).to("cuda")

    def graph():
        return network_input(pair_graph(pairs, network.config.graph), 0)

    given = graph()
    found = {
        "neighbour search": batch / seconds(graph),
        "network, TF32": batch / seconds(lambda: network.refine(given)),
    }
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        found["network, bfloat16"] = batch / seconds(lambda: network.refine(given))
        found["both, bfloat16"] = batch / seconds(lambda: network.refine(graph()))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            network.refine(given)
        torch.cuda.current_stream().wait_stream(stream)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            network.refine(given)
        found["network, bfloat16, CUDA graph"] = batch / seconds(recorded.recycle_buffer)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="npz file of relaxation pairs, to take crystals from")
    parser.add_argument("--model", default="DeepRelax-PBE", help="an end-to-end model (default %(default)s)")
    parser.add_argument("--atoms", type=int, default=10, help="atoms of each crystal (default %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[500, 2000, 4000], help="default %(default)s")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA device")
    torch.set_float32_matmul_precision("high")
    for batch in arguments.batches:
        found = rates(arguments.model, arguments.data, arguments.atoms, batch)
        print(
            json.dumps({"gpu": torch.cuda.get_device_name(), "batch": batch, **{k: round(v) for k, v in found.items()}})
        )


if __name__ == "__main__":
    main()
