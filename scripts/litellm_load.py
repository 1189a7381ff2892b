"""The load of ./scripts/litellm --handover, --workers and --kept: 20 clients that count every request that fails, and why.

8 open a connection for each request, 8 keep theirs, 4 read streamed completions of about 20 s, one after the other.
"""

import http.client
import json
import select
import threading
import time

import upstream
from litellm_run import MASTER, Run, require

FRESH, KEPT, STREAMS = 8, 8, 4
PAUSE = 0.3  # seconds between two requests of one client
PATIENCE = 120  # seconds that a client waits for the next byte


class Load:
    def __init__(self, port, key):
        self.port, self.ended, self.lock = port, threading.Event(), threading.Lock()
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        kinds = [self.fresh] * FRESH + [self.kept] * KEPT + [self.streams] * STREAMS
        self.threads = [threading.Thread(target=kind, args=(number,), daemon=True) for number, kind in enumerate(kinds)]
        self.reset()

    def reset(self):
        self.asked = {"new connection": 0, "keep-alive": 0, "stream": 0}
        self.failures, self.renewed, self.retried, self.longest = [], 0, 0, 0.0

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        """Lets each client finish what it has begun."""
        self.ended.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def total(self):
        with self.lock:
            return sum(self.asked.values())

    def counted(self):
        """What was seen since the last call: the failures, and all of it in words."""
        with self.lock:
            asked, failures, longest = self.asked, self.failures, self.longest
            renewed, retried = self.renewed, self.retried
            self.reset()
        each = ", ".join(f"{number} {kind}" for kind, number in asked.items())
        return failures, [
            f"the clients meanwhile: {sum(asked.values())} requests, {len(failures)} failed ({each})",
            f"the longest answer that is no stream took {longest:.1f} s; of the kept connections {renewed} were closed while idle, "
            f"{retried} under a request, which was asked again",
        ]

    def tell(self, kind, began, failure):
        with self.lock:
            self.asked[kind] += 1
            if failure:
                self.failures.append(f"{kind}: {failure}")
            if kind != "stream":
                self.longest = max(self.longest, time.monotonic() - began)

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, connection, **more):
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **more}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), self.headers)
        return connection.getresponse()

    @staticmethod
    def wrong(answer):
        """What is wrong with an answer, or None."""
        data = answer.read()
        if answer.status != 200:
            return f"{answer.status}: {data[:300]!r}"
        content = json.loads(data)["choices"][0]["message"]["content"]
        return None if content == "echo: hello" else "another completion"

    def fresh(self, number):
        self.ended.wait(PAUSE * number / FRESH)
        while not self.ended.wait(PAUSE):
            began, connection = time.monotonic(), self.connection()
            try:
                failure = self.wrong(self.ask(connection))
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                failure = repr(error)
            finally:
                connection.close()
            self.tell("new connection", began, failure)

    def kept(self, number):
        self.ended.wait(PAUSE * number / KEPT)
        connection, used = self.connection(), False
        while not self.ended.wait(PAUSE):
            # As pools of connections do: one that was closed while it was idle is not used again.
            if used and select.select([connection.sock], [], [], 0)[0]:
                connection.close()
                used = False
                with self.lock:
                    self.renewed += 1
            began = time.monotonic()
            try:
                failure = self.wrong(self.ask_twice(connection) if used else self.ask(connection))
                used = connection.sock is not None
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                failure, used = repr(error), False
                connection.close()
            self.tell("keep-alive", began, failure)

    def ask_twice(self, connection):
        """Asks again where the connection ends before any byte of an answer: HTTP lets a server close a kept one at any time."""
        try:
            return self.ask(connection)
        except (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected):
            connection.close()
            with self.lock:
                self.retried += 1
            return self.ask(connection)

    def streams(self, number):
        self.ended.wait(number % STREAMS * 5)
        while not self.ended.wait(PAUSE):
            began, connection = time.monotonic(), self.connection()
            try:
                failure = self.cut(self.ask(connection, stream=True))
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                failure = f"after {time.monotonic() - began:.1f} s: {error!r}"
            finally:
                connection.close()
            self.tell("stream", began, failure)

    @staticmethod
    def cut(answer):
        """What is wrong with a streamed answer, or None where every piece came, in order, and its end."""
        if answer.status != 200:
            return f"{answer.status}: {answer.read()[:300]!r}"
        events = [line[6:].strip() for line in answer if line.startswith(b"data: ")]
        if not events or events[-1] != b"[DONE]":
            return f"no end after {len(events)} events: {events[-1:]}"
        pieces = [choice["delta"].get("content") for data in events[:-1] for choice in json.loads(data)["choices"]]
        text = "".join(piece for piece in pieces if piece)
        whole = "".join(f"{number} " for number in range(upstream.STREAM_EVENTS))
        return None if text == whole else f"pieces are missing: {text}"


class Loaded(Run):
    """A run with the clients throughout."""

    def __init__(self, work, report):
        super().__init__(work, report)
        self.load = Load(self.port, MASTER)

    def clients(self):
        self.load.start()
        self.report.line(f"{FRESH + KEPT + STREAMS} clients begin")
        # Every client has begun before anything changes.
        time.sleep(17)
        self.none_failed()

    def end_clients(self):
        self.load.end()

    def none_failed(self, at_least=0):
        """Nothing failed since it was asked last, among at least so many requests; waits for the rest of them."""
        deadline = time.monotonic() + 180
        while self.load.total() < at_least:
            require(time.monotonic() < deadline, f"only {self.load.total()} requests")
            time.sleep(0.2)
        failures, words = self.load.counted()
        for line in words:
            self.report.line(line)
        require(not failures, f"{len(failures)} requests failed; the first: {failures[:3]}")

    def not_taken_back(self):
        """No rotation was rolled back; if one was, why."""
        history = self.agent_says("history") or []
        entries = history["history"] if isinstance(history, dict) else history
        back = [entry for entry in entries if entry["outcome"] == "rolled_back"]
        require(not back, f"rolled back: {back}")
