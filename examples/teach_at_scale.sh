#!/usr/bin/env bash
# Teach the network a potential's minima on a GPU, and count what it takes to come to them before and after.
#
#     bash examples/teach_at_scale.sh prototypes.extxyz taught
#
# The potential is CHGNet with its r2SCAN weights, which its package ships. No chemical system of the crystals that are
# measured has a label to learn from or to stop by. The environment says what differs: DEVICE, POTENTIAL, MODEL to
# start from and the LEVEL in whose place it learns, another one to measure BESIDE it, NUMBER of candidates, MOST
# crystals that are measured, and other options of `label` (LABEL) and `finetune` (TUNE).
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 CRYSTALS FOLDER, such as prototypes.extxyz taught" >&2; exit 2; }
sources=$1 out=$2 device=${DEVICE:-cuda} potential=${POTENTIAL:-chgnet:r2scan}
model=${MODEL:-DeepRelax-PBE} level=${LEVEL:-PBE} beside=${BESIDE:-}
read -ra label <<< "${LABEL:---steps 300 --workers 3 --block-size 1000}"
read -ra tune <<< "${TUNE:---set training.max_epochs=null --set training.seconds=45}"
python -c "from deeprelax_ase.prediction.devices import device_of as found; found('$device')" ||
    { echo "DEVICE=cpu runs this without a GPU" >&2; exit 2; }
benchmarks=$(dirname "$0")/../benchmarks jumps=("one shot, default" "jump, fast" "jump, fire")
mkdir -p "$out"
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

measure() {  # NAME MODEL METHOD...: on test crystals; what it prints as it goes on is kept beside the results
    python "$benchmarks/time_to_minimum.py" "$out/labelled/pairs.npz" --each "${MOST:-400}" --few 0 --device "$device" \
        --potential "$potential" --model "$2" --only "${@:3}" --json "$out/$1.json" > "$out/$1.log" 2>&1 ||
        { cat "$out/$1.log" >&2; return 1; }
}

if [ ! -e "$out/candidates.extxyz" ]; then
    deeprelax candidates "$sources" --number "${NUMBER:-3000}" --seed 20 --most-atoms 8 -o "$out/candidates.extxyz"
fi
SECONDS=0
deeprelax label "$out/candidates.extxyz" --calculator "$potential" --device "$device" --level "$level" \
    --group-by "chemical system" "${label[@]}" --out "$out/labelled"
labelled=$SECONDS
measure before "$model" nothing fast fire "${jumps[@]}" & before=$!
deeprelax finetune "$model" --data "$out/labelled" --level "$level" --device "$device" --name tuned \
    --set level_of_theory="$potential" "${tune[@]}" --out "$out/tuned"
tuned=$SECONDS
wait $before
[ -z "$beside" ] || { measure beside "$beside" "${jumps[@]}" & before=$!; }
measure after "$out/tuned/tuned.json" "${jumps[@]}"
wait $before
python "$benchmarks/taught.py" "$out" --label "$labelled" --finetune "$((tuned - labelled))" --all "$SECONDS"
