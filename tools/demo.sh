#!/usr/bin/env bash
# Make a small data set, train on it, validate, predict and report. About five minutes on two cores.
# Run it as `make demo`, which makes the environment first.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
config=configs/s2ef/example/scn.yml
run=runs/demo
best=$run/checkpoints/train/best_checkpoint.pt

fairchem() {
  "$python" main.py --config-yml "$config" --cpu --run-dir "$run" "$@"
}

rm -rf "$run" # the demo's own folder: a training would resume from the one before
"$python" -m ocp_scn.data sample datasets/sample --systems 160 --overwrite
fairchem --mode train --timestamp-id train --print-every 50
fairchem --mode validate --timestamp-id validate --checkpoint "$best"
fairchem --mode predict --timestamp-id predict-val --checkpoint "$best" --dataset.test.src=datasets/sample/s2ef/val
fairchem --mode predict --timestamp-id predict-test --checkpoint "$best"
"$python" -m ocp_scn.report "$run"
