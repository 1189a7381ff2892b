"""./scripts/litellm --workers: two workers take a new key up at HUP under load, and no broken config reaches them."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import upstream
from litellm_load import FRESH, KEPT, STREAMS, Loaded
from litellm_run import ALL, FIRST, ROOT, SECOND, THIRD, require, version

WORKERS = 2
# Seconds after a commit that a worker before may still serve: twenty answers in a row prove it, and on a busy machine all of them may
# be the new one's while the old one has just been told to end; then it has the connections that it took (one second, by serve.py).
LINGER = 15
KEY = "api_key: {{ secrets.provider.api_key | yaml }}"


class Workers(Loaded):
    EXAMPLE = "litellm-workers"
    WITHIN = 180

    def __init__(self, work, report):
        super().__init__(work, report)
        shutil.copy(ROOT / "examples" / self.EXAMPLE / "serve.py", work / "serve.py")
        self.environment["LITELLM_PYTHON"] = self.python

    def steps(self):
        return (
            self.start, self.two_workers, self.clients, self.rotation, self.broken_template, self.missing_field, self.broken_yaml,
            self.refused_config, self.next_rotation, self.leaks, self.stop
        )

    # What is seen from outside.

    def workers(self):
        """The pid and start time of each worker, the oldest first."""
        master, found = self.process(), []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                spawned = b"spawn_main" in (stat.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if master and spawned and int(fields[1]) == int(master[0]):
                found.append((int(stat.parent.name), fields[19]))
        return sorted(found, key=lambda process: (int(process[1]), process[0]))

    def seen(self):
        """All that a broken config must leave as it is."""
        return self.process(), self.workers(), (self.work / "litellm.yaml").read_bytes()

    def status(self):
        """What `agent status` says is wrong, the config first."""
        status = self.agent_says("status") or {}
        reasons = [target["reason"] for target in status.get("targets", []) if target["name"] == "litellm"]
        return [reason for reason in (status.get("config_error"), *reasons) if reason]

    def template(self, text):
        path = self.work / "litellm.yaml.tera"
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(path)

    # The steps.

    def two_workers(self):
        workers = self.workers()
        require(len(workers) == WORKERS, f"these workers run: {workers}")
        self.report.line(f"its workers are {self.pids(workers)}")

    @staticmethod
    def pids(workers):
        return " and ".join(str(pid) for pid, _ in workers)

    def replaced(self, times, before):
        """Waits for a rotation's commit, and until none of the workers before is left."""
        began, running, master = time.monotonic(), before, self.process()
        deadline = began + self.WITHIN + 60
        committed = None
        while committed is None or set(running) & set(before) or len(running) != WORKERS:
            require(time.monotonic() < deadline, f"no commit, or these workers run: {running}; before: {before}")
            require(self.agent.poll() is None, "the agent ended")
            self.not_taken_back()
            now = self.workers()
            for came in sorted(set(now) - set(running)):
                self.report.line(f"worker {came[0]} was started")
            for went in sorted(set(running) - set(now)):
                self.report.line(f"worker {went[0]} ended")
            running = now
            if committed is None and self.outcomes().count("committed") >= times:
                committed = time.time()
                self.report.line(f"committed, {time.monotonic() - began:.1f} s after the key was written")
            time.sleep(0.1)
        require(self.process() == master, "LiteLLM's master is another process")
        self.wait_for("committed", times, 30)
        self.report.line(f"LiteLLM is still process {master[0]}; its workers are {self.pids(running)}")
        return committed

    def rotate(self, times, old, new, name, at_least=0):
        before = self.workers()
        self.provider_accepts({old: ALL, new: ALL})
        self.rotate_to(new)
        committed = self.replaced(times, before)
        late = self.used_after(committed, old)
        self.provider_accepts({new: ALL})
        last = f", the last {late[-1]:.1f} s after it" if late else ""
        self.report.line(f"the provider saw the previous key in {len(late)} requests after the commit{last}, and revokes it")
        require(not late or late[-1] < LINGER, "a worker with the previous key served on after the commit")
        time.sleep(5)
        self.none_failed(at_least)
        self.complete_with(new, name)

    def used_after(self, when, key):
        """How many seconds after that each request with a key came to the provider."""
        log = (self.work / "upstream.log").read_text().splitlines()
        entries = (json.loads(line) for line in log)
        return sorted(entry["time"] - when for entry in entries if entry["key"] == upstream.key_id(key) and entry["time"] > when)

    def rotation(self):
        self.report.step("rotation by HUP: the provider makes a second key, and it is written to the store")
        self.rotate(2, FIRST, SECOND, "second", at_least=1000)

    def next_rotation(self):
        self.report.step("and on: a third key is written to the store")
        self.rotate(3, SECOND, THIRD, "third")
        self.report.line(f"history: {', '.join(self.outcomes())}")

    def broken(self, text, reason, quarantined):
        """A template is put in place, refused for a reason, and taken back; nothing of it reaches LiteLLM."""
        good, before = (self.work / "litellm.yaml.tera").read_text(), self.seen()
        require(text != good, "the template is not changed")
        self.template(text)
        deadline = time.monotonic() + 90
        while not any(reason in said for said in self.status()):
            require(time.monotonic() < deadline, f"`agent status` says {self.status()}, not {reason}")
            time.sleep(0.2)
        said = next(said for said in self.status() if reason in said).replace(f"{self.work}/", "")
        # LiteLLM warns of other things, a line each, before it says what is wrong.
        said = re.sub(r"(\d\d:\d\d:\d\d - LiteLLM Proxy:.*? \| )+", "… | ", said)
        self.report.line(f"`agent status`: {said}")
        count = self.outcomes().count("quarantined")
        require(count == quarantined, f"{count} are quarantined, not {quarantined}")
        require(self.seen() == before, "the file, LiteLLM or a worker was touched")
        self.template(good)
        deadline = time.monotonic() + 90
        while self.status() or self.state() != "healthy":
            require(time.monotonic() < deadline, f"with the good template again `agent status` says {self.status()}")
            time.sleep(0.2)
        # Longer than a HUP that should not have been sent takes to start a worker.
        time.sleep(8)
        require(self.seen() == before, "the file, LiteLLM or a worker was touched")
        self.report.line("the good template is back; throughout litellm.yaml had the same bytes, LiteLLM the same pid, its workers theirs")
        self.none_failed()

    def edited(self, old, new):
        text = (self.work / "litellm.yaml.tera").read_text()
        require(text.count(old) == 1, f"the template does not have `{old}` once")
        return text.replace(old, new)

    def broken_template(self):
        self.report.step("broken template: a tag that does not end")
        self.broken(self.edited(KEY, KEY.removesuffix(" }}")), "litellm.yaml.tera:", 0)

    def missing_field(self):
        self.report.step("broken template: a field that the secret does not have")
        self.broken(self.edited(".api_key |", ".api_kye |"), "has no field", 1)

    def broken_yaml(self):
        self.report.step("broken YAML: a list that does not end")
        self.broken(self.edited("num_retries: 0", "num_retries: ["), "not valid yaml", 2)

    def refused_config(self):
        self.report.step("good YAML that `litellm --validate_config` refuses: a model_list that is no list")
        self.broken(self.edited("  - model_name: chat\n", "    model_name: chat\n"), "check `env`", 3)


def page(lines, run):
    return (
        "# Two workers and HUP under load, and configs that never reach them\n\n"
        f"What `./scripts/litellm --workers` printed: the config of `examples/litellm-workers`, LiteLLM {version(run.python)}\n"
        f"(`--num_workers {WORKERS} --timeout_worker_healthcheck 60`), {os.cpu_count()} cores that the clients, the provider and LiteLLM "
        f"share\n(load average {os.getloadavg()[0]:.1f} at the end). "
        f"{FRESH} clients with a connection for each request, {KEPT} that keep theirs, {STREAMS} that read\n"
        "streams of 20 s, throughout. A failure of any of them ends the script with an error.\n\n"
        "* A HUP replaces the workers one after the other: the new one is ready before the old one is told to end. Until the second is\n"
        "  replaced both keys are in use, and an old worker finishes its streams: revoke the previous key when it has ended.\n"
        "* HUP brings what is in the file. A change of the process's environment is a restart.\n"
        "* `serve.py` of the example has a worker that ends serve whoever has just come. uvicorn by itself resets a connection that it has\n"
        "  accepted and not read yet: seen once in 3,864 requests over four restarts of LiteLLM without `serve.py` (`--run_gunicorn`), not\n"
        "  in 10,226 over four rotations by HUP; of a small application under uvicorn 5 of 1,903 over 15 restarts, with it 0 of 1,972.\n"
        "* A kept connection that is closed under a request is asked again, as HTTP wants it of clients; how often is below.\n\n"
        "```text\n" + "\n".join(lines).strip("\n") + "\n```\n"
    )
