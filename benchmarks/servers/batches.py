"""OpenAI's files and batches, as far as a client needs them: each request of a batch is answered as a body."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from . import schedule, shapes
from .http import Connection, Request
from .options import Options
from .shapes import ChunkShapes, Counts
from .validation import Refusal


@dataclass
class Batches:
    """The files and batches of a server. A batch takes ``batch_ms``, whatever is in it."""

    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def handle(self, connection: Connection, request: Request, server: Any) -> bool:
        """Answers one request, if it is for files or batches."""
        if not server.options.batch_api or not request.path.startswith(("/v1/files", "/v1/batches")):
            return False
        parts = request.path.split("/")[2:]
        if request.method == "POST":
            made = self._upload(request) if parts[0] == "files" else self._create(request.json(), server)
            connection.respond(200, made)
        elif parts[0] == "files":
            connection.respond(200, self.files[parts[1]], content_type="application/jsonl")
        elif len(parts) == 1:
            connection.respond(200, {"object": "list", "data": list(self.batches.values())})
        else:
            connection.respond(200, self._look(parts[1]))
        return True

    def _upload(self, request: Request) -> dict[str, Any]:
        boundary = re.search(r"boundary=(\S+)", request.headers["content-type"])
        assert boundary is not None
        for part in request.body.split(b"--" + boundary[1].encode()):
            head, _, content = part.partition(b"\r\n\r\n")
            if b"filename=" in head:
                name = f"file-{len(self.files)}"
                self.files[name] = content.removesuffix(b"\r\n")
                return {"id": name, "object": "file", "purpose": "batch"}
        raise ValueError("no file in the upload")

    def _create(self, body: dict[str, Any], server: Any) -> dict[str, Any]:
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines() if line]
        good, bad = [], []
        for number, line in enumerate(lines):
            fault = server.options.batch_faults.get(str(number))
            (bad if fault else good).append(_failed(line, fault) if fault else _answered(line, server))
        name = f"batch-{len(self.batches)}"
        batch = {
            "id": name,
            "object": "batch",
            "status": "in_progress",
            "ready": time.monotonic() + server.options.batch_ms / 1e3,
        }
        for key, found in (("output_file_id", good), ("error_file_id", bad)):
            batch[key] = f"{name}-{key}" if found else None
            if found:
                self.files[f"{name}-{key}"] = "".join(json.dumps(line) + "\n" for line in found).encode()
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        self.batches[name] = batch
        return batch

    def _look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        if batch["status"] == "in_progress" and time.monotonic() >= batch["ready"]:
            batch["status"] = "completed"
        return batch


def _answered(line: dict[str, Any], server: Any) -> dict[str, Any]:
    options: Options = server.options
    body = line["body"]
    tokens = server.tokenizer.chat(body["messages"], prefix_tokens=options.template_prefix_tokens)
    chain = server.cache.chain(tokens, body.get("cache_salt"))
    cached = server.cache.match(chain, len(tokens))
    server.cache.store(chain)
    server.metrics.prefilled(len(tokens), cached)
    plan = schedule.plan(
        [1.0] * min(body["max_tokens"], options.output_tokens), 0, body["max_tokens"], len(tokens), options
    )
    server.metrics.generated += len(plan.words)
    server.metrics.e2e.add_ns(1_000_000)
    told = shapes.usage(Counts(len(tokens), cached, len(plan.words), 0), options, stream=False)
    shape = ChunkShapes(f"chatcmpl-{line['custom_id']}", options, chat=True)
    answer = shapes.completion(shape, plan.words, 0, plan.finish, told)
    return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": answer}, "error": None}


def _failed(line: dict[str, Any], status: int) -> dict[str, Any]:
    refusal = Refusal(status, shapes.error(status, "A fault was ordered."))
    return {
        "custom_id": line["custom_id"],
        "response": {"status_code": status, "body": refusal.body},
        "error": None,
    }
