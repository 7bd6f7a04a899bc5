import pytest

from kvlab.laws.fidelity import Continuation, Difference, difference, judge

COLD = Continuation((1, 2, 3, 4), (5.0, 4.0, 0.01, 3.0))
TIE = Continuation((1, 2, 9, 9))
WRONG = Continuation((1, 7, 7, 7))


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (COLD, Difference(None, None, None)),
        (TIE, Difference(2, 0.01, True)),
        (WRONG, Difference(1, 4.0, False)),
        (Continuation((1, 2, 3)), Difference(3, 3.0, False)),
        (Continuation((1, 2, 3, 4, 5)), Difference(4, None, None)),
    ],
)
def test_where_two_answers_part(other, found):
    assert difference(COLD, other) == found


@pytest.mark.parametrize(
    ("triples", "verdict"),
    [
        ([(COLD, COLD, COLD)] * 10, "same"),
        ([(TIE, COLD, COLD)] + [(COLD, COLD, COLD)] * 9, "as different as cold answers"),
        ([(TIE, COLD, TIE)] * 5 + [(COLD, COLD, COLD)] * 5, "as different as cold answers"),
        ([(WRONG, COLD, COLD)] + [(COLD, COLD, COLD)] * 9, "different"),
        ([(Continuation((9,)), Continuation((1,)), Continuation((1,)))] * 10, "different"),
        ([(Continuation((9,)), Continuation((1,)), Continuation((1,)))], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_hit_is_held_against_the_noise_of_cold_answers(triples, verdict):
    assert judge(triples).verdict == verdict


def test_the_counts_stand_in_the_reason():
    found = judge([(TIE, COLD, TIE)] * 2 + [(COLD, COLD, COLD)] * 8)
    assert (found.hit_differs, found.cold_differs, found.near_ties, found.prompts) == (2, 2, 2, 10)
    assert found.reason.startswith("2 of 10 answers after a hit differ from the cold one, 2 of 10 cold ones")
