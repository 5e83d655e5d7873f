"""Pack all pairs into two files and what is known of forces, stress and energy into a third."""
import lzma, io, os, sys, time
import numpy as np, torch
from dataclasses import replace
from deeprelax_ase.data import load_pairs, concatenate
from deeprelax_ase.data.packed import _packed, _unpacked
torch.set_num_threads(1)
D="../shared/data/pairs_"; O="data/"
os.makedirs(O, exist_ok=True)
def kinds(name, n):
    a=np.load(f"{D}{name}.npz")
    if "kind" in a: return torch.from_numpy(a["kind"].astype(np.int64))
    return torch.full((n,), 20 if name=="universal" else 21)
def save(name, arrays):
    b=io.BytesIO(); np.savez(b, **arrays)
    raw=b.getvalue(); c=lzma.compress(raw, preset=6)
    open(O+name+".npz.xz","wb").write(c); print(name, len(raw)/2**20, len(c)/2**20, flush=True)
def part(names, out):
    ps, src = [], []
    for name in names:
        p=load_pairs(f"{D}{name}.npz", dtype=torch.float32); p=replace(p, kind=kinds(name,len(p))); ps.append(p)
        src.append(np.full(len(p), ord(name[-1]) if "generated" in name else 0, np.uint8))
    for name in names:
        if "generated" in name: continue
        a=np.load(f"{D}{name}.npz"); ok=torch.from_numpy(a["m3gnet_ok"])
        p=load_pairs(f"{D}{name}.npz", labels="m3gnet", dtype=torch.float32); p=replace(p, kind=kinds(name,len(ok))[ok]); ps.append(p)
        src.append(np.full(len(p),1,np.uint8))
    p=concatenate(ps); a=_packed(p); a["source"]=np.concatenate(src); save(out,a)
    print(out, len(p), len(p.numbers), torch.bincount(p.level).tolist(), torch.bincount(p.split).tolist(), flush=True)
which=sys.argv[1]
if which=="1": part(["universal","xmno","generated_d","generated_e"], "part1")
if which=="2": part(["generated_f","generated_g","generated_a","generated_b","generated_c"], "part2")
if which=="3":
    # known in d, e, f, g: forces as signed square roots in 8 bits of sqrt(|f|/16); stress in 16 bits; energies: all generated files
    out={}
    F,S=[],[]
    for n in "defg":
        a=np.load(f"{D}generated_{n}.npz"); f=a["forces_initial"].astype(np.float32); F.append(f)
        S.append(a["stress_initial"].astype(np.float32))
    F=np.concatenate(F); S=np.concatenate(S); print("forces", F.shape, np.quantile(np.abs(F),[.5,.9,.99,.999,1]), np.isfinite(F).all(), "stress", np.quantile(np.abs(S),[.5,.9,.99,1]))
    q=np.clip(np.rint(np.sign(F)*np.sqrt(np.abs(F)/16)*127),-127,127).astype(np.int8)
    back=np.sign(q)*(q.astype(np.float32)/127)**2*16
    print("error", np.abs(back-F).mean(), np.abs(F).mean())
    iu=np.array([0,4,8,1,2,5]); s=np.clip(np.rint(S.reshape(-1,9)[:,iu]*5000),-32767,32767).astype(np.int16)
    E=[]
    for n in ("universal","xmno","generated_d","generated_e","generated_f","generated_g","generated_a","generated_b","generated_c"):
        a=np.load(f"{D}{n}.npz"); E.append(a["energy_initial"]-a["energy_relaxed"])
    E=np.concatenate(E).astype(np.float32); print("drop", np.quantile(E,[0,.01,.5,.9,.99,1]), np.isfinite(E).all())
    save("known", dict(forces=np.ascontiguousarray(q.T), stress=np.ascontiguousarray(s.T.copy().view(np.uint8).reshape(6,-1,2).transpose(2,0,1)), drop=np.clip(np.rint(E*2000),-32767,32767).astype(np.int16)))
