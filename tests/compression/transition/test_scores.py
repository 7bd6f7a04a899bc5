import numpy as np
import pytest

from kvlab.compression.transition import collect, curve
from kvlab.errors import InputError
from tests.compression.transition.synthetic import answers, cliff

CURVES = {"e1": {1.0: 1.0, 0.5: None}, "e2": {1.0: None, 0.5: 0.5}, "e3": {1.0: 0.5}}


@pytest.mark.parametrize(
    ("treatment", "drops"),
    [
        ("zero", [1.0, -0.5, np.nan]),
        ("missing", [np.nan, np.nan, np.nan]),
        ("worst", [1.0, 0.5, np.nan]),
        ("best", [0.0, -0.5, np.nan]),
    ],
)
def test_what_failures_count_as(treatment, drops):
    found = collect(answers(CURVES), "f1", (1.0, 0.5)).drops(treatment)[:, 1]
    np.testing.assert_equal(found, drops)


def test_a_failure_is_not_an_answer_that_was_not_asked_for():
    scores = collect(answers(CURVES), "f1", (1.0, 0.5, 0.2))
    assert scores.failed.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert curve(scores)[0.5] == 0.25
    assert np.isnan(curve(scores)[0.2]), "planned and never asked"


def test_controls_and_timings_are_no_part_of_the_curve():
    frame = cliff(per_bin=2, added=(0.75,))
    alone = cliff(per_bin=2, added=(0.75,), controls=False)
    first, second = collect(frame, "f1"), collect(alone, "f1")
    np.testing.assert_equal(first.values, second.values)
    assert first.budgets.tolist() == [1.0, 0.75, 0.5, 0.2]
    assert first.planned.tolist() == [True, False, True, True]
    assert first.plan.budgets.tolist() == [1.0, 0.5, 0.2]


def test_two_answers_to_one_question_are_refused():
    frame = cliff(per_bin=1)
    with pytest.raises(InputError, match=r"e000.*two answers at budget 1"):
        collect(frame.iloc[[0, 0]], "f1")
    with pytest.raises(InputError, match="metric: 'rouge'"):
        collect(frame, "rouge")
