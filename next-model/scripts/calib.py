import sys; sys.path.insert(0,".")
import io,json,tarfile,numpy as np
from common import arrays_of
from scipy.stats import spearmanr
from deeprelax_ase.uncertainty.calibration import ErrorFeatures, fit_error_model
g=lambda n: dict(np.load("rows/"+n))
counts=[];ox=[];fixed=[]
for n in ("part1","part2"):
    a=arrays_of(f"data/{n}.npz.xz"); c=a["counts"].astype(int); b=np.repeat(np.arange(len(c)),c)
    counts.append(c); ox.append(np.bincount(b,weights=(a["numbers"]==8),minlength=len(c))>0); fixed.append((a["flags"]&2)>0)
counts=np.concatenate(counts); ox=np.concatenate(ox); fixed=np.concatenate(fixed)
names=["displacement_scale","volume_scale","shape_scale","last_displacement","last_strain"]
def feats(x,p,idx,m):
    f=x[f"{p}/features"][m]; d=dict(zip(names,f.T)); z=np.zeros(len(f))
    return ErrorFeatures(**d,displacement_spread=z,strain_spread=z,atoms=counts[idx][m])
P=sys.argv[1] if len(sys.argv)>1 else "2"
v,te=g("validation.npz"),g("test.npz")
rows={}
def group(x,name):
    k,s=x["kind"],x["source"]; late=s>=ord("d")
    if name=="all": return np.ones(len(k),bool)
    if name=="d-g all": return late
    if name=="oxides d-g": return late&ox[x["index"]]
    if name=="above 30 atoms d-g": return late&(counts[x["index"]]>30)
    if name=="universal": return k==20
    if name=="xmno": return k==21
    return late&(k==int(name))
G=["all","d-g all"]+[str(k) for k in (0,4,5,6,7,8,9,10,11)]+["universal","xmno","oxides d-g","above 30 atoms d-g"]
for what,col in (("coordinates","coordinates"),("volume","relative_volume")):
    mv=np.ones(len(v["kind"]),bool); mt=np.ones(len(te["kind"]),bool)
    if what=="volume": mv&=~fixed[v["index"]]; mt&=~fixed[te["index"]]
    fv,ft=feats(v,P,v["index"],mv),feats(te,P,te["index"],mt)
    ev,et=v[f"{P}/{col}"][mv],te[f"{P}/{col}"][mt]
    model=fit_error_model(fv,ev,ox[v["index"]][mv])
    xv,xt=model.expected(fv),model.expected(ft)
    # factors by kind (all generated files of that kind, universal, xmno): the 90 % quantile of error over expected, conformal
    kv,kt=v["kind"][mv],te["kind"][mt]; ba,bk=np.zeros(len(xt)),np.zeros(len(xt))
    q=lambda r: np.sort(r)[min(int(np.ceil(.9*(len(r)+1)))-1,len(r)-1)]
    ba[:]=xt*q(ev/xv)
    for k in np.unique(kt): bk[kt==k]=xt[kt==k]*q((ev/xv)[kv==k])
    for n in G:
        m=group(te,n)[mt]
        if m.sum()<10: continue
        rows.setdefault(n,{})[what]=dict(n=int(m.sum()),error=float(et[m].mean()),expected=float(xt[m].mean()),below_one_factor=float((et<=ba)[m].mean()),below_by_kind=float((et<=bk)[m].mean()),rank=float(spearmanr(et[m],xt[m]).statistic))
for n,r in rows.items(): print(n, {w: {k: round(x,4) for k,x in d.items()} for w,d in r.items()})
json.dump(rows,open(f"rows/calibration-{P}.json","w"),indent=1)
