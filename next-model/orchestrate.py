"""Rank a few candidates side by side, then train the best on all GPUs, then measure it. Runs on its own; a log tells."""
from __future__ import annotations
import argparse, json, os, subprocess, sys, time
from pathlib import Path

p = argparse.ArgumentParser()
p.add_argument("--gpus", type=int, required=True); p.add_argument("--device", default="cuda")
p.add_argument("--rank-seconds", type=float, default=110); p.add_argument("--life", type=float, default=1400)
p.add_argument("--reserve", type=float, default=110, help="seconds before the end that are left for the measurement")
p.add_argument("--tiny", action="store_true"); p.add_argument("--skip-rank", action="store_true")
a = p.parse_args()
HERE = Path(__file__).parent
RUNS = HERE / "runs"; RUNS.mkdir(exist_ok=True)
LIFE_END = HERE / "life_end"  # unix time; may be overwritten from outside
if not LIFE_END.exists(): LIFE_END.write_text(str(time.time() + a.life))
DATA = [str(HERE / "data" / n) for n in (("tiny1.npz", "tiny2.npz") if a.tiny else ("part1.npz", "part2.npz"))]
SMALL = ["--channels", "16", "--blocks", "2"] if a.tiny else ["--channels", "192", "--blocks", "3"]
LARGE = ["--channels", "24", "--blocks", "2"] if a.tiny else ["--channels", "256", "--blocks", "5"]
COMMON = ["--atoms", "300"] if a.tiny else ["--compile"]
T0 = time.time()

def say(*words): print(f"[{time.time() - T0:7.1f}]", *words, flush=True)

def device(gpu): return f"cuda:{gpu}" if a.device == "cuda" else "cpu"

def train(name, gpu, *options, rank=0, world=1, port=29511):
    out = RUNS / name; out.mkdir(exist_ok=True)
    log = (out / f"out{rank}.txt").open("w")
    command = [sys.executable, "train.py", "--data", *DATA, "--out", str(out), "--device", device(gpu), "--rank", str(rank), "--world", str(world), "--port", str(port), *COMMON, *options]
    say("start", name, "on", device(gpu), " ".join(options))
    return subprocess.Popen(command, cwd=HERE, stdout=log, stderr=subprocess.STDOUT)

def evaluate(name, gpu, split, *options):
    log = (RUNS / f"eval_{name}_{split}.txt").open("w")
    return subprocess.Popen([sys.executable, "evaluate.py", str(RUNS / f"eval_{name}_{split}.json"), "--weights", str(RUNS / name / "weights.safetensors"), "--data", *DATA, "--split", split, "--device", device(gpu), *options], cwd=HERE, stdout=log, stderr=subprocess.STDOUT)

def tail(file, n=6):
    try: return "\n".join(Path(file).read_text().splitlines()[-n:])
    except OSError as error: return str(error)

def rank():
    budget = ["--seconds", str(a.rank_seconds)]
    jobs = {
        "A_muon": [*SMALL, "--augment", "light", "--optimizer", "muon", *budget],
        "B_muon": [*LARGE, "--augment", "light", "--optimizer", "muon", *budget],
    }
    queues = [list(jobs)[g::a.gpus] for g in range(a.gpus)]
    running, evals = {}, {}
    previous = [None] * a.gpus
    limit = time.time() + a.rank_seconds * len(queues[0]) + 200
    done = set()
    while time.time() < limit:
        for gpu, queue in enumerate(queues):
            last = previous[gpu]
            if queue and (last is None or (RUNS / last / "ready").exists() or running[last][0].poll() is not None):
                name = queue.pop(0)
                after = ["--after", str(RUNS / last / "done0")] if last else []
                running[name] = (train(name, gpu, *jobs[name], *after), gpu)
                previous[gpu] = name
        for name, (process, gpu) in running.items():
            if name not in done and process.poll() is not None:
                done.add(name)
                say(name, "ended with", process.returncode); print(tail(RUNS / name / "out0.txt", 3 if process.returncode == 0 else 25), flush=True)
                if process.returncode: (RUNS / name / "done0").write_text("")
                else: evals[name] = evaluate(name, gpu, "validation", "--limit", "250", "--passes", "1", "2")
        if len(done) == len(jobs) and all(e.poll() is not None for e in evals.values()): break
        time.sleep(0.3)
    for process, _ in running.values():
        if process.poll() is None: process.kill()
    scores = {}
    for name in jobs:
        try:
            [rows] = json.loads((RUNS / f"eval_{name}_validation.json").read_text()).values()
            scores[name] = min(rows[n]["mean of kinds"]["coordinates"] for n in rows)
            say("score", name, round(scores[name], 5)); print(tail(RUNS / f"eval_{name}_validation.txt", 60), flush=True)
        except Exception as error: say("no score of", name, repr(error), tail(RUNS / f"eval_{name}_validation.txt"))
    return scores

def choose(scores):
    """The rule, written down before the run."""
    best = lambda x, y, slack=1.0: x in scores and (y not in scores or scores[x] <= slack * scores[y])
    options = ["--optimizer", "muon", "--augment", "light"]
    # the large network gains more from the long run: it may lose a little in the short one
    options += LARGE if not scores or best("B_muon", "A_muon", 1.06) else SMALL
    override = HERE / "choice.json"
    if override.exists():
        options = json.loads(override.read_text()); say("the choice is overridden")
    say("choice", options)
    return options

def until(moment, processes, beat=None, patience=240):
    """Whether all processes ended well, watching for ones that die or stall at the start."""
    started = time.time()
    while time.time() < moment:
        codes = [q.poll() for q in processes]
        if all(c == 0 for c in codes): return True
        if any(c not in (None, 0) for c in codes): say("exit codes", codes); return False
        if beat is not None and not beat.exists() and time.time() - started > patience: say("no heartbeat"); return False
        time.sleep(0.5)
    return any(q.poll() == 0 for q in processes)

def long_run(options):
    end = HERE / "train_end"
    def refresh(): end.write_text(str(float(LIFE_END.read_text()) - a.reserve))
    refresh()
    keep = subprocess.Popen([sys.executable, "-c", f"""
import os, time, pathlib
life, end = pathlib.Path({str(LIFE_END)!r}), pathlib.Path({str(end)!r})
while os.getppid() == {os.getpid()}:
    try:
        new = str(float(life.read_text()) - {a.reserve}); tmp = end.with_suffix('.new')
        if new != end.read_text(): tmp.write_text(new); tmp.replace(end)
    except ValueError: pass
    time.sleep(1)
"""])
    options = [*options, "--end", str(end), "--save-every", "45"]
    name = "long"
    names = [name]
    processes = [train(name, g, *options, rank=g, world=a.gpus) for g in range(a.gpus)]
    while True:
        good = until(float(LIFE_END.read_text()) - a.reserve + 25, processes, RUNS / name / "beat")
        if good or time.time() > float(LIFE_END.read_text()) - a.reserve: break
        if len(names) == 1:
            say("several GPUs together failed: one network each"); print(tail(RUNS / name / "out0.txt", 30), flush=True)
            for q in processes:
                if q.poll() is None: q.kill()
            names = [f"single{g}" for g in range(a.gpus)]
            processes = [train(n, g, *options, "--seed", str(g)) for g, n in enumerate(names)]
            name = names[0]
        else: break
    for q in processes:
        if q.poll() is None: say("had to stop", q.pid); q.kill()
    keep.kill()
    say("trained", names); [print(tail(RUNS / n / "out0.txt", 4), flush=True) for n in names]
    return names

def measure(names):
    evals = []
    for n, name in enumerate(names):
        evals.append(evaluate(name, n % a.gpus, "test", "--passes", "1", "2", "3", "--raw"))
        evals.append(evaluate(name, (n + 1) % a.gpus, "validation", "--passes", "1", "2", "--raw"))
    for e in evals: e.wait()
    for name in names: print(tail(RUNS / f"eval_{name}_test.txt", 75), flush=True)
    (HERE / "finished").write_text("")
    say("finished")

names = long_run(choose({} if a.skip_rank else rank()))
measure(names)
