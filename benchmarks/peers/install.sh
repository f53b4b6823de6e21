#!/bin/sh
# The environment of each peer that the project's own does not hold, under benchmarks/peers/.envs (not in git).
set -eu
cd "$(dirname "$0")"
uv venv --quiet --allow-existing --python "${PYTHON:-3.13}" .envs/nutpie
uv pip install --quiet --python .envs/nutpie/bin/python --requirement nutpie.txt
