"""Where the network's error comes from: by kind and size of the true displacement, for training and validation crystals."""
import json, numpy as np, torch, time, sys
from dataclasses import replace
from safetensors.torch import load_file
from deeprelax_ase.data import load_pairs, concatenate
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.models.model import model_of
from deeprelax_ase.evaluation.pairs import predict_pairs
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.graph.record import rows_times_matrices
torch.set_num_threads(1)
cfg=DeepRelaxE3Config.from_dict(json.load(open("DeepRelax2-B.network.json"))["config"])
net=DeepRelaxE3(cfg); net.load_state_dict({k:v.float() for k,v in load_file("DeepRelax2-B.safetensors").items()}); net.eval()
model=model_of([net],"x",level="PBE")
P=load_pairs("../shared/data/pairs_generated_e.npz",dtype=torch.float32)
N=120
res={}
for split,s in (("train",0),("val",1)):
    idx=torch.cat([((P.kind==k)&(P.split==s)).nonzero()[:,0][:N] for k in (0,4,5,6,7,8,9,10,11)])
    p=P.take(idx)
    start=prediction_errors(p,p.fractional_initial,p.cell_initial)["coordinates"].numpy()
    out={"kind":p.kind.numpy(),"counts":p.counts.numpy(),"start":start}
    q=p
    t=time.time()
    for n in (1,2,3):
        r=predict_pairs(model,q,recycles=1,atoms_per_batch=1500)
        q=replace(q,fractional_initial=r.fractional.float(),cell_initial=r.cell.float())
        out[f"e{n}"]=prediction_errors(p,q.fractional_initial,q.cell_initial)["coordinates"].numpy()
        # projection of the predicted displacement on the true one
        true=rows_times_matrices(p.fractional_relaxed-p.fractional_initial,p.cell_relaxed[p.batch])
        pred=rows_times_matrices(q.fractional_initial-p.fractional_initial,p.cell_relaxed[p.batch])
        dot=torch.zeros(len(p)).index_add(0,p.batch,(true*pred).sum(1)); tt=torch.zeros(len(p)).index_add(0,p.batch,(true*true).sum(1)); pp=torch.zeros(len(p)).index_add(0,p.batch,(pred*pred).sum(1))
        out[f"proj{n}"]=(dot/tt.clamp(min=1e-8)).numpy(); out[f"cos{n}"]=(dot/(tt*pp).sqrt().clamp(min=1e-8)).numpy()
    print(split,time.time()-t,flush=True)
    np.savez(f"analyse_{split}.npz",index=idx.numpy(),**out)
    for k in (0,4,5,6,7,8,9,10,11):
        m=out["kind"]==k; s0=out["start"][m]; e=out["e2"][m]
        o=np.argsort(s0); parts=np.array_split(o,4)
        print(split,"kind",k,"start %.3f e1 %.3f e2 %.3f e3 %.3f"%(s0.mean(),out["e1"][m].mean(),e.mean(),out["e3"][m].mean()),"by quartile of displacement:"," ".join("%.3f->%.3f(p%.2f c%.2f)"%(s0[i].mean(),e[i].mean(),np.median(out["proj2"][m][i]),np.median(out["cos2"][m][i])) for i in parts),"share of error in worst 10%%: %.2f"%(np.sort(e)[-len(e)//10:].sum()/e.sum()),flush=True)
    s0=out["start"]; e=out["e2"]
    print(split,"all", s0.mean(), e.mean(), "worst 10%", np.sort(e)[-len(e)//10:].sum()/e.sum(), "worst 20%", np.sort(e)[-len(e)//5:].sum()/e.sum())
