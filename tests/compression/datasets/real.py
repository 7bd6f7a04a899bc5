"""Real datasets, where a copy of them lies beside the checkout: see KVLAB_TEST_DATA."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT


def _find() -> Path | None:
    named = os.environ.get("KVLAB_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "longbench" / "multifieldqa_zh.jsonl").is_file() else None


DATA = _find()
needs_data = pytest.mark.skipif(
    DATA is None, reason="no copy of the real datasets; set KVLAB_TEST_DATA to a folder that has them"
)


def answers_of(task: str) -> list[list[str]]:
    lines = (DATA / "longbench" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answers"] for line in lines]
