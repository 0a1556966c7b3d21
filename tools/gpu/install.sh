#!/usr/bin/env bash
# On the GPU host, once every part lies in DIR: join, unpack and install into SITE.
# usage: install.sh DIR SITE
set -euo pipefail
dir=${1:?DIR}; site=${2:?SITE}
mkdir -p "$dir/wheels"; cat "$dir"/pk.* | tar -C "$dir/wheels" -xf -; rm "$dir"/pk.*
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$dir"/wheels/*.whl
# every module is compiled once here, by all cores: the servers start sooner
python3 -m compileall -q -j 0 "$site" >/dev/null 2>&1 || true
