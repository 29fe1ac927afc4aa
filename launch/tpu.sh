#!/usr/bin/env bash
# A run on a TPU pod. Usage: launch/tpu.sh up|create|wait|install|start|logs|stop|status|delete --name=... --project=...
# README.md beside this file shows each. DRY_RUN=1 shows the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

action=${1:-}
require_action "up create wait install start logs stop status delete" "$action"
name="" project="" zone="" accelerator_type="" runtime_version="" service_account="" provisioning=on-demand
bucket="" workdir="" config="" env_file="" worker=0
parse_arguments "name project zone accelerator_type runtime_version service_account provisioning\
 bucket workdir config env_file worker" "${@:2}"

on_workers() { # worker command
  run gcloud compute tpus tpu-vm ssh "$name" --worker="$1" --command="$2" --project="$project" --zone="$zone"
}

queued() { # action argument...
  run gcloud compute tpus queued-resources "$1" "$name" --project="$project" --zone="$zone" "${@:2}"
}

state() {
  DRY_RUN="" queued describe --format='value(state.state)' | tail -n +2
}

know_image() {
  know_chips
  case $accelerator_type in
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v6e-*) image=v2-alpha-tpuv6e ;;
    v5p-*) image=v2-alpha-tpuv5 ;;
    v4-*) image=tpu-ubuntu2204-base ;;
  esac
}

create() {
  know_image
  local options=()
  case $provisioning in
    on-demand) ;;
    spot | reserved) options+=("--$provisioning") ;;
    *) fail "--provisioning=$provisioning is not known. Use on-demand, spot or reserved." ;;
  esac
  [[ -z $service_account ]] || options+=(--service-account="$service_account")
  queued create --node-id="$name" --accelerator-type="$accelerator_type" --runtime-version="${runtime_version:-$image}" \
    --scopes=https://www.googleapis.com/auth/cloud-platform "${options[@]}"
}

wait_until_active() {
  queued describe --format='value(state.state)'
  [[ ${DRY_RUN:-} != 1 ]] || return 0
  local now=""
  until [[ $now == ACTIVE ]]; do
    now=$(state)
    [[ $now != @(""|FAILED|SUSPENDING|SUSPENDED) ]] || fail "$name is ${now:-unknown}. '$0 delete' releases it, '$0 up' starts over."
    [[ $now == ACTIVE ]] || { echo "$(date +%H:%M) $now" && sleep "${POLL_SECONDS:-60}"; }
  done
}

install() {
  archive_code
  run gcloud compute tpus tpu-vm scp "$archive" "$name:nami_jax.tar.gz" --worker=all --project="$project" --zone="$zone"
  local secure=""
  if [[ -n $env_file ]]; then
    run gcloud compute tpus tpu-vm scp "$env_file" "$name:nami_jax.env" --scp-flag=-p --worker=all --project="$project" --zone="$zone"
    secure="chmod 600 nami_jax.env && "
  fi
  # What runs is stopped before its files are replaced. They are dated now, not by their commit: so make installs anew
  # when an older commit pins other packages.
  on_workers all "${secure}{ sudo systemctl stop nami_jax 2> /dev/null || true; } && \
mkdir -p nami_jax && rm -rf nami_jax/nami_jax nami_jax/configs nami_jax/launch && \
tar --touch -xzf nami_jax.tar.gz -C nami_jax && bash nami_jax/launch/worker/install.sh tpu"
}

need_run() {
  know_chips
  need bucket my-bucket
  need config configs/nami_2b.py
  need workdir runs/nami_2b
  require_below_bucket "$workdir"
}

start() {
  need_run
  local flags=(--config="$config" --workdir="/bucket/$workdir" --distributed --expected_devices="$chips" "${more[@]}")
  on_workers all "bash nami_jax/launch/worker/mount.sh $(quoted "$bucket" /bucket) && \
bash nami_jax/launch/worker/service.sh start $(quoted "${flags[@]}")"
}

up() {
  need_run # before anything is paid for
  local now=""
  [[ ${DRY_RUN:-} == 1 ]] || now=$(state 2> /dev/null || true)
  case $now in
    "") create ;;
    FAILED | SUSPENDED) # preempted
      delete
      create
      ;;
  esac
  wait_until_active
  install
  start
}

delete() {
  queued delete --force --quiet
}

need name nami-2b
need project my-project
need zone us-central1-a
case $action in
  up | create | install | start | delete) "$action" ;;
  wait) wait_until_active ;;
  status) queued describe ;;
  logs) on_workers "$worker" "sudo journalctl --unit=nami_jax --output=cat --lines=200 --follow" ;;
  stop) on_workers all "bash nami_jax/launch/worker/service.sh stop" ;;
esac
