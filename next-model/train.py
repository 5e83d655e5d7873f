"""Train one network on packed pairs until a moment that a file names; one process for each GPU."""
from __future__ import annotations
import argparse, json, os, sys, time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
from common import load, save_weights, training
from deeprelax_ase.data import LEVELS
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.batches import BatchStream
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.muon import Muon, muon_parameters
from deeprelax_ase.training.settings import TrainingSettings
from deeprelax_ase.training.weights import clip_gradients, load_initial, update_average

AUGMENT = {
    "std": dict(on_the_way=0.25, arrived=0.1, around=0.2, strained=0.2, rattled=0.2, rewrapped=0.0, in_relaxed_cell=0.1),
    "light": dict(on_the_way=0.15, arrived=0.05, around=0.1, strained=0.1, rattled=0.1, rewrapped=0.0, in_relaxed_cell=0.1),
}

def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", nargs="+"); p.add_argument("--out", type=Path)
    p.add_argument("--rank", type=int, default=0); p.add_argument("--world", type=int, default=1)
    p.add_argument("--port", type=int, default=29511); p.add_argument("--device", default="cuda")
    p.add_argument("--seconds", type=float, default=0, help="budget; 0: until the moment in --end")
    p.add_argument("--end", type=Path, help="file with a unix time")
    p.add_argument("--after", type=Path, help="once ready, wait for this file")
    p.add_argument("--channels", type=int, default=192); p.add_argument("--blocks", type=int, default=3)
    p.add_argument("--layers", type=int, default=2); p.add_argument("--optimizer", default="adamw")
    p.add_argument("--lr", type=float, default=2e-3); p.add_argument("--wd", type=float, default=0.1)
    p.add_argument("--augment", default="std"); p.add_argument("--replayed", type=float, default=0.3)
    p.add_argument("--share", type=float, default=1.0); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--atoms", type=int, default=12000); p.add_argument("--decay", type=float, default=0.999)
    p.add_argument("--warmup", type=float, default=0.04)
    p.add_argument("--compile", action="store_true"); p.add_argument("--initial")
    p.add_argument("--save-every", type=float, default=60); p.add_argument("--max-steps", type=int, default=10**9)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.world > 1 and os.environ.get("FAIL_DDP"): sys.exit(3)  # to try what happens then
    began = time.time()
    cuda = a.device.startswith("cuda")
    device = torch.device(a.device)
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    if a.world > 1:
        dist.init_process_group("nccl" if cuda else "gloo", init_method=f"tcp://127.0.0.1:{a.port}", rank=a.rank, world_size=a.world, **({"device_id": device} if cuda else {}))
    log = (a.out / f"log{a.rank}.jsonl").open("a")
    def tell(**values):
        line = json.dumps(values); log.write(line + "\n"); log.flush()
        if a.rank == 0: print(a.out.name, line, flush=True)
    pairs, kind, _ = load(a.data)
    pairs = training(pairs, kind, share=a.share)
    counts = pairs.counts.clone()
    pairs = pairs.to(device)
    config = DeepRelaxE3Config(channels=a.channels, num_blocks=a.blocks, layers_per_block=a.layers, levels=LEVELS, reads_cell_freedom=True)
    settings = TrainingSettings(seconds=1.0, atoms_per_batch=a.atoms, learning_rate=a.lr, clip=10.0, tempering=1.0, weight_decay=a.wd, replayed=a.replayed, average_decay=a.decay, warmup=a.warmup, compile=a.compile, seed=a.seed, augmentation=AugmentationSettings(**AUGMENT[a.augment]))
    torch.manual_seed(a.seed)
    task = DeepRelaxE3Task(pairs, config, replace(settings, seed=a.seed + 1_000_003 * a.rank), device)
    network = task.network
    if a.initial: load_initial(network, a.initial)
    if a.world > 1:
        for tensor in network.state_dict().values(): dist.broadcast(tensor, src=0)
    average = deepcopy(network).requires_grad_(False)
    if a.compile: task.compile()
    inner, rest = muon_parameters(network, a.channels) if a.optimizer == "muon" else ([], list(network.parameters()))
    optimizers = [torch.optim.AdamW(rest, lr=0.0, weight_decay=a.wd, betas=(0.9, 0.98), fused=cuda)]
    if inner: optimizers.append(Muon(inner, lr=0.0, weight_decay=a.wd))
    parameters = list(network.parameters())
    stream = BatchStream(counts, a.atoms, a.seed, rank=a.rank, world=a.world)
    tell(event="loaded", pairs=len(pairs), atoms=int(counts.sum()), parameters=sum(x.numel() for x in parameters), muon=sum(x.numel() for x in inner), seconds=time.time() - began)
    weights = a.out / "weights.safetensors"
    start = until = None
    step, seen, progress, saved = 0, 0, 0.0, time.time()
    since, seen_since = time.time(), 0
    for crystals, upcoming in stream:
        if step % 20 == 0:  # the first process's clock is everybody's
            now = time.time()
            if start is None: progress = 0.0
            else:
                goal = start + a.seconds if a.seconds else float(a.end.read_text())
                progress = (now - start) / max(goal - start, 1.0)
            if a.world > 1:
                shared = torch.tensor([progress], dtype=torch.float64, device=device)
                dist.broadcast(shared, src=0); progress = float(shared)
            if progress >= 1: break
        for o in optimizers:
            for group in o.param_groups: group["lr"] = settings.rate(progress)
        parts = task.gradients(crystals, upcoming)
        if start is None:  # compiled and recorded: the clock starts
            if cuda: torch.cuda.synchronize()
            tell(event="ready", seconds=time.time() - began, memory=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0)
            (a.out / "ready").write_text("")
            while a.after and not a.after.exists(): time.sleep(0.2)
            if a.world > 1: dist.barrier()
            start = since = time.time()
        if a.world > 1:
            gradients = [x.grad for x in parameters if x.grad is not None]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat); flat /= a.world
            torch._foreach_copy_(gradients, [m.view_as(g) for g, m in zip(gradients, flat.split([g.numel() for g in gradients]))])
        norms = clip_gradients(network, settings.clip)
        for o in optimizers: o.step()
        update_average(average, network, settings.average_decay, step)
        step += 1; seen += len(crystals) * a.world; seen_since += len(crystals) * a.world
        if a.world > 1 and step % 500 == 0:  # rounding must not let the copies drift apart
            for x in parameters: dist.broadcast(x.data, src=0)
        if step % 100 == 0 or step in (5, 20):
            values = {n: round(v.item(), 4) for n, v in parts.items()}
            tell(step=step, t=round(time.time() - start, 1), progress=round(progress, 4), rate=round(seen_since / (time.time() - since)), norm=round(norms["total"].item(), 3), **values)
            since, seen_since = time.time(), 0
            (a.out / "beat").write_text(str(time.time()))
        if a.rank == 0 and time.time() - saved > a.save_every:
            save_weights(average, config, weights, step=step, seen=seen, progress=progress); saved = time.time()
        if step >= a.max_steps: break
    if cuda: torch.cuda.synchronize()
    seconds = time.time() - start
    if a.rank == 0:
        save_weights(average, config, weights, step=step, seen=seen, progress=progress, seconds=seconds)
        arguments = {k: str(v) for k, v in vars(a).items()}
        (a.out / "summary.json").write_text(json.dumps({"steps": step, "crystals": seen, "seconds": seconds, "rate": seen / seconds, "parameters": sum(x.numel() for x in parameters), "arguments": arguments}))
    tell(event="done", steps=step, crystals=seen, seconds=round(seconds, 1), rate=round(seen / seconds))
    (a.out / f"done{a.rank}").write_text("")
    log.close()
    sys.stdout.flush()
    os._exit(0)  # no teardown of process groups that could hang

main()
