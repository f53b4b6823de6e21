"""Posteriors with known draws, without running a sampler: what a predictor asks of a posterior, and no more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

import probinfer as pi
from probinfer.predict.predictor import Predictor
from tests.predict import models


@dataclass
class Fit:
    """Stands in for a Posterior; `latents` are the draws, chain after chain."""

    model: pi.Model | None
    data: Mapping[str, Any] | None
    latents: Mapping[str, np.ndarray]
    chains: int | None = None
    verdict: pi.Verdict = pi.Verdict.GOOD
    findings: tuple = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> SimpleNamespace:
        evidence = SimpleNamespace(chained=self.chains is not None, chains=self.chains or 1, attrs=self.attrs)
        return SimpleNamespace(verdict=self.verdict, findings=self.findings, headline="draws given", evidence=evidence)


def fitted(fn: Any, data: Mapping[str, Any], latents: Mapping[str, np.ndarray], **more: Any) -> Predictor:
    """A predictor from draws as they are. Of the models that several tests share, the same one for the same draws, with
    all that it has compiled."""
    if fn.__module__ != models.__name__:
        return _fitted(fn, data, latents, **more)
    arrays = (np.asarray(values) for given in (data, latents) for values in given.values())
    key = (fn, *data, *latents, *((a.dtype.str, a.shape, a.tobytes()) for a in arrays), *sorted(more.items()))
    if key not in _MADE:
        _MADE[key] = _fitted(fn, data, latents, **more)
    return _MADE[key]


_MADE: dict[tuple, Predictor] = {}


def _fitted(fn: Any, data: Mapping[str, Any], latents: Mapping[str, np.ndarray], **more: Any) -> Predictor:
    outcome = more.pop("outcome", None)
    return Predictor(Fit(pi.Model(fn), data, latents, **more), outcome)
