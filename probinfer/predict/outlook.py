"""From where a forecaster stands into the times to come, one after the other. Imports jax."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from probinfer.errors import PredictionError
from probinfer.predict.kept import program_words
from probinfer.predict.motion import Motion, Outcomes
from probinfer.predict.series_question import SeriesQuestion
from probinfer.predict.series_rows import check_horizon
from probinfer.predict.standing import Standing, Use, mover_of, words_of_time
from probinfer.predict.step_summary import Summary, compile_summaries

_PATHS = (16, 128, 1024)


def look_ahead(
    motion: Motion, standing: Standing, steps: int, question: SeriesQuestion, words: np.ndarray
) -> Iterator[Summary]:
    """The summaries of the `steps` times that follow, each computed when it is asked for; what `Forecaster.predict`
    puts together.

    Raises PredictionError for times that the model does not know, for one at which its laws are not numbers, and for
    what the calibration has too few scores of.
    """
    weights = standing.weights
    for step, outcomes in enumerate(outcomes_ahead(motion, standing, steps, words)):
        found = question.summarise(step, outcomes, weights)
        if not found.defined.all():
            raise no_numbers(standing.time + step, standing.time)
        yield found


def outcomes_ahead(motion: Motion, standing: Standing, steps: int, words: np.ndarray) -> Iterator[Outcomes]:
    """The laws of the `steps` observations that follow. Raises PredictionError for times that the model does not
    know."""
    first, mover = standing.time, mover_of(motion)
    check_horizon(motion, first, steps)
    state = mover.scatter(motion, standing.state, words_of_time(words, Use.PREDICT, -1))
    for time in range(first, first + steps):
        state, outcomes = mover.ahead(motion, state, time, words_of_time(words, Use.PREDICT, time))
        yield outcomes


def paths_for(draws: int) -> int:
    """How many futures are simulated for so many that are wanted: few numbers, since each is compiled for itself."""
    return next((paths for paths in _PATHS if draws <= paths), draws)


def compile_steps(motion: Motion, standing: Standing, threads: int = 1) -> None:
    """Compile all that observing, equal-tailed intervals with quantiles, and up to 1,024 futures need, in so many
    threads."""
    mover, words, time = mover_of(motion), np.zeros(2, np.uint32), standing.time

    def observing() -> None:
        nothing = np.zeros(motion.event, motion.kinds[0]), np.zeros(motion.event, bool)
        mover.observe(motion, standing.state, time, *nothing, words)

    def predicting() -> None:
        state = mover.scatter(motion, standing.state, words)
        compile_summaries(motion, mover.ahead(motion, state, time, words)[1], standing.weights)

    def simulating(paths: int) -> None:
        chosen = np.zeros(paths, np.int64)
        states = mover.pick(motion, standing.state, chosen, words)
        mover.simulate(motion, states, chosen, time, words)

    with ThreadPoolExecutor(threads) as pool:
        made = [pool.submit(predicting), pool.submit(observing), *(pool.submit(simulating, n) for n in _PATHS)]
        for each in made:
            each.result()


def fingerprint(motion: Motion) -> str:
    """The same for motions that differ in nothing but the numbers of their draws, and in how many times they know: what
    is compiled for one serves the other."""
    draws = sorted((name, values.shape, str(values.dtype)) for name, values in motion.draws.items())
    family = motion.family.name if motion.family is not None else None
    words = [
        draws, family, motion.chains, motion.event, motion.state, motion.kinds, motion.discrete, motion.probabilities,
        *((role, program_words(exported)) for role, exported in sorted(motion.programs.items())),
    ]  # fmt: skip
    return hashlib.sha256(repr(words).encode()).hexdigest()


def no_numbers(time: int, first: int, most: str = "1e308") -> PredictionError:
    """Of a time at which what is forecast is no number."""
    return PredictionError(
        f"At time {time}, {time - first + 1} ahead, the model's laws are not numbers, or go beyond {most}, for some "
        "draws of the parameters. Look for a state that runs away, or a scale that can be below 0."
    )
