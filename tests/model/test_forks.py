"""A forked child says that it cannot run JAX, instead of waiting for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

STORED = Path(__file__).parents[1] / "predict" / "stored"

BEGIN = f"""
import faulthandler, multiprocessing, os, sys, warnings
faulthandler.dump_traceback_later(100, exit=True)
warnings.simplefilter("ignore")  # JAX's own, which is one of many things a log holds
import numpy as np, numpyro, numpyro.distributions as dist
import probinfer as pi
LINE, POINT = {str(STORED / "v1-normal")!r}, {str(STORED / "v5-point")!r}
ROWS = {{"x": [0.0, 1.0]}}
def coin(y=None):
    numpyro.sample("y", dist.Bernoulli(numpyro.sample("p", dist.Beta(1, 1))), obs=y)
def infer():
    pi.infer(coin, {{"y": np.array([1, 0])}}, pi.Exact(), progress=False)
def said(call):
    # what a forked child comes to, by a pipe
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            call()
            text = "done"
        except BaseException as error:
            text = f"{{type(error).__name__}}: {{error}}"
        os.write(theirs, text.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as file:
        return file.read()
"""


def run(code):
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


def test_a_child_of_a_process_that_has_loaded_and_predicted():
    lines = run("""
predictor = pi.load_predictor(LINE)
calls = [
    lambda: predictor.predict(ROWS), lambda: pi.load_predictor(LINE), infer, lambda: predictor.sample(ROWS, 5),
    lambda: pi.expect(lambda x: x, dist.Normal(0, 1)), lambda: pi.load_predictor(LINE).predict(ROWS),
]
for call in calls:
    print(said(call))
predictor.predict(ROWS)
for call in calls:
    print(said(call))
predictor.predict(ROWS)
print("and here it goes on")
""")
    *refused, last = lines
    assert last == "and here it goes on"
    assert len(refused) == 12
    for text in refused:
        assert text.startswith("ForkedProcess: This process (")
        assert "'spawn' or 'forkserver'" in text
        assert "without --preload" in text


def test_a_child_may_load_and_run_where_nothing_ran_before():
    assert run("""
print(said(lambda: pi.load_predictor(LINE).predict(ROWS)))
print(said(infer))
""") == ["done", "done"]


def test_a_pool_of_forked_workers_says_it_too():
    """A predictor that is sent to one: an error while it is unpickled would end the worker, and nobody would know."""
    lines = run("""
predictor = pi.load_predictor(LINE)
predictor.predict(ROWS)
with multiprocessing.get_context("fork").Pool(1) as pool:
    try:
        pool.map(predictor.predict, [ROWS])
    except pi.ForkedProcess as error:
        print(error)
""")
    assert len(lines) == 1
    assert "was forked from one in which probinfer had run JAX" in lines[0]


def test_the_check_costs_next_to_nothing():
    lines = run("""
import timeit
from probinfer.model.forks import before_jax
before_jax()
print(min(timeit.repeat(before_jax, number=10000, repeat=5)) / 10000)
""")
    assert float(lines[0]) < 1e-6
