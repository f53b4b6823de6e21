"""Probabilistic inference and model scoring: a posterior you can trust, a predictor you can deploy."""

from probinfer.errors import ArtifactError as ArtifactError
from probinfer.errors import CheckpointError as CheckpointError
from probinfer.errors import DataError as DataError
from probinfer.errors import MethodError as MethodError
from probinfer.errors import MissingExtra as MissingExtra
from probinfer.errors import ModelError as ModelError
from probinfer.errors import PredictionError as PredictionError
from probinfer.errors import ProbinferError as ProbinferError
from probinfer.errors import UnreliablePosterior as UnreliablePosterior
from probinfer.inference.draws import Draws as Draws
from probinfer.inference.draws import Outcome as Outcome
from probinfer.inference.mcmc.hmc import HMC as HMC
from probinfer.inference.mcmc.metropolis import Metropolis as Metropolis
from probinfer.inference.mcmc.nuts import NUTS as NUTS
from probinfer.inference.until import Until as Until
from probinfer.model.model import LogDensity as LogDensity
from probinfer.model.model import Model as Model
from probinfer.posterior.infer import infer as infer
from probinfer.posterior.posterior import Posterior as Posterior
from probinfer.posterior.posterior import load_posterior as load_posterior
from probinfer.posterior.report import Report as Report
from probinfer.posterior.verdict import Verdict as Verdict
from probinfer.predict.prediction import Prediction as Prediction
from probinfer.predict.predictor import Predictor as Predictor
from probinfer.predict.predictor import load_predictor as load_predictor
