#!/usr/bin/env bash
# Teach the network a potential's minima on a GPU, and count what it takes to come to them before and after.
#
#     bash examples/teach_at_scale.sh prototypes.extxyz taught
#
# The potential is CHGNet with its r2SCAN weights, which its package ships. No chemical system of the crystals that are
# measured has a label to learn from or to stop by. The environment says what differs: DEVICE, POTENTIAL, NUMBER of
# candidates, MOST crystals that are measured, and other options of `label` (LABEL) and `finetune` (TUNE).
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 CRYSTALS FOLDER, such as prototypes.extxyz taught" >&2; exit 2; }
sources=$1 out=$2 device=${DEVICE:-cuda} potential=${POTENTIAL:-chgnet:r2scan}
read -ra label <<< "${LABEL:---steps 300 --workers 3 --block-size 1500}"
read -ra tune <<< "${TUNE:---learning-rate 5e-4 --set training.max_epochs=null --set training.seconds=45 \
    --set training.atoms_per_batch=2000 --set training.validate_every=5}"
python -c "from deeprelax_ase.prediction.devices import device_of as found; found('$device')" ||
    { echo "DEVICE=cpu runs this without a GPU" >&2; exit 2; }
measure=("$(dirname "$0")/../benchmarks/time_to_minimum.py" "$out/labelled/pairs.npz" --each "${MOST:-400}"
    --potential "$potential" --device "$device" --few 0)
jumps=("one shot, default" "jump, fast" "jump, fire")
mkdir -p "$out"
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

if [ ! -e "$out/candidates.extxyz" ]; then
    deeprelax candidates "$sources" --number "${NUMBER:-4500}" --seed 20 --most-atoms 8 -o "$out/candidates.extxyz"
fi
deeprelax label "$out/candidates.extxyz" --calculator "$potential" --device "$device" \
    --group-by "chemical system" "${label[@]}" --out "$out/labelled"
labelled=$SECONDS
python "${measure[@]}" --model DeepRelax-PBE --only nothing fast fire "${jumps[@]}" --json "$out/before.json" &
deeprelax finetune DeepRelax-PBE --data "$out/labelled" --device "$device" "${tune[@]}" --out "$out/tuned"
tuned=$SECONDS
wait
python "${measure[@]}" --model "$out/tuned/DeepRelax-PBE-tuned.json" --only "${jumps[@]}" --json "$out/after.json"
python - "$out" "$labelled" "$((tuned - labelled))" "$SECONDS" << 'END'
import json, sys
from collections import Counter
from pathlib import Path
from deeprelax_ase.labelling import label_folder

out, seconds = Path(sys.argv[1]), [int(number) for number in sys.argv[2:]]
rows = [row for table in label_folder(out / "labelled").tables(["status", "force_calls"]) for row in table.to_pylist()]
told = {
    "candidates": Counter(row["status"] for row in rows),
    "force_calls": sum(row["force_calls"] or 0 for row in rows),
    "seconds": dict(zip(("label", "finetune", "all"), seconds, strict=True)),
    **{name: json.loads((out / f"{name}.json").read_text()) for name in ("before", "after")},
}
here = told["before"]["environment"]
device = here["processor"] if here["gpu"] == "none" else here["gpu"]
told["devices"] = dict.fromkeys(("label", "finetune"), f"one {device}")
(out / "taught.json").write_text(json.dumps(told, indent=1))
END
