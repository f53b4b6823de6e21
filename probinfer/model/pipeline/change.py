"""The outcome's own transform, an increasing map between its units and the model's scale. Imports numpy only.

    z = (curve((y - before.shift) / before.scale) - after.shift) / after.scale

with one curve: none, the logarithm, Box and Cox's or Yeo and Johnson's power. Linear steps before and after it are
folded into the two linear maps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from probinfer.model.pipeline.fitted import (
    Affine,
    BoxCoxPower,
    Logarithm,
    Step,
    YeoJohnsonPower,
    box_cox,
    yeo_johnson,
)


class Curve(Enum):
    """The part of a change that is not linear."""

    NONE = "none"
    LOG = "log"
    BOX_COX = "box_cox"
    YEO_JOHNSON = "yeo_johnson"


@dataclass(frozen=True)
class Change:
    """From the outcome's units y to the model's scale z and back. `xp` of the methods: numpy, or jax.numpy.

    Where Box and Cox's power does not reach (z below its least value, at y = 0), `back` gives that end: a law with
    probability there has it as a point mass.
    """

    curve: Curve = Curve.NONE
    lmbda: float = 1.0
    before: Affine = field(default_factory=lambda: Affine(0.0, 1.0))
    after: Affine = field(default_factory=lambda: Affine(0.0, 1.0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", Curve(self.curve))
        if self.curve is Curve.BOX_COX and not self.lmbda > 0:
            raise ValueError(f"lmbda is {self.lmbda!r}; Box and Cox's power of an outcome wants one above zero")
        if self.curve is Curve.YEO_JOHNSON and not 0 <= self.lmbda <= 2:
            raise ValueError(f"lmbda is {self.lmbda!r}; Yeo and Johnson's power of an outcome wants one from 0 to 2")

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Change":
        """The change that fitted steps make one after the other. Raises ValueError for two curves, and for a step that
        is no increasing map."""
        change = cls()
        for step in steps:
            if isinstance(step, Affine):
                change = change._linear(step)
                continue
            if isinstance(step, Logarithm):
                change, curve = change._linear(Affine(-step.shift, 1.0)), (Curve.LOG, 0.0)
            elif isinstance(step, BoxCoxPower):
                curve = (Curve.BOX_COX, step.lmbda) if step.lmbda != 0.0 else (Curve.LOG, 0.0)
            elif isinstance(step, YeoJohnsonPower):
                curve = (Curve.YEO_JOHNSON, step.lmbda)
            else:
                raise ValueError(f"{step.describe()} is no increasing map of numbers")
            if change.curve is not Curve.NONE:
                raise ValueError(
                    "it has two curved steps; one of Log, BoxCox and YeoJohnson, with linear ones around it"
                )
            change = cls(curve[0], curve[1], change.before, change.after)
        return change

    def _linear(self, step: Affine) -> "Change":
        if self.curve is Curve.NONE:
            return Change(before=_then(self.before, step))
        return Change(self.curve, self.lmbda, self.before, _then(self.after, step))

    @property
    def positive(self) -> bool:
        """y is above zero, and zero is its end."""
        return self.curve in (Curve.LOG, Curve.BOX_COX) and self.before.shift == 0.0

    @property
    def bottom(self) -> float:
        """What y has to be above."""
        return self.before.shift if self.curve in (Curve.LOG, Curve.BOX_COX) else -math.inf

    @property
    def kink(self) -> float | None:
        """z where `back` is not smooth; below it a Box-Cox power does not reach."""
        if self.curve is Curve.BOX_COX:
            return (-1.0 / self.lmbda - self.after.shift) / self.after.scale
        return -self.after.shift / self.after.scale if self.curve is Curve.YEO_JOHNSON else None

    def forward(self, y: Any, xp: Any = np) -> Any:
        """z of y; at and below `bottom` the least z there is."""
        v = (y - self.before.shift) / self.before.scale
        if self.curve is Curve.LOG:
            v = xp.where(v > 0.0, xp.log(xp.where(v > 0.0, v, 1.0)), -xp.inf)
        elif self.curve is Curve.BOX_COX:
            v = xp.where(v > 0.0, box_cox(xp.where(v > 0.0, v, 1.0), self.lmbda, xp), -1.0 / self.lmbda)
        elif self.curve is Curve.YEO_JOHNSON:
            v = yeo_johnson(v, self.lmbda, xp)
        return (v - self.after.shift) / self.after.scale

    def back(self, z: Any, xp: Any = np) -> Any:
        """y of z."""
        return self.before.shift + self.before.scale * self.uncurved(self.after.shift + self.after.scale * z, xp)

    def uncurved(self, u: Any, xp: Any = np) -> Any:
        """The inverse of the curve alone."""
        if self.curve is Curve.LOG:
            return xp.exp(u)
        if self.curve is Curve.BOX_COX:
            return _power(u, self.lmbda, xp)
        if self.curve is Curve.YEO_JOHNSON:
            above = _power(xp.maximum(u, 0.0), self.lmbda, xp) - 1.0
            below = 1.0 - _power(xp.maximum(-u, 0.0), 2.0 - self.lmbda, xp)
            return xp.where(u >= 0.0, above, below)
        return u

    def log_slope(self, y: Any, xp: Any = np) -> Any:
        """log dz/dy, what a log density on the model's scale lacks; only of y above `bottom`."""
        v = (y - self.before.shift) / self.before.scale
        constant = -math.log(self.before.scale) - math.log(self.after.scale)
        if self.curve is Curve.LOG:
            return constant - xp.log(v)
        if self.curve is Curve.BOX_COX:
            return constant + (self.lmbda - 1.0) * xp.log(v)
        if self.curve is Curve.YEO_JOHNSON:
            return constant + (self.lmbda - 1.0) * xp.sign(v) * xp.log1p(xp.abs(v))
        return constant + 0.0 * v

    def describe(self, name: str) -> str:
        """The model's scale in words."""
        inner = (
            name if self.before == Affine(0.0, 1.0) else f"({name} - {self.before.shift:.6g}) / {self.before.scale:.6g}"
        )
        power = f", lambda {self.lmbda:.6g}"
        curved = {
            Curve.NONE: inner,
            Curve.LOG: f"log({inner})",
            Curve.BOX_COX: f"Box-Cox({inner}{power})",
            Curve.YEO_JOHNSON: f"Yeo-Johnson({inner}{power})",
        }[self.curve]
        return (
            curved
            if self.after == Affine(0.0, 1.0)
            else f"({curved} - {self.after.shift:.6g}) / {self.after.scale:.6g}"
        )

    def pack(self) -> dict[str, Any]:
        """In JSON's types."""
        parts = {"before": asdict(self.before), "after": asdict(self.after)}
        return {"curve": self.curve.value, "lmbda": self.lmbda, **parts}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "Change":
        """Raises ValueError, KeyError or TypeError for what is no change."""
        return cls(
            Curve(packed["curve"]), float(packed["lmbda"]), Affine(**packed["before"]), Affine(**packed["after"])
        )


def _then(first: Affine, second: Affine) -> Affine:
    """((x - a) / b - c) / d = (x - (a + b c)) / (b d)."""
    return Affine(first.shift + first.scale * second.shift, first.scale * second.scale)


def _power(u: Any, lmbda: float, xp: Any) -> Any:
    """The x of Box and Cox's u: (1 + lmbda u)^(1 / lmbda), exp u at 0; 0 where 1 + lmbda u is below."""
    if lmbda == 0.0:
        return xp.exp(u)
    inside = lmbda * u > -1.0
    return xp.where(inside, xp.exp(xp.log1p(xp.where(inside, lmbda * u, 0.0)) / lmbda), 0.0)
