#!/usr/bin/env python3
"""A provider of models to test against: a small OpenAI-compatible HTTP server on loopback, standard library only.

    upstream.py --listen 127.0.0.1:PORT --keys KEYS.json --log FILE [--stream-seconds 20]

KEYS.json maps each bearer key to what it may do, and is read anew at every request, so that a key can be made or revoked
while the server runs:

    {"sk-up-one": ["models", "chat"], "sk-up-no-chat": ["models"]}

    GET  /v1/models              200, 401 for an unknown key
    POST /v1/chat/completions    200, 401 for an unknown key, 403 for one that may not chat

A completion with `stream: true` comes as server-sent events, STREAM_EVENTS of them evenly over --stream-seconds.

FILE gets one JSON line a request: time, method, path, status and `key`, the first 12 hex digits of the key's SHA-256.
A key itself is never written.
"""

import argparse
import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "upstream-model"
STREAM_EVENTS = 40


def key_id(key):
    """The name by which logs speak of a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def completion(prompt):
    return {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"echo: {prompt}"}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def event(delta, finish_reason=None):
    """One event of a streamed completion."""
    chunk = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return f"data: {json.dumps(chunk)}\n\n"


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = json.dumps(body).encode()
        # Before the client can have its answer: it then finds the request in the log.
        self.log(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log(self, status):
        line = {"time": time.time(), "method": self.command, "path": self.path, "status": status, "key": self.key}
        with open(self.server.log_path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def stream(self):
        """A completion in small pieces: the words 0 to STREAM_EVENTS - 1."""
        self.log(200)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(STREAM_EVENTS):
            self.chunk(event({"role": "assistant", "content": f"{number} "}))
            time.sleep(self.server.stream_seconds / STREAM_EVENTS)
        self.chunk(event({}, "stop") + "data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def refuse(self, scope):
        """The status and message of a refusal, or None where the request's key may do `scope`."""
        word, _, key = self.headers.get("Authorization", "").partition(" ")
        self.key = key_id(key) if word == "Bearer" and key else None
        with open(self.server.keys_path, encoding="utf-8") as file:
            scopes = json.load(file).get(key)
        if scopes is None:
            return 401, "unknown API key"
        if scope not in scopes:
            return 403, f"this key may not use {scope}"
        return None

    def handle_request(self, scope, make):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        refusal = self.refuse(scope)
        if refusal:
            status, message = refusal
            self.answer(status, {"error": {"message": message, "type": "invalid_request_error", "code": status}})
        elif scope == "chat" and json.loads(body).get("stream"):
            self.stream()
        else:
            self.answer(200, make(body))

    def do_GET(self):  # noqa: N802 (the base class names it)
        if self.path == "/v1/models":
            self.handle_request(
                "models", lambda _: {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "upstream"}]}
            )
        else:
            self.key = None
            self.answer(404, {"error": {"message": "no such path"}})

    def do_POST(self):  # noqa: N802
        if self.path == "/v1/chat/completions":
            self.handle_request("chat", lambda body: completion(json.loads(body)["messages"][-1]["content"]))
        else:
            self.key = None
            self.answer(404, {"error": {"message": "no such path"}})

    def log_message(self, *_):
        """The log file says it all."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that is gone is no error of a server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description="a small OpenAI-compatible server that accepts or refuses keys")
    parser.add_argument("--listen", default="127.0.0.1:8090")
    parser.add_argument("--keys", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--stream-seconds", type=float, default=20, help="how long a streamed completion lasts")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    server = Server((host, int(port)), Upstream)
    server.keys_path, server.log_path = arguments.keys, arguments.log
    server.stream_seconds = arguments.stream_seconds
    print(f"upstream: listening on {host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
