#!/usr/bin/env bash
# Make a small data set; train on its structures, predict and relax; train on relaxed energies, predict; report.
# About seven minutes on two cores. Run it as `make demo`, which makes the environment first.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
data=datasets/sample
run=runs/demo

fairchem() { # NAME of the run, TASK, mode and further arguments
  local name=$1 config=configs/$2/example/scn.yml
  shift 2
  "$python" main.py --config-yml "$config" --cpu --run-dir "$run" --timestamp-id "$name" --mode "$@"
}

rm -rf "$run" # the demo's own folder: a training would resume from the one before
"$python" -m ocp_scn.data sample "$data" --systems 160 --ood-systems 6 --overwrite

# Structure to energy and forces
best=$run/checkpoints/train/best_checkpoint.pt
fairchem train s2ef train --print-every 50
fairchem validate s2ef validate --checkpoint "$best"
fairchem predict-val s2ef predict --checkpoint "$best" --dataset.test.src="$data/s2ef/val"
fairchem predict-test s2ef predict --checkpoint "$best"

# Initial structure to relaxed structure and energy: by relaxation with these forces, and directly
fairchem relax-val s2ef run-relaxations --checkpoint "$best" --dataset.relax.src="$data/is2re/val"
fairchem relax-test s2ef run-relaxations --checkpoint "$best" --dataset.relax.src="$data/is2re/test"
best=$run/checkpoints/train-is2re/best_checkpoint.pt
fairchem train-is2re is2re train --print-every 32
fairchem predict-is2re-val is2re predict --checkpoint "$best" --dataset.test.src="$data/is2re/val"
fairchem predict-is2re-test is2re predict --checkpoint "$best"

"$python" -m ocp_scn.report "$run"
