"""How right an answer is (``score``), and what went wrong with it (``classify``): two independent questions."""

from kvlab.scoring.metrics import Score, score, scorer_name
from kvlab.scoring.outcome import Outcome, classify, classify_error

__all__ = ["Outcome", "Score", "classify", "classify_error", "score", "scorer_name"]
