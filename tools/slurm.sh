#!/usr/bin/env bash
# Installs what the tests of jobs need, where it may, or says what is missing; nothing is started or enabled.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing() {
    local name
    for name in munged slurmctld slurmd sbatch srun scontrol setpriv; do
        command -v "$name" >/dev/null || echo "$name"
    done
}

[[ -n $(missing) ]] || exit 0
packages=(munge slurmctld slurmd slurm-client util-linux)
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null || true
fi
lacking=$(missing)
[[ -z $lacking ]] ||
    printf 'slurm: missing: %s\n' "${lacking//[[:space:]]/ }" "as root on Debian or Ubuntu: apt-get install ${packages[*]}" >&2
