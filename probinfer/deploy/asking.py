"""What a request asks, whatever the protocol it came in, and what it is answered. Imports numpy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from probinfer.deploy.forecasts import TimesQuestion
from probinfer.deploy.named_outputs import QUANTILES_IF_NONE_NAMED, Output, unasked
from probinfer.deploy.refusals import Malformed, TooLarge
from probinfer.deploy.served import Model, One, Served, Several
from probinfer.deploy.several import Answers, Questions
from probinfer.predict.interval import Answered, Given, probability
from probinfer.predict.joint_prediction import SEPARATOR
from probinfer.predict.together import Question

_MOST_NUMBERS = 2_000_000  # of predictive draws in one answer
_MOST_QUANTILES = 100


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

    served: One
    question: Question | TimesQuestion
    outputs: tuple[Output, ...]
    draws: int = 0
    seed: int = 0
    id: str | None = None

    @property
    def summarises(self) -> bool:
        """Anything but draws is wanted. Of a forecast there is always something to be said: how far it can be
        trusted."""
        return self.served.form.times or any(output is not Output.SAMPLES for output in self.outputs)

    @property
    def drawn(self) -> Question | TimesQuestion:
        """What draws are made for."""
        return self.question


class AskSeveral(NamedTuple):
    """One request about several outcomes.

    parts    what is asked of each outcome, as if it were asked alone
    outputs  what to answer: outcome and output, in this order
    """

    served: Several
    parts: Mapping[str, Ask]
    outputs: tuple[tuple[str, Output], ...]
    draws: int = 0
    seed: int = 0
    id: str | None = None

    @property
    def question(self) -> Questions:
        """The questions about outcomes of which anything but draws is wanted."""
        asked = {outcome: part.question for outcome, part in self.parts.items() if part.summarises}
        return Questions(cast(Mapping[str, Question], asked))

    @property
    def summarises(self) -> bool:
        """Anything but draws is wanted."""
        return any(part.summarises for part in self.parts.values())

    @property
    def drawn(self) -> Questions:
        """What draws are made for."""
        drawn = {outcome: part.question for outcome, part in self.parts.items() if part.draws}
        return Questions(cast(Mapping[str, Question], drawn))


class Reply(NamedTuple):
    """What came of it; None for the part that was not asked for. samples (draws, rows, *event)."""

    given: Given | None
    samples: np.ndarray | None

    @property
    def found(self) -> Answered | None:
        """The rows' answer alone."""
        return self.given.own if self.given is not None else None

    @property
    def trust(self) -> dict[str, str]:
        """How far it can be trusted, as answers say it: of a forecast."""
        report = self.given.report if isinstance(self.given, Answered) else None
        return {"verdict": report.verdict.name, "report": str(report)} if report is not None else {}


class ReplySeveral(NamedTuple):
    """What came of each outcome."""

    found: Answers | None
    samples: Mapping[str, np.ndarray] | None

    def of(self, outcome: str) -> Reply:
        """As if it had been asked about alone."""
        found, samples = self.found.parts if self.found else {}, self.samples or {}
        return Reply(found.get(outcome), samples.get(outcome))


class Said(NamedTuple):
    """One output of an answer, whose it is ("" where there is one outcome alone), and what it was asked with."""

    outcome: str
    output: Output
    asked: Ask
    reply: Reply


def said(asked: Ask | AskSeveral, reply: Reply | ReplySeveral) -> Iterator[Said]:
    """The outputs of an answer, in their order."""
    if isinstance(asked, AskSeveral):
        assert isinstance(reply, ReplySeveral)
        for outcome, output in asked.outputs:
            yield Said(outcome, output, asked.parts[outcome], reply.of(outcome))
    else:
        assert isinstance(reply, Reply)
        for output in asked.outputs:
            yield Said("", output, asked, reply)


def named(outcome: str, word: str) -> str:
    """What something said of an outcome is called; `outcome` is "" where there is one alone.

    >>> named("", "mean"), named("height", "mean")
    ('mean', 'height.mean')
    """
    return f"{outcome}{SEPARATOR}{word}" if outcome else word


class Wishes(NamedTuple):
    """What a request says besides its rows, as it came."""

    outputs: Sequence[Any] | None = None
    level: Any = None
    quantiles: Any = None
    num_samples: Any = None
    seed: Any = None


class Wanted(NamedTuple):
    """Wishes, checked. outputs: whose output, and which; quantiles: none unless they are among the outputs."""

    outputs: tuple[tuple[str, Output], ...]
    level: Any
    quantiles: tuple[float, ...]
    draws: int
    seed: int


def ask(
    served: Served | Several, rows: Mapping[str, Any], count: int, wishes: Wishes, limits: Limits, id: str | None = None
) -> Ask | AskSeveral:
    """A checked request. Raises Malformed, TooLarge and PredictionError."""
    if count > limits.rows:
        raise TooLarge(
            f"{count} rows came; one request may have {limits.rows}. Send them in pieces, or use `probinfer score` for "
            "a table."
        )
    if count < 1:
        raise Malformed("No rows came; wanted at least one.")
    outputs, level, quantiles, draws, seed = wanted(served, wishes, count, limits)

    def of_one(part: Served, rows: Mapping[str, Any], outputs: tuple[Output, ...]) -> Ask:
        question = part.question(rows, count, level, quantiles if Output.QUANTILES in outputs else ())
        return Ask(part, question, outputs, draws if Output.SAMPLES in outputs else 0, seed, id)

    if not isinstance(served, Several):
        return of_one(served, rows, tuple(output for _, output in outputs))
    parts = {
        outcome: of_one(part, served.rows_of(outcome, rows), tuple(o for whose, o in outputs if whose == outcome))
        for outcome, part in served.parts.items()
        if any(whose == outcome for whose, _ in outputs)
    }
    return AskSeveral(served, parts, outputs, draws, seed, id)


def wanted(served: Model, wishes: Wishes, count: int, limits: Limits) -> Wanted:
    """What is wanted of each of `count` rows. Raises Malformed, TooLarge and PredictionError."""
    level = 0.9 if wishes.level is None else wishes.level
    if wishes.outputs is None and wishes.quantiles is None and wishes.num_samples is None and wishes.seed is None:
        return Wanted(served.usual, level, (), 0, 0)
    outputs = _outputs(served, wishes)
    draws = _draws(served, outputs, wishes, count, limits)
    asked = any(output is Output.QUANTILES for _, output in outputs)
    checked = asked or wishes.quantiles is not None
    quantiles = tuple(probability("quantiles", q) for q in _quantiles(wishes.quantiles)) if checked else ()
    seed = whole("seed", wishes.seed, 0) if wishes.seed is not None else 0
    if seed >= 2**63:
        raise Malformed(f"seed is {seed}; wanted a whole number below 2^63.")
    return Wanted(outputs, level, quantiles if asked else (), draws, seed)


def _outputs(served: Model, wishes: Wishes) -> tuple[tuple[str, Output], ...]:
    """Whose output, and which."""
    if wishes.outputs is None:
        further = [(Output.QUANTILES, wishes.quantiles), (Output.SAMPLES, wishes.num_samples)]
        wanted = [output for output, wish in further if wish is not None]
        for part in served.parts.values():
            absent = [output.value for output in wanted if output not in part.outputs]
            if absent:
                raise Malformed(f"{served.name} has no {absent[0]}; it has {', '.join(_offered(served))}.")
        if not wanted:
            return served.usual
        return tuple((o, output) for o, part in served.parts.items() for output in (*unasked(part.form), *wanted))
    offered = _offered(served)
    unknown = [name for name in wishes.outputs if name not in offered]
    if unknown:
        raise Malformed(
            f"There is no output called {', '.join(map(repr, unknown[:5]))}; {served.name} has {', '.join(offered)}."
        )
    if not wishes.outputs:
        raise Malformed("The list of outputs is empty; leave it out, or name at least one.")
    return tuple(dict.fromkeys(offered[name] for name in wishes.outputs))


def _offered(served: Model) -> dict[str, tuple[str, Output]]:
    return {
        named(outcome, each.value): (outcome, each) for outcome, part in served.parts.items() for each in part.outputs
    }


def _draws(
    served: Model,
    outputs: Sequence[tuple[str, Output]],
    wishes: Wishes,
    count: int,
    limits: Limits,
) -> int:
    draws = min(100, limits.samples) if wishes.num_samples is None else whole("num_samples", wishes.num_samples, 1)
    if draws > limits.samples:
        raise Malformed(f"num_samples is {draws}; one request may have {limits.samples} draws of each row.")
    drawn = [served.parts[outcome] for outcome, output in outputs if output is Output.SAMPLES]
    if not drawn:
        return 0
    numbers = draws * count * sum(int(np.prod(part.form.event, dtype=int)) for part in drawn)
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


def whole(name: str, value: Any, least: int) -> int:
    """A whole number. Raises Malformed for anything else, and for less than `least`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 5.0 from 5
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Malformed(f"{name} is {shown(value)}; wanted a whole number of at least {least}.")
    return value


def shown(value: Any) -> str:
    """What came, for an error, at a length that can be read."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
