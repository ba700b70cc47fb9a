#!/usr/bin/env bash
# Asks PyPI which of the locked packages have known vulnerabilities. Those that docs/supply-chain.md judges are
# not counted; any other one ends with status 1, and an audit that could not be made with status 2.
#
#   tools/audit.sh PIP_AUDIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

judged=()
while read -r id; do
    judged+=(--ignore-vuln "$id")
done < <(grep -oE '^\| (CVE|GHSA|PYSEC)-[0-9A-Za-z-]+' docs/supply-chain.md | cut -c 3-)

status=0
for folder in requirements requirements/fairchem2; do
    locks=()
    for lock in "$folder"/*.txt; do
        [[ $lock == */torch-cpu.txt ]] || locks+=(-r "$lock")
    done
    echo "$folder"
    # To bash before 4.4 an empty array is unset.
    output=$("$1" --strict --require-hashes --disable-pip --progress-spinner off \
        ${judged[@]+"${judged[@]}"} "${locks[@]}" 2>&1) && found=0 || found=$?
    if [[ $output == *"could not be audited"* || $output == *ConnectionError* ]]; then
        echo "audit: PyPI's record of vulnerabilities cannot be reached from here; nothing was audited" >&2
        exit 2
    fi
    printf '%s\n' "$output"
    [[ $found == 0 ]] || status=1
done
exit $status
