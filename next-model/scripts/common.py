"""What the scripts of the run share: reading the data, epochs, errors by kind, weights on disk."""
from __future__ import annotations
import io, json, lzma, os
from dataclasses import replace
import numpy as np, torch
from deeprelax_ase.data import RelaxationPairs, concatenate
from deeprelax_ase.data.batches import Batches, pair_graph
from deeprelax_ase.data.packed import _unpacked
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.models.model import model_of
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.prediction.inference import InferenceSettings, relax

NINE = (0, 4, 5, 6, 7, 8, 9, 10, 11)
SETS = {20: "universal", 21: "xmno"}
COLUMNS = ("displacement_scale", "volume_scale", "shape_scale", "last_displacement", "last_strain")


def arrays_of(file):
    raw = lzma.decompress(open(file, "rb").read()) if str(file).endswith(".xz") else open(file, "rb").read()
    return dict(np.load(io.BytesIO(raw)))


def load(folder, tiny=0):
    """Pairs (forces and virials known for many; has_forces says for which), source letters, energy drops (nan unknown)."""
    parts, sources = [], []
    for name in ("part1", "part2"):
        a = arrays_of(f"{folder}/{name}.npz.xz")
        sources.append(torch.from_numpy(a.pop("source").astype(np.int64)))
        parts.append(_unpacked(a, torch.float32))
    pairs, source = concatenate(parts), torch.cat(sources)
    known = arrays_of(f"{folder}/known.npz.xz")
    q = known["forces"].T.astype(np.float32)
    forces = torch.from_numpy(np.sign(q) * np.square(q / 127) * 16)
    s = np.ascontiguousarray(known["stress"].transpose(1, 2, 0)).view(np.int16)[..., 0].astype(np.float32) / 5000  # (6, G)
    stress = torch.from_numpy(s[[0, 3, 5, 3, 1, 4, 5, 4, 2]].T.reshape(-1, 3, 3).copy())
    late = source >= ord("d")
    of_atoms = late[pairs.batch]
    assert int(of_atoms.sum()) == len(forces) and int(late.sum()) == len(stress)
    pairs.forces[of_atoms] = forces
    pairs.virial[late] = stress * torch.linalg.det(pairs.cell_initial[late]).abs()[:, None, None]
    drop = torch.full((len(pairs),), float("nan"))
    pairs = replace(pairs, has_forces=late.clone())
    if tiny:
        index = torch.arange(0, len(pairs), tiny)
        pairs, source, drop = pairs.take(index), source[index], drop[index]
    return pairs, source, drop


def epoch(pairs, drop, *, borrowed=1.0, dft_copies=3, fixed_copies=2, seed=0):
    """Training pairs as often as they stand in an epoch, and their energy drops."""
    generator = torch.Generator().manual_seed(seed)
    train = (pairs.split == 0).nonzero()[:, 0]
    level, fixed = pairs.level[train], pairs.fixed_cell[train]
    once = torch.cat([train] + [train[level == 0]] * (dft_copies - 1) + [train[fixed]] * (fixed_copies - 1))
    oam = train[level == 1]
    lent = oam[torch.randperm(len(oam), generator=generator)[: round(borrowed * len(oam))]]
    lent = torch.cat([lent] + [lent[pairs.fixed_cell[lent]]] * (fixed_copies - 1))
    borrowed_pairs = pairs.take(lent)
    borrowed_pairs = replace(borrowed_pairs, level=torch.zeros_like(borrowed_pairs.level))
    return concatenate([pairs.take(once), borrowed_pairs]), torch.cat([drop[once], drop[lent]])


@torch.no_grad()
def predict(network, pairs, level, *, passes, atoms=20000, known=False):
    """For n in 1..passes: fractional, cell, features (G, 5) after n recycles. ``known``: the first one reads forces."""
    from deeprelax_ase.nn.records import KnownForces
    model = model_of([network], "x", level=level)
    settings = InferenceSettings(1, None)
    present, found = pairs, []
    for n in range(passes):
        fractional, cell = torch.zeros_like(pairs.fractional_initial), torch.zeros_like(pairs.cell_initial)
        features = torch.zeros(len(pairs), len(COLUMNS), device=cell.device)
        for fixed in (False, True):
            crystals = (pairs.fixed_cell == fixed).nonzero().squeeze(1)
            for chunk in Batches(pairs.counts[crystals], atoms):
                index = crystals[chunk]
                part = present.take(index)
                graph = pair_graph(part, model.config.graph)
                forces = KnownForces(part.forces, part.virial, part.has_forces) if known and n == 0 else None
                r = relax(model, graph, settings, relax_cell=not fixed, known=forces)
                fractional[pairs.atoms_of(index)] = rows_times_matrices(r.positions, torch.linalg.inv(r.cell)[graph.batch]).float()
                cell[index] = r.cell.float()
                features[index] = torch.stack([getattr(r.features, c) for c in COLUMNS], dim=1).float()
        present = replace(present, fractional_initial=fractional, cell_initial=cell)
        found.append((fractional, cell, features))
    return found


def errors(pairs, fractional, cell):
    found = prediction_errors(pairs, fractional, cell)
    found["lengths"] = (torch.linalg.vector_norm(cell, dim=2) - torch.linalg.vector_norm(pairs.cell_relaxed, dim=2)).abs().mean(1)
    return {k: found[k].float().cpu() for k in ("coordinates", "lengths", "lattice", "volume", "relative_volume")}


def summary(found, start):
    e, s = found["coordinates"].double(), start["coordinates"].double()
    row = {"n": len(e)}
    for name in ("coordinates", "lengths", "lattice", "volume"):
        row[name], row["start " + name] = found[name].double().mean().item(), start[name].double().mean().item()
    row["coordinates median"] = e.median().item()
    row["within 0.05"], row["start within 0.05"] = (e <= 0.05).double().mean().item(), (s <= 0.05).double().mean().item()
    row["relative volume median"] = found["relative_volume"].double().median().item()
    row["start relative volume median"] = start["relative_volume"].double().median().item()
    row["further"] = (e > s + 1e-6).double().mean().item()
    return row


def groups(pairs, source):
    """Named masks over pairs that are all of one split."""
    kind, dft = pairs.kind.cpu(), pairs.dft.cpu()
    late, plain = source >= ord("d"), source != 1
    oxide = torch.zeros(len(pairs)).index_add(0, pairs.batch.cpu(), (pairs.numbers.cpu() == 8).float()) > 0
    found = {f"kind {k}": (kind == k) & late for k in NINE}
    found["d-g oxides"] = late & oxide
    found["d-g above 30 atoms"] = late & (pairs.counts.cpu() > 30)
    found["generated DFT, all files"] = (kind == 10) & dft & plain
    found["generated DFT, d-g"] = (kind == 10) & dft & late
    found["a-c all"] = (source >= ord("a")) & (source <= ord("c"))
    for k, name in SETS.items():
        found[name] = (kind == k) & plain
        found[name + " DFT"] = (kind == k) & plain & dft
        found[name + " OAM"] = (kind == k) & plain & ~dft
        found[name + " M3GNet"] = (kind == k) & (source == 1)
    return {n: m for n, m in found.items() if m.any()}


def table(network, pairs, source, level, *, passes=3, atoms=20000, known=False):
    """Rows by group for each number of recycles, and columns of each crystal."""
    masks = groups(pairs, source)
    start = errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    result, raw = {}, {f"start/{k}": v for k, v in start.items()}
    for n, (fractional, cell, features) in enumerate(predict(network, pairs, level, passes=passes, atoms=atoms, known=known), 1):
        found = errors(pairs, fractional, cell)
        raw |= {f"{n}/{k}": v for k, v in found.items()}
        raw[f"{n}/features"] = features.cpu()
        rows = {name: summary({k: v[m] for k, v in found.items()}, {k: v[m] for k, v in start.items()}) for name, m in masks.items()}
        kinds = [rows[f"kind {k}"] for k in NINE if f"kind {k}" in rows]
        if kinds:
            rows["mean of kinds"] = {c: float(np.mean([r[c] for r in kinds])) for c in kinds[0]}
        result[str(n)] = rows
    return result, raw


def text(rows):
    return "\n".join(
        f"{name:26s} n={r['n']:6.0f} xyz {r['coordinates']:.4f}/{r['start coordinates']:.4f} med {r['coordinates median']:.4f} in.05 {r['within 0.05']:.2f} len {r['lengths']:.3f}/{r['start lengths']:.3f} V {r['volume']:.2f}/{r['start volume']:.1f} relV {100*r['relative volume median']:.2f}/{100*r['start relative volume median']:.1f}% worse {100*r['further']:.0f}%"
        for name, r in rows.items())


def save_weights(network, config, file, **info):
    from safetensors.torch import save_file
    tensors = {n: t.detach().bfloat16().contiguous().cpu() for n, t in network.state_dict().items() if not n.startswith("auxiliary.")}
    save_file(tensors, str(file) + ".tmp", {"config": json.dumps(config.to_dict()), "info": json.dumps(info)})
    os.replace(str(file) + ".tmp", file)
