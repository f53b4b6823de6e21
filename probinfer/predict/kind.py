"""Kinds of intervals. Imports nothing."""

from enum import Enum


class Interval(Enum):
    """Which interval of a level a prediction gives; all hold the outcome with that probability.

    ETI     equal-tailed: as much probability below as above
    HDI     the shortest one, highest density where the density has one peak
    LOWER   a bound from below: `lower` is the quantile at 1 - level, `upper` the end of the outcome's range
    UPPER   a bound from above: `upper` is the quantile at level, `lower` the beginning of the range

    >>> Interval.HDI.value
    'shortest interval (HDI)'
    """

    ETI = "interval"
    HDI = "shortest interval (HDI)"
    LOWER = "lower bound"
    UPPER = "upper bound"
