"""Classifiers on features: equal budgets, choice on validation rows, and nothing from test rows."""

import warnings

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thermo_jax.errors import UserError
from thermo_jax.rivals import heads
from thermo_jax.rivals.heads import HEADS, Rows, fit_head

SVMS = ("linear_svm", "rbf_svm", "cubic_svm")


def rows(seed, count=40, columns=6, shift=1.0):
    """Return random rows, half of them sick, whose first two features depend on the diagnosis."""
    labels = np.arange(count) % 2
    features = np.random.default_rng(seed).normal(size=(count, columns))
    features[:, :2] += shift * labels[:, np.newaxis]
    return Rows(features, labels)


def fitted(head, train=None, validation=None, *, candidates=3, seed=0):
    train, validation = train or rows(0), validation or rows(1, 20)
    return fit_head(head, train, validation, candidates=candidates, seed=seed)


def area(head, of):
    return roc_auc_score(of.labels, head.probabilities(of.features))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("candidates", [1, 4])
def test_every_head_fits_exactly_as_many_settings_as_it_may(head, candidates, monkeypatch):
    made = []
    make = heads._classifier

    def counted(head, value, *, seed):
        made.append(value)
        return make(head, value, seed=seed)

    monkeypatch.setattr(heads, "_classifier", counted)
    result = fitted(head, candidates=candidates)
    assert result.tried == len(set(made)) == len(made) == candidates


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_and_says_probabilities(head):
    result, test = fitted(head, rows(0, 80, shift=2.0)), rows(2, 100, shift=2.0)
    probabilities = result.probabilities(test.features)
    assert probabilities.shape == (100,)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert area(result, test) > 0.9


@pytest.mark.parametrize("head", HEADS)
def test_the_same_seed_gives_the_same_numbers_whatever_is_tested(head):
    first, second = fitted(head), fitted(head)
    before = {name: value.copy() for name, value in first.state().items()}
    first.probabilities(rows(3).features * 1e6)
    assert first.setting == second.setting
    for state in (first.state(), second.state()):
        assert state.keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("head", HEADS)
def test_a_changed_training_row_changes_the_fitted_numbers(head):
    train = rows(0)
    changed = Rows(train.features.copy(), train.labels)
    changed.features[0, 3] += 1.0
    ours, theirs = fitted(head, train).state(), fitted(head, changed).state()
    assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_probability_of_a_row_does_not_depend_on_the_other_test_rows():
    result, test = fitted("rbf_svm"), rows(2).features
    np.testing.assert_allclose(
        result.probabilities(test[:1]), result.probabilities(test)[:1], rtol=1e-12
    )


@pytest.mark.parametrize("head", HEADS)
def test_validation_rows_choose_the_setting(head):
    train, validation = rows(0, 60, columns=10), rows(1, 30, columns=10)
    result = fitted(head, train, validation, candidates=4)
    name, first, last = heads._TUNED[head]
    areas = {}
    for value in np.geomspace(first, last, 4).tolist():
        model = make_pipeline(StandardScaler(), heads._classifier(head, value, seed=0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(*train)
        areas[f"{name} = {value:.3g}"] = roc_auc_score(
            validation.labels, heads._decisions(model, validation.features)
        )
    assert result.setting == max(areas, key=areas.get)


@pytest.mark.parametrize(
    ("head", "setting"), [("logistic", "C = 0.01"), ("rbf_svm", "C = 0.01"), ("mlp", "alpha = 10")]
)
def test_in_a_tie_the_most_regularised_setting_is_kept(head, setting):
    easy = rows(0, shift=50.0)
    assert fitted(head, easy, easy).setting == setting


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_validation_rows_of_one_diagnosis_leave_the_middle_setting(head, count):
    validation = Rows(np.ones((count, 6)), np.ones(count, int))
    result = fitted(head, rows(0, 80, shift=2.0), validation, candidates=3)
    middle = {"logistic": "C = 0.1", "mlp": "alpha = 0.0316"}.get(head, "C = 1")
    assert (result.setting, result.tried) == (middle, 1)
    assert (result.slope, result.offset) == (1, 0)
    assert area(result, rows(2, 100, shift=2.0)) > 0.8


@pytest.mark.parametrize("head", SVMS)
def test_an_svm_is_calibrated_on_validation_rows_as_by_scikit_learn(head):
    validation, test = rows(1, 30), rows(2).features
    result = fitted(head, None, validation)
    expected = CalibratedClassifierCV(FrozenEstimator(result.pipeline), method="sigmoid")
    expected.fit(*validation)
    np.testing.assert_allclose(result.probabilities(test), expected.predict_proba(test)[:, 1])


@pytest.mark.parametrize("head", SVMS)
def test_a_calibration_needs_only_one_row_of_each_diagnosis(head):
    validation = Rows(np.array([[-1.0] * 6, [2.0] * 6]), np.array([0, 1]))
    result = fitted(head, rows(0, 80, shift=2.0), validation)
    assert result.slope > 0 and result.slope != 1
    assert area(result, rows(2, 100, shift=2.0)) > 0.8


@pytest.mark.parametrize("head", SVMS)
def test_a_calibration_never_reverses_the_order_of_decisions(head):
    validation = rows(1, 30, shift=3.0)
    reversed_labels = Rows(validation.features, 1 - validation.labels)
    result = fitted(head, rows(0, 80, shift=3.0), reversed_labels)
    assert (result.slope, result.offset) == (1, 0)
    assert area(result, rows(2, 100, shift=3.0)) > 0.8


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("label", [0, 1])
def test_training_rows_of_one_diagnosis_give_a_constant(head, label):
    result = fitted(head, Rows(rows(0).features, np.full(40, label)))
    assert (result.probabilities(rows(2).features) == label).all()
    assert (result.setting, result.tried, result.parameters) == ("constant", 0, 1)


@pytest.mark.parametrize("head", HEADS)
def test_features_that_are_constant_in_training_count_for_nothing(head):
    train, validation, test = rows(0), rows(1, 20), rows(2)
    constant = [
        np.full((len(part.labels), 1), value) for part, value in ((train, 0.1), (test, 1e6))
    ]
    more = Rows(np.hstack([train.features, constant[0]]), train.labels)
    some = Rows(np.hstack([validation.features, np.ones((20, 1))]), validation.labels)
    result, without = fitted(head, more, some), fitted(head, train, validation)
    assert result.parameters == without.parameters
    np.testing.assert_array_equal(
        result.probabilities(np.hstack([test.features, constant[1]])),
        without.probabilities(test.features),
    )


def test_only_constant_features_give_the_share_of_sick():
    result = fitted("logistic", Rows(np.ones((5, 6)), np.array([0, 0, 0, 1, 1])))
    np.testing.assert_array_equal(result.probabilities(rows(2, 4).features), [0.4] * 4)


def test_parameters_are_the_numbers_that_training_chose():
    assert fitted("logistic").parameters == fitted("linear_svm").parameters == 6 + 1
    assert fitted("mlp").parameters == 6 * 64 + 64 + 64 + 1
    for head in ("rbf_svm", "cubic_svm"):
        result = fitted(head)
        vectors = len(result.state()["support_vectors"])
        assert 1 < vectors <= 40 and result.parameters == vectors + 1


@pytest.mark.parametrize("head", HEADS)
def test_fitting_is_quiet(head):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(head, rows(0, 60, shift=0.0), rows(1, 6))


def test_an_unknown_head_and_an_empty_budget_are_the_users_mistakes():
    with pytest.raises(UserError, match="Did you mean 'rbf_svm'"):
        fitted("rbfsvm")
    with pytest.raises(UserError, match="candidates=0"):
        fitted("logistic", candidates=0)


def test_an_unknown_feature_is_not_left_out_in_silence():
    train = rows(0)
    train.features[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fitted("logistic", train)
