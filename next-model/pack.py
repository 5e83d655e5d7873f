"""Pack all pairs into two files; check the round trip."""
import sys, time
sys.path.insert(0, "src")
import numpy as np, torch
from deeprelax_ase.data import load_pairs, concatenate
from deeprelax_ase.data.packed import pack, unpack
from deeprelax_ase.graph.record import rows_times_matrices
torch.set_num_threads(1)
D="../shared/data/pairs_"
def kinds(name, n):
    a=np.load(f"{D}{name}.npz")
    if "kind" in a: return a["kind"].astype(np.uint8)
    return np.full(n, 20 if name=="universal" else 21, np.uint8)
def part(names, out, m3=False):
    ps, ks, fs = [], [], []
    for name in names:
        p=load_pairs(f"{D}{name}.npz", dtype=torch.float32); ps.append(p); ks.append(kinds(name,len(p))); fs.append(np.full(len(p), ord(name[-1]) if "generated" in name else 0, np.uint8))
    for name in names if m3 else ():
        if "generated" in name: continue
        p=load_pairs(f"{D}{name}.npz", labels="m3gnet", dtype=torch.float32); p=p.take((p.split==0).nonzero()[:,0]); ps.append(p); ks.append(kinds(name,len(p))[:len(p)]); fs.append(np.full(len(p),1,np.uint8))
    p=concatenate(ps); k=np.concatenate(ks); f=np.concatenate(fs)
    a=pack(p); a["kind"]=k; a["source"]=f
    np.savez_compressed(out, **a)
    t=time.time(); q=unpack({n:v for n,v in np.load(out).items()}); print("load", time.time()-t)
    for side in ("initial","relaxed"):
    # in Å
        d=(getattr(q,"scaled_"+side).double()-getattr(p,"scaled_"+side).double()); d=d-d.round()
        x=rows_times_matrices(d, p.cell_relaxed.double()[p.batch]); print(side,"position error",x.abs().max().item(), x.norm(dim=1).mean().item(), "above 1e-3:", int((x.abs().amax(1)>1e-3).sum()), "cells", (getattr(q,"cell_"+side)-getattr(p,"cell_"+side)).abs().max().item())
    # displacement between sides
    d=(q.scaled_relaxed-q.scaled_initial).double()-(p.scaled_relaxed-p.scaled_initial).double()
    print("displacement error", rows_times_matrices(d,p.cell_relaxed.double()[p.batch]).abs().max().item())
    for n in ("numbers","counts","level","split","dft","kept"): assert torch.equal(getattr(p,n),getattr(q,n)),n
    import os; print(out, len(p), len(p.numbers), os.path.getsize(out)/2**20, "MiB", "levels", torch.bincount(p.level).tolist(), "kept", int(p.kept.sum()))
part(["universal","xmno","generated_d","generated_e"], "data/part1.npz", m3=True)
part(["generated_a","generated_b","generated_c","generated_f","generated_g"], "data/part2.npz")
