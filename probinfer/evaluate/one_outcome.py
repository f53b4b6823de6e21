"""One outcome at a time: where several came, what is to be called for each, before anything is done. Imports jax."""

from typing import Any

from probinfer.errors import PredictionError
from probinfer.predict.joint import JointPredictor


def refuse_several(outcome: Any, call: str) -> None:
    """Raise PredictionError for a list of outcomes. call: what gives the answer for the outcome `name`.

    >>> refuse_several("a", "loo(posterior, name)")  # as is wanted
    """
    if isinstance(outcome, list | tuple):
        raise PredictionError(
            f"outcome came as {outcome!r}; wanted the name of one. Each has an answer of its own: "
            f"{{name: pi.{call} for name in {list(outcome)!r}}}."
        )


def refuse_joint(predictor: Any, what: str) -> None:
    """Raise PredictionError for a predictor of several outcomes. what: what is asked of it, such as "explained"."""
    if isinstance(predictor, JointPredictor):
        raise PredictionError(
            f"predictor came as a JointPredictor of {', '.join(predictor.outcomes)}, and one outcome is {what} at a "
            f"time: pass predictor[{predictor.outcomes[0]!r}]."
        )
