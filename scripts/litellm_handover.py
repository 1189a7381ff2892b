"""./scripts/litellm --handover: provider keys rotated, refused and revoked under load, and no request may fail."""

import os
import time
from pathlib import Path

from litellm_load import FRESH, KEPT, STREAMS, Load
from litellm_run import ALL, FIRST, LIMITED, MASTER, NO_CHAT, REFUSED, SECOND, Run, require, version

OVERLAP = 180  # seconds; more than a rotation under load, or a refused one, takes


class Handover(Run):
    EXAMPLE = "litellm-handover"
    WITHIN = 45

    def __init__(self, work, report):
        super().__init__(work, report)
        self.environment["LITELLM_OVERLAP"] = f"{OVERLAP}s"
        self.load = Load(self.port, MASTER)

    def steps(self):
        return (
            self.start, self.clients, self.rotation, self.overlap_end, self.verification, self.refusal, self.leaks, self.stop
        )

    def end_clients(self):
        self.load.end()

    # What is seen from outside.

    def alone(self, seconds):
        """Waits until one LiteLLM runs, and nothing else of the agent drains."""
        deadline = time.monotonic() + seconds
        while len(self.processes()) != 1:
            require(time.monotonic() < deadline, f"after {seconds} s these run: {self.processes()}")
            require(len(self.processes()) <= 2, f"more than two run: {self.processes()}")
            time.sleep(0.2)

    def none_failed(self, at_least=0):
        """Nothing failed since it was asked last, among at least so many requests; waits for the rest of them."""
        deadline = time.monotonic() + 120
        while self.load.total() < at_least:
            require(time.monotonic() < deadline, f"only {self.load.total()} requests")
            time.sleep(0.2)
        failures, words = self.load.counted()
        for line in words:
            self.report.line(line)
        require(not failures, f"{len(failures)} requests failed; the first: {failures[:3]}")

    def handed_over(self, times, before):
        """Waits for a rotation's commit and for the end of the old process."""
        self.wait_for("committed", times, 2 * self.WITHIN + OVERLAP)
        committed = time.monotonic()
        after = self.process()
        require(after != before, "LiteLLM is the same process")
        self.report.line(f"committed: process {after[0]} serves, process {before[0]} drains")
        self.alone(75)
        require(self.process() == after, "another process came")
        self.report.line(f"process {before[0]} ended, {time.monotonic() - committed:.1f} s after the commit")
        return after

    # The steps.

    def clients(self):
        self.load.start()
        self.report.line(f"{FRESH + KEPT + STREAMS} clients begin")
        # Every client has begun before anything changes.
        time.sleep(17)
        self.none_failed()

    def rotation(self):
        self.report.step("rotation: the provider makes a second key, and it is written to the store")
        before = self.process()
        self.provider_accepts({FIRST: ALL, SECOND: ALL})
        self.rotate_to(SECOND)
        self.overlap_from = time.monotonic()
        self.wait_for("committed", 2, 2 * self.WITHIN + OVERLAP)
        # Read now: what follows may take longer than the overlap.
        text = (self.work / "litellm.yaml").read_text()
        self.serving = self.handed_over(2, before)
        self.none_failed(at_least=1000)
        require(FIRST in text and SECOND in text, "litellm.yaml does not have both keys while the overlap lasts")
        self.report.line("litellm.yaml has the second key with order 1, the first with order 2")
        self.complete_with(SECOND, "second")

    def overlap_end(self):
        self.report.step(f"the overlap of {OVERLAP} s ends: the first key goes out of the config")
        self.handed_over(3, self.serving)
        require(FIRST not in (self.work / "litellm.yaml").read_text(), "the first key is still in litellm.yaml")
        self.provider_accepts({SECOND: ALL})
        self.report.line("litellm.yaml has the second key only; the provider revokes the first")
        time.sleep(5)
        require(all(status == 200 for _, _, status in self.upstream_saw(FIRST)), "the revoked key was used")
        self.none_failed()
        self.complete_with(SECOND, "second")

    def untouched(self, before, bytes_before):
        require(self.processes() == [before], f"LiteLLM was touched: {self.processes()}, and it was {before}")
        require((self.work / "litellm.yaml").read_bytes() == bytes_before, "litellm.yaml is not as it was")

    def verification(self):
        self.report.step("verify: a key that the provider refuses is written to the store")
        before, bytes_before = self.process(), (self.work / "litellm.yaml").read_bytes()
        self.rotate_to(REFUSED)
        self.wait_for("quarantined", 1, 60)
        self.untouched(before, bytes_before)
        saw = self.upstream_saw(REFUSED)
        require(saw and set(saw) == {("GET", "/v1/models", 401)}, f"the provider saw the refused key as {saw}")
        self.report.line(f"quarantined: litellm.yaml is as it was, LiteLLM still process {before[0]}")
        self.none_failed()
        self.complete_with(SECOND, "second")

    def refusal(self):
        self.report.step("rollback: a key that lists models but may not chat passes verify, and is written to the store")
        before, bytes_before = self.process(), (self.work / "litellm.yaml").read_bytes()
        self.provider_accepts({SECOND: ALL, LIMITED: NO_CHAT})
        self.rotate_to(LIMITED)
        deadline = time.monotonic() + self.WITHIN
        while len(self.processes()) < 2:
            require(time.monotonic() < deadline, "no second process was started")
            time.sleep(0.2)
        self.report.line(f"process {self.process()[0]} is on trial beside process {before[0]}")
        self.wait_for("rolled_back", 1, 4 * self.WITHIN)
        self.alone(75)
        self.untouched(before, bytes_before)
        saw = self.upstream_saw(LIMITED)
        require(("POST", "/v1/chat/completions", 403) in saw, f"the provider saw the limited key as {saw}")
        chats = sum(1 for method, _, _ in saw if method == "POST")
        self.report.line(f"rolled back: not healthy within {self.WITHIN} s; LiteLLM is process {before[0]} as before")
        self.report.line(f"the provider refused the limited key to the health check alone, {chats} times")
        self.none_failed()
        self.complete_with(SECOND, "second")
        self.report.line(f"history: {', '.join(self.outcomes())}")


def page(lines, run):
    return (
        "# A key rotation under load, with no failed request\n\n"
        f"What `./scripts/litellm --handover` printed: the config of `examples/litellm-handover`, LiteLLM {version(run.python)}\n"
        f"(`--run_gunicorn`, one worker), {os.cpu_count()} cores that the clients, the provider and LiteLLM share "
        f"(load average {os.getloadavg()[0]:.1f} at the end).\n"
        f"{FRESH} clients with a connection for each request, {KEPT} that keep theirs, {STREAMS} that read streams of 20 s, "
        "throughout. A failure of any\nof them ends the script with an error.\n\n"
        "```text\n" + "\n".join(lines).strip("\n") + "\n```\n"
    )
