"""./scripts/litellm --kept: LiteLLM restarted under load on a socket that the agent keeps open, and no request may fail."""

import os
import time

from litellm_load import FRESH, KEPT, PATIENCE, STREAMS, Loaded
from litellm_run import ALL, FIRST, REFUSED, SECOND, THIRD, require, version


class Kept(Loaded):
    EXAMPLE = "litellm-kept"
    WITHIN = 90

    def steps(self):
        return self.start, self.clients, self.rotation, self.verification, self.next_rotation, self.leaks, self.stop

    def restarted(self, times, before):
        """Waits for a rotation's commit, and tells when the old process ended; never do two run."""
        began, ended = time.monotonic(), None
        deadline = began + self.WITHIN + 90
        while self.outcomes().count("committed") < times:
            running = self.processes()
            require(len(running) <= 1, f"more than one runs: {running}")
            if ended is None and before not in running:
                ended = time.monotonic()
                self.report.line(f"process {before[0]} ended, {ended - began:.1f} s after the key was written")
            require(time.monotonic() < deadline, f"no commit: state {self.state()}, history {self.outcomes()}")
            require(self.agent.poll() is None, "the agent ended")
            self.not_taken_back()
            time.sleep(0.1)
        self.wait_for("committed", times, 30)
        after = self.process()
        require(after != before, "LiteLLM was not restarted")
        self.report.line(f"committed: LiteLLM is healthy, process {after[0]}, {time.monotonic() - began:.1f} s after the key was written")

    def rotate(self, times, old, new, name, at_least=0):
        before = self.process()
        self.provider_accepts({old: ALL, new: ALL})
        self.rotate_to(new)
        self.restarted(times, before)
        self.provider_accepts({new: ALL})
        self.report.line("the provider revokes the previous key")
        time.sleep(5)
        self.none_failed(at_least)
        self.complete_with(new, name)

    def rotation(self):
        self.report.step("rotation by restart: the provider makes a second key, and it is written to the store")
        self.rotate(2, FIRST, SECOND, "second", at_least=1000)

    def verification(self):
        self.report.step("verify: a key that the provider refuses is written to the store")
        before, bytes_before = self.process(), (self.work / "litellm.yaml").read_bytes()
        self.rotate_to(REFUSED)
        self.wait_for("quarantined", 1, 60)
        require(self.processes() == [before], "LiteLLM was touched")
        require((self.work / "litellm.yaml").read_bytes() == bytes_before, "litellm.yaml was touched")
        self.report.line(f"quarantined: litellm.yaml is as it was, LiteLLM still process {before[0]}")
        self.none_failed()

    def next_rotation(self):
        self.report.step("and on: a third key is written to the store")
        self.rotate(3, SECOND, THIRD, "third")
        self.report.line(f"history: {', '.join(self.outcomes())}")


def page(lines, run):
    return (
        "# A restart under load on a kept socket\n\n"
        f"What `./scripts/litellm --kept` printed: the config of `examples/litellm-kept`, LiteLLM {version(run.python)}\n"
        f"(`--run_gunicorn`, one worker), {os.cpu_count()} cores that the clients, the provider and LiteLLM share "
        f"(load average {os.getloadavg()[0]:.1f} at the end).\n"
        f"{FRESH} clients with a connection for each request, {KEPT} that keep theirs, {STREAMS} that read streams of 20 s, throughout. A\n"
        "failure of any of them ends the script with an error. Nobody is refused, but all wait: for the streams that the old process\n"
        f"has to finish, then for the start of the new one. These clients wait up to {PATIENCE} s.\n\n"
        "* uvicorn resets a connection that it has accepted and not read yet when TERM comes (1 of 3,864 requests, over four rotations of\n"
        "  an agent that sent it at once). So the agent has all who come wait for the next process, and sends TERM when those who\n"
        "  had come before have been taken.\n"
        "* With memory for two processes nobody has to wait for a start: [handover.md](handover.md).\n\n"
        "```text\n" + "\n".join(lines).strip("\n") + "\n```\n"
    )
