#!/usr/bin/env bash
# On each host: checks whether the run can start (nami_jax.preflight), then trains. Arguments are those of
# nami_jax.train; --expected_hosts=N and --expected_devices=N are for preflight alone.
# Told to stop (SIGTERM), it lets training save, and ends with 143: whatever restarts runs sees that this one is not
# done. The same command continues it. What fails by itself, not by a signal, leaves the file FAILURE_FILE, if that is set.
# DRY_RUN=1 shows the two commands.
set -euo pipefail
cd "$(dirname "$0")/../.."
source launch/arguments.sh
python=${VENV:-.venv}/bin/python
flags=() expected=()
for word; do
  if [[ $word == --expected_*=* ]]; then expected+=("$word"); else flags+=("$word"); fi
done
[[ " ${flags[*]} " == *" --config"[=\ ]* ]] || fail "--config is missing. Pass e.g. --config=configs/emoji_tiny.py"
[[ " ${flags[*]} " == *" --workdir"[=\ ]* ]] || fail "--workdir is missing. Pass e.g. --workdir=/bucket/runs/mine"

# shellcheck disable=SC2329 # the trap calls it
leave_failure() {
  local code=$?
  [[ -z ${FAILURE_FILE:-} ]] || ((code == 0 || code >= 128)) || : > "$FAILURE_FILE"
}
trap leave_failure EXIT

child="" stopped=""
stop() {
  signalled=yes stopped=yes
  # Slurm has signalled the child already, as every process of a step.
  [[ -z $child || -n ${SLURM_STEP_ID:-} ]] || kill -TERM "$child" 2> /dev/null || true
}

# As `run`, but what is run hears of a signal to this script at once.
run_stoppable() {
  quoted "$@"
  echo
  [[ ${DRY_RUN:-} != 1 ]] || return 0
  [[ -z $stopped ]] || return 143
  local code=0
  "$@" &
  child=$!
  [[ -z $stopped ]] || kill -TERM "$child" # the signal came before the line above
  wait_through "$child" || code=$?
  child=""
  [[ $code -ne 0 || -z $stopped ]] || code=143
  return "$code"
}

trap stop TERM INT
run_stoppable "$python" -m nami_jax.preflight "${flags[@]}" "${expected[@]}"
run_stoppable "$python" -m nami_jax.train "${flags[@]}"
