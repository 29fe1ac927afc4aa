#!/usr/bin/env bash
# A run on TPUs of a GKE cluster, by xpk. Usage: launch/gke.sh storage|start|logs|delete --name=... --project=...
# README.md beside this file shows each. DRY_RUN=1 shows the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

action=${1:-}
require_action "storage start logs delete" "$action"
name="" project="" zone="" cluster="" accelerator_type="" bucket="" workdir="" config="" env_file="" max_restarts=100
base_docker_image=python:3.12
parse_arguments "name project zone cluster accelerator_type bucket workdir config env_file max_restarts\
 base_docker_image" "${@:2}"

storage() { # once for a cluster: every workload finds the bucket at /bucket
  need bucket my-bucket
  # gcsfuse's options: nothing is remembered of what other hosts may have written since.
  run xpk storage attach nami-bucket --type=gcsfuse --bucket="$bucket" --mount-point=/bucket --readonly=false \
    --auto-mount=true --size=1 --mount-options=implicit-dirs,metadata-cache:ttl-secs:0 "${where[@]}"
}

start() {
  need name nami-2b
  know_chips
  need config configs/nami_2b.py
  need workdir runs/nami_2b
  require_below_bucket "$workdir"
  archive_code
  local code=${archive%.tar.gz} env=()
  local flags=(--config="$config" --workdir="/bucket/$workdir" --distributed --expected_devices="$chips" "${more[@]}")
  run mkdir -p "$code"
  run tar -xzf "$archive" -C "$code"
  [[ -z $env_file ]] || env=(--env-file="$env_file")
  # xpk sends SIGTERM to this command's shell; `exec` gives it to run.sh. What ends by a signal is started again.
  run xpk workload create --workload="$name" --tpu-type="$accelerator_type" --num-slices=1 \
    --base-docker-image="$base_docker_image" --script-dir="$code" --max-restarts="$max_restarts" \
    --termination-grace-period-seconds=120 "${env[@]}" "${where[@]}" \
    --command="bash launch/worker/install.sh tpu && exec bash launch/worker/run.sh $(quoted "${flags[@]}")"
}

logs() {
  need name nami-2b
  local first="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
  run kubectl logs --selector="$first" --all-containers --tail=200 --follow
}

delete() {
  need name nami-2b
  run xpk workload delete --workload="$name" "${where[@]}"
}

need project my-project
need zone us-central1-a
need cluster my-cluster
where=(--cluster="$cluster" --project="$project" --zone="$zone")
"$action"
