#!/usr/bin/env bash
# Predict and relax the four test splits of the sample, with the models of `make demo` where they are there, and
# write and check leaderboard files of every track in both formats. Run it as `make demo-submission`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python}
data=datasets/sample
run=runs/demo-submission
models=runs/demo
splits=(id ood_ads ood_cat ood_both)

fairchem() { # NAME of the run, TASK, mode and further arguments
  local name=$1 config=configs/$2/example/scn.yml
  shift 2
  "$python" main.py --config-yml "$config" --cpu --run-dir "$run" --timestamp-id "$name" --mode "$@"
}

write() { # FORMAT, TRACK, FILE, kind of the results, data sets
  local words=("$2" "$run/$3" --format "$1" --against "$5")
  for split in "${splits[@]}"; do
    words+=("--${split//_/-}" "$run"/results/"$4-$split"*)
  done
  "$python" -m ocp_scn.submission write "${words[@]}"
}

rm -rf "$run"
if [ ! -d "$data/is2re/test_ood_both" ]; then
  "$python" -m ocp_scn.data sample "$data" --systems 160 --ood-systems 6 --overwrite
fi
if [ ! -f "$models/checkpoints/train/best_checkpoint.pt" ] ||
  [ ! -f "$models/checkpoints/train-is2re/best_checkpoint.pt" ]; then
  models=$run # hardly trained
  fairchem train s2ef train --optim.max_epochs=1 --print-every 50
  fairchem train-is2re is2re train --optim.max_epochs=2 --print-every 32
fi
forces=$models/checkpoints/train/best_checkpoint.pt
direct=$models/checkpoints/train-is2re/best_checkpoint.pt

for split in "${splits[@]}"; do
  folder=test_$split
  [ "$split" != id ] || folder=test
  if [ "$split" = id ]; then # in three jobs, as a test set of a million structures
    for shard in 0 1 2; do
      fairchem "s2ef-id-$shard" s2ef predict --checkpoint "$forces" \
        --dataset.test.src="$data/s2ef/$folder" --dataset.test.shard=$shard --dataset.test.total_shards=3
    done
  else
    fairchem "s2ef-$split" s2ef predict --checkpoint "$forces" --dataset.test.src="$data/s2ef/$folder"
  fi
  fairchem "direct-$split" is2re predict --checkpoint "$direct" --dataset.test.src="$data/is2re/$folder"
  fairchem "relax-$split" s2ef run-relaxations --checkpoint "$forces" \
    --dataset.relax.src="$data/is2re/$folder" --task.relaxation_steps=30
done

mkdir -p "$run/evalai" "$run/current"
for format in evalai current; do
  write $format s2ef $format/s2ef.npz s2ef "$data/s2ef"
  write $format is2re $format/is2re-direct.npz direct "$data/is2re"
  write $format is2re $format/is2re-relaxed.npz relax "$data/is2re"
done
write evalai is2rs evalai/is2rs.npz relax "$data/is2re"

"$python" -m ocp_scn.submission check "$run"/*/s2ef.npz --against "$data/s2ef"
"$python" -m ocp_scn.submission check "$run"/*/is2r*.npz --against "$data/is2re"
