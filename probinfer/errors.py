"""Every error that probinfer raises on purpose. Imports nothing of ours.

Each text says what came, what was wanted, and what to do.
"""


class ProbinferError(Exception):
    """Base class of all errors raised by probinfer."""


class ModelError(ProbinferError, ValueError):
    """The model cannot be used as it is written: no latent sites, a log density that is nowhere finite, …"""


class NoGradient(ModelError):
    """The model's log density has a value but cannot be differentiated."""


class DataError(ProbinferError, ValueError):
    """The data do not fit the model, or hold values that no inference can use (text, NaN, infinity)."""


class MethodError(ProbinferError, ValueError):
    """The method's settings are out of range, or the method does not fit the model; the text names those that do."""


class UnreliablePosterior(ProbinferError, RuntimeError):
    """A posterior whose verdict is worse than the caller accepts was about to become a predictor."""


class PredictionError(ProbinferError, ValueError):
    """The rows to predict do not fit the predictor: missing columns, wrong types, unseen groups, non-finite values."""


class ArtifactError(ProbinferError, ValueError):
    """A saved predictor or posterior is damaged, incomplete, from a future version, or reaches outside its folder."""


class ForkedProcess(ProbinferError, RuntimeError):
    """A process was forked from one in which JAX had run, and so cannot run it: start it by spawn or forkserver."""


class ExportError(ProbinferError, ValueError):
    """A predictor cannot be written in another format: its law, or an operation of its model, has no place there."""


class CheckpointError(ProbinferError, ValueError):
    """A checkpoint is of another run, in use, damaged at its beginning, or cannot be written."""


class MissingExtra(ProbinferError, ImportError):
    """An optional dependency is not installed; the text names the extra to install."""
