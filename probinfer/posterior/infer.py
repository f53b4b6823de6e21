"""The verb: model and data in, posterior out."""

import os
from collections.abc import Sequence
from typing import Any

import jax

from probinfer.inference.draw import draw
from probinfer.inference.method import Method
from probinfer.inference.until import Until
from probinfer.model.model import Model
from probinfer.model.tables import as_table
from probinfer.posterior.posterior import Posterior


def infer(
    model: Any,
    data: Any = None,
    method: Method | None = None,
    *,
    seed: Any = 0,
    until: Until | None = None,
    checkpoint: str | os.PathLike | None = None,
    devices: int | Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> Posterior:
    """Infer the latent sites of a model from data.

    Args:
        model: a NumPyro function, whose keyword arguments are the data; or a `Model`, a `LogDensity`, or a
            `Pipeline` or `formula`, whose data are raw columns.
        data: dict of arrays (or a data frame, whose columns are the arrays), one entry for each argument of the model.
        method: how, with its settings: `NUTS(draws=2000)`. None chooses one, and the report says why.
        seed: whole number or jax key. The same seed gives the same draws, however busy the machine is.
        until: stop when the draws are good enough or a budget is spent: `Until(ess=400, rhat=1.01, seconds=60)`. The
            rule and what it saw are kept in `posterior.tree.attrs["until"]`. None makes the method's number of draws.
        checkpoint: path of a file that keeps what has been drawn. If the process ends before its time, the same call
            goes on from there, to the same draws bit for bit; after the end it gives them back without drawing.
        devices: how many devices, or which of `jax.devices()`, share the rows of the data, for data that outgrow one:
            each holds a part of them, and the same posterior is drawn by `NUTS` or `HMC`. None uses JAX's default.
        progress: show a line of progress in a terminal or notebook.

    Returns:
        Posterior: `.report.verdict` says whether to trust it, `.summary()` what was learned, `.tree` holds the draws.
        After Ctrl-C during sampling it holds the draws made so far and its report says that it was interrupted.

    Raises:
        DataError: names, shapes or values of the data do not fit the model.
        ModelError: the model has no latent site, or its log density is finite at no initial point.
        MethodError: the method does not fit the model, the seed is no seed, or the devices cannot share the rows.
        CheckpointError: the checkpoint is of another model, data, method, seed or version, or cannot be written.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def coin(y=None):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> posterior = infer(coin, {"y": np.array([1, 0, 1, 1])}, progress=False)
    >>> posterior.report.verdict.name
    'GOOD'
    >>> bool(abs(posterior.summary()["mean"]["p"] - 4 / 6) < 0.02)  # exact: Beta(4, 2)
    True
    """
    data = as_table(data)
    model = (model if isinstance(model, Model) else Model(model)).with_order_of(data)
    draws, target, attributes = draw(
        model, data, method, seed=seed, until=until, checkpoint=checkpoint, devices=devices, progress=progress
    )
    return Posterior.from_draws(draws, target, model=model, data=target.bound.data, attrs=attributes)
