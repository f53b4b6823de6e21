"""Where a log density is no number: counted wherever many of its values are used, so that the report can say so."""

from typing import Any

import numpy as np

from probinfer.inference.exact.summed import Summed
from probinfer.model.target import Target

# Share of the points below which it is worth no more than a remark. An overflow far out gives a few such points that
# have no mass anyway.
NEGLIGIBLE = 1e-3


class Undefined:
    """Counts the points at which log p is NaN or +inf, and keeps the first of them. There it counts as no mass.

    A density may be zero (log p = -inf) beyond the edge of its support. NaN is a logarithm or root of a negative
    number, or 0/0 or inf - inf: it says nothing about how much mass is left out.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._points, self._bad = 0, 0
        self._first: np.ndarray | None = None

    def without(self, z: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Log densities or log weights (n,) at points z (n, d), with -inf in the place of those that are no numbers."""
        bad = np.isnan(values) | (values == np.inf)
        self._points += len(values)
        if bad.any():
            self._bad += int(bad.sum())
            if self._first is None:
                self._first = np.array(z[int(np.argmax(bad))])
        return np.where(bad, -np.inf, values)

    @property
    def share(self) -> float:
        """Of the points so far."""
        return self._bad / max(self._points, 1)

    @property
    def facts(self) -> dict[str, Any]:
        """For the tree: `undefined`, the share, and `undefined_at`, one point in words. Empty where there was none."""
        return {} if self._first is None else {"undefined": self.share, "undefined_at": self._words(self._first)}

    @property
    def notes(self) -> tuple[str, ...]:
        """The same as a sentence, for an estimate."""
        if self._first is None or self.share <= NEGLIGIBLE:
            return ()
        return (f"The log density is not a number at {self.share:.1%} of the points, as at {self._words(self._first)}",)

    def _words(self, z: np.ndarray) -> str:
        target = self._target
        sites = target.site_log_densities(z)
        blamed = [name for name, value in sites.items() if np.isnan(value) or value == np.inf]
        if isinstance(target, Summed):  # has no values of its sites without the discrete ones
            place = "unconstrained " + ", ".join(
                f"{name} = {value:.4g}" for name, value in zip(target.coordinate_names(), z, strict=True)
            )
        else:
            values = target.constrain(z[None], deterministics=False)
            place = ", ".join(f"{name} = {short(value[0])}" for name, value in values.items())
        return place + (f" (from site {', '.join(blamed)})" if blamed else "")


def short(value: np.ndarray) -> str:
    """The value of a site in words, of a long one its ends."""
    return np.array2string(np.asarray(value), precision=4, threshold=8, edgeitems=3)
