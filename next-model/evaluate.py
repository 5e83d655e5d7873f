"""Errors of weights by kind: evaluate.py OUT --weights FILE --data FILES --split test|validation --passes 1 2 3 --limit N"""
from __future__ import annotations
import argparse, json, time
from pathlib import Path
import numpy as np, torch
from common import first_of_each, load, read_weights, table, text

p = argparse.ArgumentParser()
p.add_argument("out", type=Path); p.add_argument("--weights", nargs="+"); p.add_argument("--data", nargs="+")
p.add_argument("--split", default="test"); p.add_argument("--passes", nargs="+", type=int, default=[1, 2, 3])
p.add_argument("--limit", type=int, default=0); p.add_argument("--device", default="cuda"); p.add_argument("--levels", nargs="+", default=["PBE"])
p.add_argument("--raw", action="store_true"); p.add_argument("--sources", default=""); p.add_argument("--atoms", type=int)
a = p.parse_args()
torch.backends.cuda.matmul.allow_tf32 = False
pairs, kind, source = load(a.data)
chosen = (pairs.split == {"train": 0, "validation": 1, "test": 2}[a.split]) & (source != 1) & (pairs.level != 2)
if a.sources: chosen &= torch.isin(source, torch.tensor([ord(c) if c != "0" else 0 for c in a.sources]))
index = chosen.nonzero()[:, 0]
if a.limit:
    index = first_of_each(chosen & ((source >= ord("d")) | (source == 0)), kind, a.limit)
pairs, kind, source = pairs.take(index).to(a.device), kind[index], source[index]
result = {}
for file in a.weights:
    network = read_weights(file, a.device)
    for level in a.levels:
        t = time.time()
        rows, raw = table([network], pairs, kind, source, passes=tuple(a.passes), level=level, atoms=a.atoms)
        result[f"{file} {level}"] = rows
        for n, r in rows.items():
            print(f"== {file} {level} {a.split} passes {n} ({time.time() - t:.1f} s)\n{text(r)}", flush=True)
        if a.raw:
            np.savez_compressed(a.out.with_suffix(f".{level}.npz"), index=index.numpy(), kind=kind.numpy(), source=source.numpy(), **{f"{n}/{k}": v.float().numpy() for n, d in raw.items() for k, v in d.items()})
a.out.write_text(json.dumps(result))
