#!/bin/sh
# One environment per peer, under benchmarks/peers/.envs (not in git). Usage: sh benchmarks/peers/install.sh [PEER ...]
set -eu
cd "$(dirname "$0")"

# httpstan 4.17.0 for Python 3.13 has an object file inside that was compiled for Python 3.10: every model that is linked
# with it fails when it is imported. Its source lies beside it.
mend_httpstan() {
    package=$(echo .envs/stan/lib/python3*/site-packages/httpstan)
    headers=$(.envs/stan/bin/python -c "import sysconfig; print(sysconfig.get_path('include'))")
    g++ -O3 -fPIC -std=c++17 -w -DBOOST_DISABLE_ASSERTS -DBOOST_PHOENIX_NO_VARIADIC_EXPRESSION -DSTAN_THREADS -D_REENTRANT \
        -D_GLIBCXX_USE_CXX11_ABI=0 "-I$package" "-I$package/include" "-I$package/../pybind11/include" "-I$headers" \
        -c "$package/stan_services.cpp" -o "$package/stan_services.o"
}

for peer in "${@:-}"; do
    [ -n "$peer" ] || { exec sh install.sh numpyro nutpie blackjax stan; }
    uv venv --quiet --allow-existing --python "${PYTHON:-3.13}" ".envs/$peer"
    uv pip install --quiet --python ".envs/$peer/bin/python" --requirement "$peer.txt"
    [ "$peer" != stan ] || mend_httpstan
done
