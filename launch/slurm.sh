#!/usr/bin/env bash
# A run on GPU nodes of a Slurm cluster, from its login node. Usage: launch/slurm.sh start --nodes=... --code=...
# README.md beside this file shows it. DRY_RUN=1 shows the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

action=${1:-}
require_action start "$action" # the rest is Slurm's own: squeue, scancel JOB, tail --follow WORKDIR/slurm-JOB.log
name=nami nodes="" gpus_per_node="" code="" config="" workdir="" time="" partition="" account=""
parse_arguments "name nodes gpus_per_node code config workdir time partition account" "${@:2}"

need nodes 4
need gpus_per_node 8
need code /shared/me/code
[[ $code != *[[:space:]]* ]] || fail "--code=$code contains a space, which make cannot handle. Pass e.g. --code=/shared/me/code"
need config configs/nami_2b.py
need workdir /shared/me/runs/nami_2b
archive_code
# A folder for each commit, so that a job that begins anew finds its own code; an environment for each set of pinned
# packages, which no other commit replaces under a job that runs.
pins=$(git ls-tree HEAD requirements-build.txt requirements.txt requirements-cuda.txt | sha256sum | cut -c1-12)
venv=$code/venv-$pins
folder=$code/$(basename "${archive%.tar.gz}")
options=(--job-name="$name" --nodes="$nodes" --gpus-per-node="$gpus_per_node" --chdir="$folder")
options+=(--output="$workdir/slurm-%j.log" --export="ALL,VENV=$venv")
[[ -z $time ]] || options+=(--time="$time")
[[ -z $partition ]] || options+=(--partition="$partition")
[[ -z $account ]] || options+=(--account="$account")
run mkdir -p "$folder" "$workdir"
run tar -xzf "$archive" -C "$folder"
run touch --no-create "$venv/.ready-cuda" # else make would find it older than the same pins of a later commit
run env VENV="$venv" bash "$folder/launch/worker/install.sh" cuda
run sbatch "${options[@]}" "$folder/launch/job.sbatch" --config="$config" --workdir="$workdir" \
  --expected_hosts="$nodes" --expected_devices="$((nodes * gpus_per_node))" "${more[@]}"
