#!/usr/bin/env bash
# On the GPU host, after install.sh: whole runs on a real GPU, for the record in tests/data/records.
# usage: record.sh SITE MODEL OUT STEP...   (base | candidate | large)
set -uo pipefail
site=${1:?SITE}; model=${2:?MODEL}; out=${3:?OUT}; shift 3
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$site" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 VLLM_NO_USAGE_STATS=1
large=/tmp/deepseek-llm-7b

cat >/tmp/sweep.toml <<'TOML'
schema = 1
description = "Four load levels."
concurrency = [1, 4, 16, 64]
compared = 16
rounds = 6
sweep-rounds = 3
round-seconds = 6.0
waves = 4
warm-up-waves = 1
limit-seconds = 200.0

[workload]
name = "sweep"
summary = "A prompt of 256 tokens, an answer of 64."
prompt_tokens = 256
output_tokens = 64
TOML
cat >/tmp/bounds.toml <<'TOML'
schema = 1

[slo]
goodput = "90%"

[slo.request]
ttft = "150ms"
tpot = "10ms"
TOML

run() { # NAME MODEL WORDS...: a launched server, the suites, the evidence
  name=$1 path=$2; shift 2
  mkdir -p "/tmp/runs/$name"; cd "/tmp/runs/$name" || exit 1
  timeout "${LIMIT_S:-420}" python3 -m pytest -p no:cacheprovider --vllm-backend=process \
    --vllm-python="$(command -v python3)" --vllm-model="$path" --vllm-artifacts="/tmp/runs/$name/all" \
    --vllm-serve-arg=--max-model-len=4096 "$@" >"$out/$name.txt" 2>&1
  echo "$name: exit $?"; tail -30 "$out/$name.txt"
  last=$(ls -d "/tmp/runs/$name/all"/2* | tail -1); ln -sfn "$last" "/tmp/runs/$name/run"
  tar -C "$last/.." -czf "$out/$name.tgz" "$(basename "$last")"
}
for step in "$@"; do
  begun=$SECONDS; echo "== $step"
  case $step in
    base) run base "$model" --vllm-suite=content --vllm-suite=server --vllm-suite=performance \
            --vllm-performance=/tmp/sweep.toml --vllm-profile=/tmp/bounds.toml ;;
    candidate) run candidate "$model" --vllm-performance=/tmp/sweep.toml --vllm-profile=/tmp/bounds.toml \
            --vllm-baseline=/tmp/runs/base/run ;;
    large)
      (cd "$root" && python3 -c "
from pathlib import Path; from tools.gpu.models import write_model
write_model('deepseek-ai/deepseek-llm-7b-base', Path('$large'), tokenizer=Path('$model'))")
      run large "$large" --vllm-serve-arg=--load-format=dummy --vllm-suite=server --vllm-suite=memory ;;
    *) echo "no step $step"; exit 4 ;;
  esac
  echo "== $step took $((SECONDS - begun)) s"
done
