"""Evaluation sets for the KV-budget transition: synthetic retrieval, LongBench, multi-document questions.

``prepare(DatasetSpec(...), tokenizer.load(None))`` gives a ``Manifest``: examples in length bins,
with the template that renders them.
"""

from kvlab.datasets.example import Example
from kvlab.datasets.manifest import Manifest
from kvlab.datasets.preparation import prepare
from kvlab.datasets.spec import DatasetSpec

__all__ = ["DatasetSpec", "Example", "Manifest", "prepare"]
