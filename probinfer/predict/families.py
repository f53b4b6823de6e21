"""The table of outcome families that a predictor can answer exactly; any other law is answered from keyed draws."""

from probinfer.predict.continuous import BETA as BETA
from probinfer.predict.continuous import EXPONENTIAL as EXPONENTIAL
from probinfer.predict.continuous import GAMMA as GAMMA
from probinfer.predict.continuous import GUMBEL as GUMBEL
from probinfer.predict.continuous import HALF_NORMAL as HALF_NORMAL
from probinfer.predict.continuous import LAPLACE as LAPLACE
from probinfer.predict.continuous import LOG_NORMAL as LOG_NORMAL
from probinfer.predict.continuous import LOGISTIC as LOGISTIC
from probinfer.predict.continuous import NORMAL as NORMAL
from probinfer.predict.continuous import STUDENT_T as STUDENT_T
from probinfer.predict.continuous import WEIBULL as WEIBULL
from probinfer.predict.discrete import BERNOULLI as BERNOULLI
from probinfer.predict.discrete import BINOMIAL as BINOMIAL
from probinfer.predict.discrete import CATEGORICAL as CATEGORICAL
from probinfer.predict.discrete import NEGATIVE_BINOMIAL as NEGATIVE_BINOMIAL
from probinfer.predict.discrete import POISSON as POISSON
from probinfer.predict.discrete import ZERO_INFLATED_NEGATIVE_BINOMIAL as ZERO_INFLATED_NEGATIVE_BINOMIAL
from probinfer.predict.discrete import ZERO_INFLATED_POISSON as ZERO_INFLATED_POISSON
from probinfer.predict.family import Family as Family
from probinfer.predict.family import Support as Support
from probinfer.predict.truncated import TRUNCATED_NORMAL as TRUNCATED_NORMAL

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        NORMAL, STUDENT_T, LAPLACE, LOGISTIC, GUMBEL, LOG_NORMAL, GAMMA, EXPONENTIAL, WEIBULL, HALF_NORMAL, BETA,
        TRUNCATED_NORMAL,
        BERNOULLI, BINOMIAL, POISSON, NEGATIVE_BINOMIAL, ZERO_INFLATED_POISSON,
        ZERO_INFLATED_NEGATIVE_BINOMIAL, CATEGORICAL,
    )
}  # fmt: skip
