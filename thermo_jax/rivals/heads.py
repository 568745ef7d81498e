"""Classifiers on vectors of features, fitted within a fold, each with the same budget of tuning.

After the classifiers of several published works (SPEC section 12): the same families, that is,
logistic regression (L2), SVMs with a linear, a Gaussian (RBF) and a cubic kernel, and a perceptron
with one hidden layer. Different: one setting of each is chosen on validation patients, from a grid
that has the same number of settings for every family, and the test rows are seen only by
`FittedHead.probabilities`.
"""

import dataclasses
import math
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.special import expit
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits  # scikit-learn needs it, too

from thermo_jax.errors import UserError, did_you_mean

# What is tuned: the name of the parameter, and its most and least regularised values.
# Logistic regression has the range of published works (SPEC section 12). That of the SVMs is wider:
# a Gaussian kernel is at most 1, and needs a large C to fit more than a mean; a cubic kernel has
# large values, and needs a small one.
_TUNED = {
    "logistic": ("C", 0.01, 1.0),
    "linear_svm": ("C", 0.01, 100.0),
    "rbf_svm": ("C", 0.01, 100.0),
    "cubic_svm": ("C", 0.01, 100.0),
    "mlp": ("alpha", 10.0, 1e-4),
}
HEADS = tuple(_TUNED)
HIDDEN_WIDTH = 64  # of the perceptron


class Rows(NamedTuple):
    """Rows of features with their diagnoses."""

    features: Float[np.ndarray, "n k"]
    labels: Integer[np.ndarray, " n"]  # 0 healthy, 1 sick


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A classifier that was fitted on training rows, and whose setting validation rows chose.

    Attributes:
      setting: the chosen one, such as "C = 0.1".
      parameters: how many numbers training chose. Logistic regression and the linear SVM have a
        weight for each feature that is not constant, and an intercept; an SVM with another kernel
        has one coefficient for each support vector, and an intercept (the vectors themselves are
        rows of the data); the perceptron has all its weights. Not counted are the scales of the
        features and the two numbers of a calibration.
      tried: how many settings were fitted. 1 if validation rows could not choose, 0 if training
        rows have one diagnosis, or only constant features.
      share_sick: of the training rows.
      varying: the features that are not constant in the training rows.
      pipeline: scales features and classifies; None if `tried` is 0.
      slope, offset: an SVM's probability is the logistic function of slope * decision + offset.
    """

    setting: str
    parameters: int
    tried: int
    share_sick: float
    varying: Bool[np.ndarray, " k"]
    pipeline: Pipeline | None = None
    slope: float = 1.0
    offset: float = 0.0

    def probabilities(self, features: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """The probability of Sick of each row; the training share if nothing could be fitted."""
        if self.pipeline is None or not len(features):
            return np.full(len(features), self.share_sick)
        chosen = _columns(features, self.varying)
        if isinstance(self.pipeline[-1], SVC):
            return expit(self.slope * self.pipeline.decision_function(chosen) + self.offset)
        return self.pipeline.predict_proba(chosen)[:, 1]

    def state(self) -> dict[str, np.ndarray]:
        """Every number that was fitted or chosen, by name."""
        numbers = {
            "share_sick": self.share_sick,
            "varying": self.varying,
            "slope": self.slope,
            "offset": self.offset,
        }
        if self.pipeline is not None:
            scaler, classifier = self.pipeline[0], self.pipeline[-1]
            name = _tuned_name(classifier)
            numbers |= {"means": scaler.mean_, "scales": scaler.scale_}
            numbers |= {name: getattr(classifier, name)} | _weights(classifier)
        return {name: np.asarray(value) for name, value in numbers.items()}


def fit_head(head: str, train: Rows, validation: Rows, *, candidates: int, seed: int) -> FittedHead:
    """Fits a classifier with each of `candidates` settings, and keeps the best.

    The grid is geometric. The best setting has the largest AUROC of the validation rows; in a tie,
    the most regularised one is kept. If validation rows have fewer than two diagnoses, only the
    middle setting is fitted. Everything is fitted on training rows, except the calibration of an
    SVM (Platt's logistic function of its decision), which is fitted on validation rows. Without it,
    the logistic function of the decision itself is the probability: if validation rows have fewer
    than two diagnoses, and if the calibration would reverse the order of the decisions.

    Logistic regression and the perceptron keep their own probabilities, because their loss is that
    of probabilities.

    Args:
      head: one of HEADS.
      train, validation: finite features; whoever makes them replaces what is unknown.
      seed: of the perceptron's first weights; nothing else is random.
    Raises:
      UserError: an unknown head, or fewer than one candidate.
      ValueError: a feature is not finite.
    """
    if head not in HEADS:
        known = ", ".join(HEADS)
        raise UserError(f"head={head!r}: choose one of {known}.{did_you_mean(head, HEADS)}")
    if candidates < 1:
        raise UserError(f"candidates={candidates}: choose at least 1")
    if not np.isfinite(train.features).all():
        raise ValueError(f"head={head!r}: a feature of a training row is not finite")
    varying = _varying(train.features)
    share_sick = float(train.labels.mean())
    fixed = {"share_sick": share_sick, "varying": varying}
    if len(np.unique(train.labels)) < 2 or not varying.any():
        return FittedHead(setting="constant", parameters=1, tried=0, **fixed)

    name, first, last = _TUNED[head]
    grid = _geometric(first, last, count=candidates)
    can_choose = len(np.unique(validation.labels)) == 2
    if not can_choose:
        grid = grid[(candidates - 1) // 2 :][:1]
    best, best_area = None, -math.inf
    for value in grid:  # the most regularised one first
        pipeline = make_pipeline(StandardScaler(), _classifier(head, value, seed=seed))
        # With one thread, because the matrices are small: beside other programs, threads that wait
        # for each other made the perceptron twenty times slower.
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            pipeline.fit(_columns(train.features, varying), train.labels)
        area = 0.0
        if can_choose:
            scores = _decisions(pipeline, _columns(validation.features, varying))
            area = roc_auc_score(validation.labels, scores)
        if area > best_area:
            best, best_area = pipeline, area
    classifier = best[-1]
    slope, offset = 1.0, 0.0
    if can_choose and isinstance(classifier, SVC):
        slope, offset = _calibration(
            best, _columns(validation.features, varying), validation.labels
        )
    return FittedHead(
        setting=f"{name} = {getattr(classifier, name):.3g}",
        parameters=_count_parameters(classifier),
        tried=len(grid),
        pipeline=best,
        slope=slope,
        offset=offset,
        **fixed,
    )


def _geometric(first: float, last: float, *, count: int) -> list[float]:
    """A geometric series; of one number, the middle."""
    if count == 1:
        return [math.sqrt(first * last)]
    return np.geomspace(first, last, count).tolist()


def _varying(features: np.ndarray) -> np.ndarray:
    """The features that are not constant, apart from rounding.

    The others are removed, because a test row with another value would be far from all training
    rows, and a perceptron has random weights for them.
    """
    largest = np.abs(features).max(axis=0, initial=0.0)
    return np.ptp(features, axis=0) > 1e-9 * largest


def _columns(features: np.ndarray, varying: np.ndarray) -> np.ndarray:
    return np.asarray(features[:, varying], dtype=np.float64)


def _classifier(head: str, value: float, *, seed: int) -> ClassifierMixin:
    if head == "logistic":
        return LogisticRegression(C=value, max_iter=2000)
    if head == "mlp":
        # L-BFGS, because there are fewer rows than a mini-batch has elsewhere. With weak
        # regularisation it separates the rows long before it stops.
        return MLPClassifier(
            (HIDDEN_WIDTH,), alpha=value, solver="lbfgs", max_iter=200, random_state=seed
        )
    kernels = {
        "linear_svm": {"kernel": "linear"},
        "rbf_svm": {"kernel": "rbf", "gamma": "scale"},
        "cubic_svm": {"kernel": "poly", "degree": 3, "coef0": 1.0, "gamma": "scale"},
    }
    return SVC(C=value, **kernels[head])


def _tuned_name(classifier: ClassifierMixin) -> str:
    return "alpha" if isinstance(classifier, MLPClassifier) else "C"


def _decisions(pipeline: Pipeline, features: np.ndarray) -> np.ndarray:
    """What orders the rows; a probability would have ties where it is rounded to 0 or 1."""
    if isinstance(pipeline[-1], MLPClassifier):  # it has no other output
        return pipeline.predict_proba(features)[:, 1]
    return pipeline.decision_function(features)


def _calibration(
    pipeline: Pipeline, features: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """(slope, offset) of Platt's logistic function; (1, 0) if it would reverse the order."""
    rows = np.arange(len(labels))
    # One "fold" of all rows: by default, scikit-learn wants five rows of each diagnosis, although
    # a frozen classifier is not fitted again.
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(pipeline), method="sigmoid", cv=[(rows, rows)], ensemble=False
    ).fit(features, labels)
    (sigmoid,) = calibrated.calibrated_classifiers_[0].calibrators
    slope, offset = -float(sigmoid.a_), -float(sigmoid.b_)
    return (slope, offset) if slope > 0 else (1.0, 0.0)


def _weights(classifier: ClassifierMixin) -> dict[str, np.ndarray]:
    """The numbers of a fitted classifier, by name."""
    if isinstance(classifier, MLPClassifier):
        layers = zip(classifier.coefs_, classifier.intercepts_, strict=True)
        return {
            f"{kind}/{number}": array
            for number, layer in enumerate(layers)
            for kind, array in zip(("weights", "biases"), layer, strict=True)
        }
    weights = {"intercept": classifier.intercept_}
    if isinstance(classifier, SVC):
        weights |= {
            "support_vectors": classifier.support_vectors_,
            "dual_coefficients": classifier.dual_coef_,
        }
    if not isinstance(classifier, SVC) or classifier.kernel == "linear":
        weights["coefficients"] = classifier.coef_
    return weights


def _count_parameters(classifier: ClassifierMixin) -> int:
    if isinstance(classifier, MLPClassifier):
        return sum(array.size for array in (*classifier.coefs_, *classifier.intercepts_))
    if isinstance(classifier, SVC) and classifier.kernel != "linear":
        return classifier.dual_coef_.size + 1
    return classifier.coef_.size + 1
