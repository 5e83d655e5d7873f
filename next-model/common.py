"""What the scripts of the run share: names of kinds, selections of pairs, errors by kind."""
from __future__ import annotations
import json
from dataclasses import replace
import numpy as np, torch
from deeprelax_ase.data import LEVELS, concatenate
from deeprelax_ase.data.packed import load_packed
from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.metrics import coordinate_mae, lattice_mae, volume_error
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training.evaluate import relax_pairs

NINE = (0, 4, 5, 6, 7, 8, 9, 10, 11)
SETS = {20: "universal", 21: "xmno"}


def load(files):
    """Pairs, kinds and source letters (d..g as ord, 0 for the first two files, 1 for M3GNet labels)."""
    pairs, kind = load_packed(files)
    source = torch.cat([torch.from_numpy(np.load(f)["source"].astype(np.int64)) for f in files])
    return pairs, kind, source


def training(pairs, kind, *, share=1.0, borrowed=1.0, dft_copies=3, kept_copies=2, seed=0):
    """Train pairs as often as they stand in an epoch."""
    generator = torch.Generator().manual_seed(seed)
    train = (pairs.split == 0).nonzero()[:, 0]
    if share < 1:
        train = train[torch.randperm(len(train), generator=generator)[: round(share * len(train))]]
    level, kept = pairs.level[train], pairs.kept[train]
    parts = [train] + [train[level == 0]] * (dft_copies - 1) + [train[kept]] * (kept_copies - 1)
    base = pairs.take(torch.cat(parts))
    oam = train[level == 1]
    chosen = oam[torch.randperm(len(oam), generator=generator)[: round(borrowed * len(oam))]]
    lent = pairs.take(torch.cat([chosen] + [chosen[pairs.kept[chosen]]] * (kept_copies - 1)))
    lent = replace(lent, level=torch.zeros_like(lent.level))
    return concatenate([base, lent])


def errors(pairs, scaled, cell):
    """Errors (G,) of crystals."""
    lengths = (torch.linalg.vector_norm(cell, dim=2) - torch.linalg.vector_norm(pairs.cell_relaxed, dim=2)).abs().mean(1)
    volume = volume_error(cell, pairs.cell_relaxed)
    return {
        "coordinates": coordinate_mae(scaled, pairs.scaled_relaxed, pairs.cell_relaxed, pairs.batch),
        "lengths": lengths,
        "lattice": lattice_mae(cell, pairs.cell_relaxed),
        "volume": volume,
        "relative_volume": volume / torch.linalg.det(pairs.cell_relaxed).abs(),
    }


def first_of_each(chosen, kind, limit):
    """Indices of the first ``limit`` of each kind among ``chosen`` (bool)."""
    return torch.cat([((kind == k) & chosen).nonzero()[:, 0][:limit] for k in sorted(set(kind[chosen].tolist()))])


def summary(found, start):
    e, s = found["coordinates"].double(), start["coordinates"].double()
    row = {"n": len(e)}
    for name in ("coordinates", "lengths", "lattice", "volume"):
        row[name] = found[name].double().mean().item()
        row["start " + name] = start[name].double().mean().item()
    row["coordinates median"] = e.median().item()
    row["within 0.05"] = (e <= 0.05).double().mean().item()
    row["start within 0.05"] = (s <= 0.05).double().mean().item()
    row["relative volume median"] = found["relative_volume"].double().median().item()
    row["start relative volume median"] = start["relative_volume"].double().median().item()
    row["further"] = (e > s + 1e-6).double().mean().item()
    return row


def groups(pairs, kind, source):
    """Named masks over pairs that are all of one split."""
    late = source >= ord("d")
    plain = source != 1
    oxide = torch.zeros(len(pairs)).index_add(0, pairs.batch.cpu(), (pairs.numbers.cpu() == 8).float()) > 0
    found = {f"kind {k}": (kind == k) & late for k in NINE}
    found["d-g oxides"] = late & oxide
    found["d-g above 30 atoms"] = late & (pairs.counts.cpu() > 30)
    found["generated DFT, all files"] = (kind == 10) & pairs.dft.cpu() & plain
    found["generated DFT, d-g"] = (kind == 10) & pairs.dft.cpu() & late
    found["a-c all"] = (source >= ord("a")) & (source <= ord("c"))
    for k, name in SETS.items():
        found[name] = (kind == k) & plain
        found[name + " DFT"] = (kind == k) & plain & pairs.dft.cpu()
        found[name + " OAM"] = (kind == k) & plain & ~pairs.dft.cpu()
    return found


def mean_of_kinds(rows):
    kinds = [rows[f"kind {k}"] for k in NINE if rows.get(f"kind {k}")]
    return {n: float(np.mean([r[n] for r in kinds])) for n in kinds[0]} if kinds else {}


@torch.no_grad()
def table(networks, pairs, kind, source, *, passes=(1, 2, 3), level="PBE", atoms=None):
    """Rows by group for each number of passes, and the errors of each crystal."""
    masks = groups(pairs, kind, source)
    start = {n: v.cpu() for n, v in errors(pairs, pairs.scaled_initial, pairs.cell_initial).items()}
    result, raw, present = {}, {"start": start}, pairs
    for n in range(1, max(passes) + 1):
        relaxed = relax_pairs(networks, present, level, passes=1, atoms_per_batch=atoms)
        present = replace(present, scaled_initial=relaxed.scaled, cell_initial=relaxed.cell)
        if n not in passes:
            continue
        found = {k: v.cpu() for k, v in errors(pairs, relaxed.scaled, relaxed.cell).items()}
        scales = torch.zeros(len(pairs)).index_add(0, pairs.batch.cpu(), relaxed.displacement_scales.float().cpu()) / pairs.counts.cpu()
        raw[str(n)] = {**found, "displacement_scale": scales, "volume_scale": relaxed.volume_scales.cpu()}
        rows = {name: summary({k: v[m] for k, v in found.items()}, {k: v[m] for k, v in start.items()}) for name, m in masks.items() if m.any()}
        rows["mean of kinds"] = mean_of_kinds(rows)
        result[str(n)] = rows
    return result, raw


def text(rows):
    lines = []
    for name, r in rows.items():
        if r:
            lines.append(f"{name:26s} n={r['n']:6.0f} xyz {r['coordinates']:.4f}/{r['start coordinates']:.4f} med {r['coordinates median']:.4f} in.05 {r['within 0.05']:.2f} len {r['lengths']:.3f}/{r['start lengths']:.3f} V {r['volume']:.2f}/{r['start volume']:.1f} relV {100*r['relative volume median']:.2f}/{100*r['start relative volume median']:.1f}% worse {100*r['further']:.0f}%")
    return "\n".join(lines)


def save_weights(network, config, file, **info):
    from safetensors.torch import save_file
    tensors = {n: t.detach().bfloat16().contiguous().cpu() for n, t in network.state_dict().items()}
    tmp = str(file) + ".tmp"
    save_file(tensors, tmp, {"config": json.dumps(config.to_dict()), "info": json.dumps(info)})
    import os
    os.replace(tmp, file)


def read_weights(file, device):
    from safetensors import safe_open
    from safetensors.torch import load_file
    with safe_open(file, framework="pt") as stream:
        config = DeepRelaxE3Config.from_dict(json.loads(stream.metadata()["config"]))
    network = DeepRelaxE3(config)
    network.load_state_dict({n: t.float() for n, t in load_file(file).items()})
    return network.to(device).eval()
