"""Evaluation sets for the KV-budget transition: synthetic retrieval, LongBench, multi-document questions.

``prepare(DatasetSpec(...), tokenizer.load(None))`` gives a ``Manifest``: examples in length bins,
with the template that renders them.
"""

from kvlab.compression.datasets.example import Example
from kvlab.compression.datasets.manifest import Manifest
from kvlab.compression.datasets.preparation import prepare
from kvlab.compression.datasets.spec import DatasetSpec

__all__ = ["DatasetSpec", "Example", "Manifest", "prepare"]
