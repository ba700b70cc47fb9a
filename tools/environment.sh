#!/usr/bin/env bash
# Creates the environment, or completes it; does nothing where it is whole already.
#
#   tools/environment.sh                  into .venv
#   VENV=~/envs/scn tools/environment.sh  elsewhere; an environment that is there (venv, conda) is
#                                         completed, and its torch and torch-scatter stay where they fit
#   PYTHON=python3.11 tools/environment.sh        with this interpreter
#   tools/environment.sh --interpreter    only print the interpreter that would be used
#   tools/environment.sh --fairchem2 ...  all that for fairchem-core 2, into .venv-fairchem2
#
# What is installed has its hash in requirements/, but for PyG's wheel of torch-scatter on machines with a GPU.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
line=1
if [[ ${1:-} == --fairchem2 ]]; then
    line=2
    shift
fi
case $line in
1)
    # With torch 2.4, which fairchem-core 1.10 asks for, it runs as well.
    folder=.venv fairchem="fairchem-core 1.10" torch=2.10 older=2.4
    requirements=$root/requirements
    supported=(3.12 3.11 3.10) needed="3.10, 3.11 or 3.12"
    ;;
2)
    folder=.venv-fairchem2 fairchem="fairchem-core 2.24" torch=2.13 older=''
    requirements=$root/requirements/fairchem2
    supported=(3.12 3.11) needed="3.11 or 3.12"
    ;;
esac
venv=${VENV:-$root/$folder}
[[ $venv == /* ]] || venv=$PWD/$venv
py=$venv/bin/python
stamp=$venv/ocp-scn.stamp
log=$venv/ocp-scn.log

# pip would take what lies on this path for installed.
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

die() {
    printf 'environment: %s\n' "$@" >&2
    exit 1
}

# The version, then what speaks against it; old interpreters have to understand this as well.
probe='
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
problem = ""
if version not in sys.argv[1:]:
    problem = "not supported"
elif not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    problem = "has no Python.h; Debian and Ubuntu: apt install python%s-dev" % version
else:
    try:
        import ensurepip, venv
    except ImportError:
        problem = "cannot create environments; Debian and Ubuntu: apt install python%s-venv" % version
print(version)
print(problem)
'

# Prints the first suitable interpreter. A name on the PATH proves nothing (a shim may fail, a link
# may dangle), so each is run.
find_interpreter() {
    local name answer names=("${supported[@]/#/python}" python3 python) found=()
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    for name in "${names[@]}"; do
        command -v "$name" >/dev/null || continue
        if ! answer=$("$name" -c "$probe" "${supported[@]}" 2>/dev/null); then
            found+=("$name (does not run)")
        elif [[ $answer == *$'\n'* ]]; then
            found+=("$name (${answer//[[:space:]]/ })")
        else
            command -v "$name"
            return
        fi
    done
    [[ ${#found[@]} -gt 0 ]] || found=("none${PYTHON:+ named $PYTHON}")
    printf -v answer '%s, ' "${found[@]}"
    die "a Python $needed is needed; found: ${answer%, }" \
        "install one, or name it: make env PYTHON=/path/to/python3.11"
}

# step TITLE COMMAND...: runs the command with its output in the log.
step() {
    echo "  $1"
    if ! "${@:2}" >>"$log" 2>&1; then
        tail -n 15 "$log" >&2
        die "failed at: $1" "the whole output: $log" \
            "run again to go on from here, or delete $venv to begin afresh"
    fi
}

# locked FILE OPTIONS...: installs what the lock names, if the files have the hashes that it names.
locked() { "$py" -m pip install --no-deps --no-build-isolation --require-hashes -r "$@"; }

scatter_works() { "$py" -c 'import torch_scatter' >/dev/null 2>&1; }

# Where PyG keeps wheels for this torch; nothing without a GPU, where a source build does as well.
# A build without the CUDA compiler would not work on the GPU.
scatter_wheels() {
    "$py" - <<'END'
import torch

if torch.cuda.is_available() and torch.version.cuda:
    version = torch.__version__.split("+")[0]
    print(f"https://data.pyg.org/whl/torch-{version}+cu{torch.version.cuda.replace('.', '')}.html")
END
}

# Installs the build without CUDA, where pip finds one.
without_cuda() {
    [[ -f $requirements/torch-cpu.txt ]] && locked "$requirements/torch-cpu.txt" >>"$log" 2>&1 &&
        echo "  torch $torch, the build without CUDA"
}

# Without importing torch, which needs what is to be installed.
torch_is_for_cuda() {
    "$py" - <<'END'
import importlib.util, pathlib, runpy, sys

torch = pathlib.Path(importlib.util.find_spec("torch").origin).parent
sys.exit(runpy.run_path(str(torch / "version.py"))["cuda"] is None)
END
}

install_torch() {
    local version
    version=$("$py" -c 'import torch; print(torch.__version__)' 2>/dev/null || true)
    case $version in
        "$torch".*) ;;
        "${older:-none}".*)
            echo "  torch $version stays; its torch.load can run programs of a file, weights_only or not" \
                "(CVE-2025-32434, CVE-2026-24747): for torch $torch, delete $venv and run again"
            ;;
        "")
            ! without_cuda || return 0
            step "torch $torch" locked "$requirements/torch.txt"
            ! torch_is_for_cuda 2>>"$log" ||
                step "what it needs for CUDA (up to 3 GB to fetch)" locked "$requirements/cuda.txt"
            ;;
        *) die "$venv has torch $version, but $fairchem needs $torch: choose another VENV" ;;
    esac
}

install_scatter() {
    local wheels
    scatter_works && return
    wheels=$(scatter_wheels 2>/dev/null || true)
    if [[ -n $wheels ]]; then
        echo "  torch-scatter 2.1.2 for CUDA (PyG's wheel for this torch: no lock has its hash)"
        "$py" -m pip install --no-deps --only-binary torch-scatter --find-links "$wheels" \
            torch-scatter==2.1.2 >>"$log" 2>&1 || true
        scatter_works && return
    fi
    # In parallel and with little optimisation, this takes 3 minutes on two cores rather than 10.
    printf '[build_ext]\nparallel = %s\n' "$(getconf _NPROCESSORS_ONLN)" >"$venv/build.cfg"
    export DIST_EXTRA_CONFIG=$venv/build.cfg CFLAGS="-O1 -g0"
    step "torch-scatter 2.1.2 (built here: some minutes)" locked "$requirements/scatter.txt"
    # pip caches what it built without asking for which torch; that of another one does not load.
    scatter_works ||
        step "torch-scatter once more, not from pip's cache" \
            locked "$requirements/scatter.txt" --no-cache-dir --force-reinstall
}

check() (
    cd / # so that the linked package is found, not the one in this directory
    if [[ $line == 2 ]]; then
        "$py" -c 'from ocp_scn.fairchem.v2 import SCNBackbone; SCNBackbone(lmax=2, num_interactions=1)'
        return
    fi
    "$py" - <<'END'
import ocp_scn
import torch
import torch_scatter

ocp_scn.SphericalChannelNetwork(lmax=2, num_interactions=1)
if torch.cuda.is_available():
    one = torch.ones(1, device="cuda")
    torch_scatter.segment_coo(one, one.long() * 0)
END
)

kernels_there() {
    local python=${version%.*}
    compgen -G "$root/ocp_scn/ops/cpu/_compiled.cpython-${python/./}-*.so" >/dev/null
}

# Which compiler there is, or that there is none.
compiler() { { "${CXX:-c++}" --version 2>/dev/null || true; } | cksum; }

kernels_work() (
    cd /
    "$py" -c 'import sys, torch; from ocp_scn.ops import cpu; sys.exit(not cpu.compiled())'
)

link() { step "this checkout" "$py" -m pip install --no-deps --no-build-isolation -e "$root"; }

if [[ ${1:-} == --interpreter ]]; then
    find_interpreter
    exit
fi

if [[ ! -e $py && ! -L $py ]]; then
    # pip would spread its files between those of others.
    [[ ! -d $venv || -e $log || -z $(ls -A "$venv") ]] || die "$venv is neither empty nor an environment"
    python=$(find_interpreter)
    mkdir -p "$venv"
fi
# Two runs at once must not install into one another's environment.
if command -v flock >/dev/null; then
    exec 9>"$venv/ocp-scn.lock"
    flock 9
fi
if [[ ! -e $py && ! -L $py ]]; then
    echo "Creating $venv with $python"
    step "an empty environment" "$python" -m venv "$venv"
fi
version=$("$py" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) ||
    die "$py does not run: delete $venv and run again"
[[ " ${supported[*]} " == *" ${version%.*} "* ]] || die "$venv has Python $version; $needed is needed"

# The stamp's first line says what is installed, its second which checkout is linked, with which kernels. Its
# third, where these are missing, says with which compiler; with another one, or where a fresh checkout in the
# place of another one lacks them, they are tried again.
old_key='' old_link='' old_compiler=''
key="$version $(cat "$root/requirements/build.txt" "$requirements"/*.txt "${BASH_SOURCE[0]}" | cksum)"
link="$root $(cat "$root/setup.py" "$root/setup.cfg" "$root"/ocp_scn/ops/cpu/*.cpp "$root"/ocp_scn/ops/cpu/*.h | cksum)"
if [[ -f $stamp ]]; then
    { read -r old_key; read -r old_link; read -r old_compiler; } <"$stamp" || true
    if [[ $old_key == "$key" && $old_link == "$link" ]]; then
        if kernels_there || [[ $old_compiler == "$(compiler)" ]]; then exit; fi
    fi
fi
if [[ $old_key != "$key" ]]; then
    rm -f "$stamp"
    echo "Completing $venv (Python $version)"
    [[ $line == 2 ]] || scatter_works || command -v "${CXX:-c++}" >/dev/null ||
        die "a C++ compiler is needed to build torch-scatter; Debian and Ubuntu: apt install g++"
    step "pip and what builds need" locked "$root/requirements/build.txt"
    step "$fairchem and the rest" locked "$requirements/lock.txt"
    install_torch
    [[ $line == 2 ]] || install_scatter
fi
link
step "a first model" check
kernels_work >>"$log" 2>&1 || echo "  the kernels are missing, the model works without them, more slowly; see $log"
{
    printf '%s\n' "$key" "$link"
    kernels_there || compiler
} >"$stamp"
echo "Ready: $py"
