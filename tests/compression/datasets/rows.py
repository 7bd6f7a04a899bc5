"""Small files in the formats of the real datasets, with texts made here."""

import gzip
import json
import random
import zipfile

from kvlab.compression.datasets.prose import prose


def longbench_rows(number, language="en"):
    draw = random.Random(number)
    for i in range(number):
        text = prose(i // 2, draw.randrange(200, 4000))
        yield {
            "input": f"Question {i}?" if language == "en" else f"问题{i}？",
            "context": text,
            "answers": ["a bell", "Bell"],
            "length": len(text),
            "dataset": "qasper" if language == "en" else "multifieldqa_zh",
            "language": language,
            "all_classes": None,
            "_id": str(i),
        }


def multidoc_rows(number):
    for i in range(number):
        gold = {
            "title": f"Person {i}",
            "text": f"Zorb{i} was born in town{i:02}. {prose(i, 100)}",
            "isgold": True,
        }
        yield {
            "question": f"Where was Zorb{i} born?",
            "answers": [f"town{i:02}"],
            "ctxs": [gold | {"hasanswer": True}],
        }


def write_jsonl(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in members.items():
            archive.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
    return path
