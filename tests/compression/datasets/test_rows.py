"""Rows of files that somebody else has made, packed or damaged."""

import gzip
import io
import random
import zipfile

import pytest

from kvlab.compression.datasets import rows
from kvlab.errors import InputError

LINE = b'{"input": "q", "context": "c", "answers": ["a"]}\n'


def packed(data, method=zipfile.ZIP_DEFLATED, name="data/t.jsonl"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def refused(path, member="t.jsonl"):
    with pytest.raises(InputError) as caught:
        rows.read(path, member)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":' * 100 + b"1" + b"}" * 100, b"[1]", b"{", b"\xff\xfe{}",
        b'{"a": "\\ud800"}', b'{"a": 1' + b"0" * 5000 + b"}", b"null", LINE.decode().encode("utf-16"), b"\x00",
    ],
    ids=range(11),
)  # fmt: skip
def test_a_hostile_line_is_named(tmp_path, line):
    path = tmp_path / "t.jsonl"
    path.write_bytes(LINE + line + b"\n")
    assert "t.jsonl line 2" in refused(path)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + LINE.replace(b"\n", b"\r\n"))
    assert len(rows.read(path).rows) == 2


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_archive_is_one_line_or_its_rows(tmp_path, method):
    good, path, draw = packed(LINE * 50, method), tmp_path / "t.zip", random.Random(method)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(draw.choice([1, 4, 20])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)
        try:
            assert len(rows.read(path, "t.jsonl").rows) <= 50
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are right


@pytest.mark.parametrize("kind", ["zip", "gz", "plain"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(rows, "MAX_BYTES", 100_000)
    data = LINE * 50_000
    path = tmp_path / {"zip": "t.zip", "gz": "t.jsonl.gz", "plain": "t.jsonl"}[kind]
    path.write_bytes({"zip": packed(data), "gz": gzip.compress(data), "plain": data}[kind])
    assert "more than" in refused(path)


def test_a_size_that_the_archive_lies_about_is_of_no_use(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_BYTES", 1000)
    data = bytearray(packed(LINE * 1000))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = (50).to_bytes(4, "little")  # of the unpacked file, as the directory says
    path = tmp_path / "t.zip"
    path.write_bytes(data)
    refused(path)


def test_a_password_or_another_member_is_one_line(tmp_path):
    path = tmp_path / "t.zip"
    path.write_bytes(packed(LINE, name="other.jsonl"))
    assert "has no t.jsonl" in refused(path)
    data = bytearray(packed(LINE))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + at] |= 1
    path.write_bytes(data)
    assert "cannot be read" in refused(path)
