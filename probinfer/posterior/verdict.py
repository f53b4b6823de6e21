"""The words of a diagnosis: Verdict and Finding. Imports nothing of ours."""

import functools
from dataclasses import dataclass
from enum import Enum


@functools.total_ordering
class Verdict(Enum):
    """Whether a posterior can be relied on. Ordered: GOOD is better (greater) than DOUBTFUL, DOUBTFUL than BAD.

    GOOD       nothing speaks against using the draws
    DOUBTFUL   the draws may be usable for some questions; read the findings first
    BAD        the draws are not draws from the posterior, or far too few: do not use them

    >>> Verdict.GOOD > Verdict.DOUBTFUL > Verdict.BAD
    True
    >>> min(Verdict.GOOD, Verdict.BAD).name
    'BAD'
    """

    BAD = 0
    DOUBTFUL = 1
    GOOD = 2

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Verdict):
            return NotImplemented
        return self.value < other.value

    @property
    def symbol(self) -> str:
        """One character for it, so that the verdict does not depend on colour."""
        return {Verdict.GOOD: "✓", Verdict.DOUBTFUL: "!", Verdict.BAD: "✗"}[self]


@dataclass(frozen=True)
class Finding:
    """One thing that a diagnosis found.

    what       the trouble, with its size, in a sentence
    where      the parameters or chains it concerns, the worst first
    severity   the verdict that this finding alone would give; GOOD: worth knowing, nothing to be done
    advice     what to do about it
    value      the number behind it, the worst where there are several
    """

    what: str
    where: str
    severity: Verdict
    advice: str
    value: float

    def __str__(self) -> str:
        return f"{self.severity.symbol} {self.what}\n  where: {self.where}\n  do:    {self.advice}"
