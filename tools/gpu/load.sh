#!/usr/bin/env bash
# On the GPU host, after install.sh: what the pages on loads say of a real GPU.
# usage: load.sh SITE MODEL OUT STEP...   (servers | aa | power | small | suite | ab | stop)
set -uo pipefail
site=${1:?SITE}; model=${2:?MODEL}; out=${3:?OUT}; shift 3
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$site:$root:$root/tests/data/slowdown" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
export SLOWDOWN_FILE=/tmp/slowdown VLLM_LOGGING_LEVEL=INFO
large=/tmp/deepseek-llm-7b; what="vLLM 0.26, one H100"

serve() { # PORT NAME MODEL SHARE MORE...: a server in a session of its own, which outlives the call
  port=$1 name=$2 path=$3 share=$4; shift 4
  SLOWDOWN_FACTOR=1 setsid python3 -m vllm.entrypoints.openai.api_server --model "$path" --served-model-name "$name" \
    --host 127.0.0.1 --port "$port" --gpu-memory-utilization "$share" --max-model-len 4096 \
    --middleware slowdown.Slowdown "$@" >"/tmp/$name.log" 2>&1 &
  echo $! >"/tmp/$name.pid"
}
ready() { # PORT NAME
  for _ in $(seq 300); do
    if python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$1/health', timeout=2)" 2>/dev/null; then echo "$2 ready"; return; fi
    kill -0 "$(cat "/tmp/$2.pid")" 2>/dev/null || break
    sleep 1
  done
  echo "$2 did not come up"; tail -40 "/tmp/$2.log"; return 1
}
series() { # PORT OUT WHAT MORE...
  port=$1 file=$2 said=$3; shift 3
  (cd "$root" && python3 -m tools.gpu.series --url "http://127.0.0.1:$port" --out "$out/$file" --what "$said" "$@")
}
for step in "$@"; do
  begun=$SECONDS; echo "== $step"
  case $step in
    servers)
      (cd "$root" && python3 -c "
from pathlib import Path; from tools.gpu.models import write_model
write_model('deepseek-ai/deepseek-llm-7b-base', Path('$large'), tokenizer=Path('$model'))")
      # one after the other: each measures the free memory while it starts
      serve 8100 small "$model" 0.25 --no-enable-prefix-caching; ready 8100 small
      serve 8200 large "$large" 0.6 --load-format dummy --no-enable-prefix-caching; ready 8200 large
      cp /tmp/small.log /tmp/large.log "$out/"; nvidia-smi ;;
    aa) series 8200 h100-vllm026-7b-aa.jsonl "$what, deepseek-llm-7b (random weights)" \
          --factors 1 --blocks 900 --limit-s "${AA_S:-260}" ;;
    power) series 8200 h100-vllm026-7b-power.jsonl "$what, deepseek-llm-7b (random weights)" \
          --factors 1 1 1.02 1.05 1.1 --blocks 200 --limit-s "${POWER_S:-200}" --seed 1 ;;
    small) series 8100 h100-vllm026-135m.jsonl "$what, SmolLM2-135M" \
          --factors 1 1 1.02 1.05 1.1 --blocks 100 --limit-s "${SMALL_S:-100}" --seed 2 ;;
    suite)
      mkdir -p /tmp/suite; cd /tmp/suite || exit 1; rm -f $SLOWDOWN_FILE
      for run in base again slow; do
        [ $run = slow ] && echo 1.25 >$SLOWDOWN_FILE
        baseline=$([ $run = base ] || echo "--vllm-baseline=/tmp/suite/base")
        # shellcheck disable=SC2086 - no baseline is no word
        timeout 200 python3 -m pytest -p pytest_vllm.plugin -p no:cacheprovider \
          --vllm-url=http://127.0.0.1:8100 --vllm-suite=performance --vllm-performance=${PROFILE:-smoke} \
          --vllm-artifacts=/tmp/suite/.$run $baseline >"$out/suite-$run.txt" 2>&1
        echo "$run: exit $?"; tail -25 "$out/suite-$run.txt"
        [ -e /tmp/suite/$run ] || cp -r /tmp/suite/.$run/2* /tmp/suite/$run
        cp /tmp/suite/$run/run.json "$out/suite-$run.json"
      done; rm -f $SLOWDOWN_FILE ;;
    ab)
      mkdir -p /tmp/ab; cd /tmp/ab || exit 1
      timeout 280 python3 -m pytest_vllm ab --url http://127.0.0.1:8100 --aa "${AA_N:-8}" --concurrency 8 \
        --requests 64 --workload short >"$out/ab.txt" 2>&1; echo "exit $?"; tail -40 "$out/ab.txt"
      cp .vllm/2*/ab.json "$out/ab.json" ;;
    stop) for name in small large; do kill -TERM -- "-$(cat /tmp/$name.pid)" 2>/dev/null; done ;;
    *) echo "no step $step"; exit 4 ;;
  esac
  echo "== $step took $((SECONDS - begun)) s"
done
