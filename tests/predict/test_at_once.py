"""Programs that run in the thread that asks."""

import threading
import time

import jax
import numpy as np
import pytest

from probinfer.predict.at_once import compile_at_once

X = np.random.default_rng(0).normal(size=500_000).astype(np.float32)


def polynomial(x):
    """Some hundredths of a second, in operations that JAX counts."""
    return jax.lax.fori_loop(0, 200, lambda _, total: total * x + 0.5, x)


def lowered():
    return jax.jit(polynomial).lower(X)


def is_there_at_once(program):
    """Whenever it is asked: this thread may be held up until another has answered."""
    x = jax.device_put(X).block_until_ready()
    return all(program(x).is_ready() for _ in range(8))


def test_the_answer_is_there_when_the_call_returns():
    """And of a program that JAX hands to a thread of its own, it is not."""
    assert is_there_at_once(compile_at_once(lowered()))
    assert not is_there_at_once(lowered().compile())


def test_it_is_the_same_answer():
    assert np.array_equal(compile_at_once(lowered())(X), lowered().compile()(X))


def test_other_threads_run_meanwhile():
    program, x = compile_at_once(lowered()), jax.device_put(X).block_until_ready()
    program(x)
    ran, over = [], threading.Event()

    def other():
        while not over.is_set():
            ran.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=other)
    thread.start()
    while len(ran) < 3:
        time.sleep(0.001)
    began = time.perf_counter()
    program(x)
    ended = time.perf_counter()
    over.set()
    thread.join()
    assert sum(began < at < ended for at in ran) > 1  # one may be between a stamp and the call


def test_a_program_that_does_call_back_still_does():
    def doubled(x):
        return jax.pure_callback(lambda x: np.asarray(2 * x), jax.ShapeDtypeStruct((), np.float32), x) + 1

    assert float(compile_at_once(jax.jit(doubled).lower(np.float32(1)))(np.float32(3))) == 7.0


@pytest.mark.parametrize("gone", ["before", "after"])
def test_a_release_of_jax_that_keeps_these_things_elsewhere_gets_its_own_program(monkeypatch, gone):
    class Lowered:
        """As JAX's, without one of the two."""

        def __init__(self):
            self.real = lowered()
            self._lowering = self.real._lowering if gone == "after" else None
            self.compiled = []

        def compile(self, compiler_options=None):
            made = self.real.compile(compiler_options=compiler_options)
            self.compiled.append(made)
            if len(self.compiled) == 1 and gone == "after":
                made._executable = None
            return made

    found = Lowered()
    program = compile_at_once(found)
    assert len(found.compiled) == (2 if gone == "after" else 1)
    assert not is_there_at_once(program)


def test_elsewhere_it_is_compiled_as_ever(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_there_at_once(compile_at_once(lowered()))
