#!/bin/sh
# One environment per peer, under benchmarks/peers/.envs (not in git). Usage: sh benchmarks/peers/install.sh [PEER ...]
set -eu
cd "$(dirname "$0")"
for peer in "${@:-}"; do
    [ -n "$peer" ] || { exec sh install.sh numpyro nutpie blackjax stan; }
    uv venv --quiet --allow-existing --python "${PYTHON:-3.13}" ".envs/$peer"
    uv pip install --quiet --python ".envs/$peer/bin/python" --requirement "$peer.txt"
done
