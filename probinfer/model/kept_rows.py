"""A model some of whose rows do not count: one program serves every way of leaving rows out.

A row that is left out keeps its place, filled with the content of a row that is kept, and its log likelihood is masked.
So shapes stay what they are, and what is compiled for one fold of a cross-validation runs all of them.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from probinfer.model.model import Model
from probinfer.model.trace import is_factor

KEPT = "rows_kept"  # the further argument of the model: one boolean for each row


def maskable(model: Model, rows: int) -> Model:
    """The model with the argument `rows_kept`: observed sites whose first axis is as long as that count only there."""

    @functools.wraps(model.fn)
    def masked(**data: Any) -> Any:
        with _Masked(data.pop(KEPT), rows):
            return model.fn(**data)

    known = inspect.signature(model.fn)
    parameters = [p for p in known.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = inspect.Parameter(KEPT, inspect.Parameter.KEYWORD_ONLY)
    rest = [p for p in known.parameters.values() if p.kind is p.VAR_KEYWORD]
    # what Model reads the arguments from; set by its name, as functions do not declare it
    setattr(masked, "__signature__", known.replace(parameters=[*parameters, more, *rest]))  # noqa: B010
    return Model(masked, coords={name: list(labels) for name, labels in model.coords.items()}, dims=model.dims)


def filled(data: Mapping[str, Any], kept: np.ndarray, *, backwards: bool = False) -> dict[str, Any]:
    """The data with every row that is not kept replaced by one that is, and the mask with them.

    The kept rows are taken in turn, or from the last on with `backwards`: the log density must not depend on it.
    """
    rows, chosen = len(kept), np.flatnonzero(kept)
    take = np.arange(rows)
    take[~kept] = np.resize(chosen[::-1] if backwards else chosen, rows - len(chosen))
    named = row_names(data, rows)
    return {**{name: value[take] if name in named else value for name, value in data.items()}, KEPT: kept}


def row_names(data: Mapping[str, Any], rows: int) -> list[str]:
    """The arrays that hold one entry for each row: those whose first axis is as long."""
    return [name for name, value in data.items() if np.ndim(value) and np.shape(value)[0] == rows]


class _Masked(Messenger):
    """Masks the log density of observed sites, row by row."""

    def __init__(self, kept: jax.Array, rows: int) -> None:
        super().__init__(fn=None)
        self._kept, self._rows = kept, rows

    def process_message(self, msg: dict[str, Any]) -> None:
        """Mask one site. NumPyro calls it for every site, inside plates already."""
        if msg["type"] != "sample" or not msg["is_observed"] or is_factor(msg):
            return
        shape = jnp.shape(msg["value"])
        batch = shape[: len(shape) - msg["fn"].event_dim]
        if batch and batch[0] == self._rows:
            msg["fn"] = msg["fn"].mask(jnp.reshape(self._kept, (self._rows, *[1] * (len(batch) - 1))))
