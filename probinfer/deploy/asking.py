"""What a request asks, whatever the protocol it came in, and what it is answered. Imports numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from probinfer.deploy.named_outputs import QUANTILES_IF_NONE_NAMED, Output, unasked
from probinfer.deploy.refusals import Malformed, TooLarge
from probinfer.deploy.served import Served
from probinfer.predict.interval import Answered, probability
from probinfer.predict.together import Question

_MOST_NUMBERS = 2_000_000  # of predictive draws in one answer
_MOST_QUANTILES = 100
_NAMES = {output.value: output for output in Output}


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for."""

    rows: int = 10_000
    samples: int = 1_000


class Ask(NamedTuple):
    """One request: the question that batches share, and what is the request's own.

    outputs  what to answer, in this order
    draws    how many predictive draws of each row; 0 for none
    id       the client's name for the request
    """

    served: Served
    question: Question
    outputs: tuple[Output, ...]
    draws: int = 0
    seed: int = 0
    id: str | None = None

    @property
    def summarises(self) -> bool:
        """Anything but draws is wanted."""
        return any(output is not Output.SAMPLES for output in self.outputs)


class Reply(NamedTuple):
    """What came of it; None for the part that was not asked for. samples (draws, rows, *event)."""

    found: Answered | None
    samples: np.ndarray | None


class Wishes(NamedTuple):
    """What a request says besides its rows, as it came."""

    outputs: Sequence[Any] | None = None
    level: Any = None
    quantiles: Any = None
    num_samples: Any = None
    seed: Any = None


def ask(
    served: Served, rows: Mapping[str, Any], count: int, wishes: Wishes, limits: Limits, id: str | None = None
) -> Ask:
    """A checked request. Raises Malformed, TooLarge and PredictionError."""
    if count > limits.rows:
        raise TooLarge(
            f"{count} rows came; one request may have {limits.rows}. Send them in pieces, or use `probinfer score` for "
            "a table."
        )
    if count < 1:
        raise Malformed("No rows came; wanted at least one.")
    outputs = _outputs(served, wishes)
    draws = _draws(served, outputs, wishes, count, limits)
    wanted = Output.QUANTILES in outputs or wishes.quantiles is not None
    quantiles = tuple(probability("quantiles", q) for q in _quantiles(wishes.quantiles)) if wanted else ()
    level = 0.9 if wishes.level is None else wishes.level
    seed = _whole("seed", wishes.seed, 0) if wishes.seed is not None else 0
    if seed >= 2**63:
        raise Malformed(f"seed is {seed}; wanted a whole number below 2^63.")
    question = served.question(rows, count, level, quantiles if Output.QUANTILES in outputs else ())
    return Ask(served, question, outputs, draws, seed, id)


def _outputs(served: Served, wishes: Wishes) -> tuple[Output, ...]:
    if wishes.outputs is None:
        further = [(Output.QUANTILES, wishes.quantiles), (Output.SAMPLES, wishes.num_samples)]
        wanted = [output for output, wish in further if wish is not None]
        absent = [output.value for output in wanted if output not in served.outputs]
        if absent:
            raise Malformed(f"{served.name} has no {absent[0]}; it has {_listed(served.outputs)}.")
        return (*unasked(served.form), *wanted)
    names = {output.value for output in served.outputs}
    unknown = [name for name in wishes.outputs if name not in names]
    if unknown:
        raise Malformed(
            f"There is no output called {', '.join(map(repr, unknown[:5]))}; {served.name} has "
            f"{_listed(served.outputs)}."
        )
    if not wishes.outputs:
        raise Malformed("The list of outputs is empty; leave it out, or name at least one.")
    return tuple(dict.fromkeys(_NAMES[name] for name in wishes.outputs))


def _listed(outputs: Sequence[Output]) -> str:
    return ", ".join(output.value for output in outputs)


def _draws(served: Served, outputs: Sequence[Output], wishes: Wishes, count: int, limits: Limits) -> int:
    draws = 100 if wishes.num_samples is None else _whole("num_samples", wishes.num_samples, 1)
    if draws > limits.samples:
        raise Malformed(f"num_samples is {draws}; one request may have {limits.samples} draws of each row.")
    if Output.SAMPLES not in outputs:
        return 0
    numbers = draws * count * int(np.prod(served.form.event, dtype=int))
    if numbers > _MOST_NUMBERS:
        raise TooLarge(f"{draws} draws of {count} rows are {numbers} numbers; one answer may have {_MOST_NUMBERS}.")
    return draws


def _quantiles(came: Any) -> tuple[Any, ...]:
    """A list of probabilities, or one as text, `0.05,0.5,0.95`: parameters of the protocol cannot be lists."""
    if came is None:
        return QUANTILES_IF_NONE_NAMED
    if isinstance(came, str):
        try:
            came = [float(part) for part in came.split(",")]
        except ValueError:
            raise Malformed(f"quantiles is {came[:100]!r}; wanted probabilities such as '0.05,0.5,0.95'.") from None
    if isinstance(came, int | float) and not isinstance(came, bool):
        came = [came]
    if not isinstance(came, list) or not 1 <= len(came) <= _MOST_QUANTILES:
        raise Malformed(f"quantiles wants a list of 1 to {_MOST_QUANTILES} probabilities, such as [0.05, 0.5, 0.95].")
    return tuple(came)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 5.0 from 5
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Malformed(f"{name} is {_shown(value)}; wanted a whole number of at least {least}.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
