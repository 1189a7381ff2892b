"""LiteLLM's proxy under the agent, for ./scripts/litellm: what its two modes share.

A run is on a scratch copy of an example: the agent (release build, or the binary that LEASEHOLD_AGENT names), LiteLLM from
the cache's Python (scripts/requirements.txt), and scripts/upstream.py as the provider, all on loopback.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import upstream

ROOT = Path(__file__).resolve().parent.parent

ALL, NO_CHAT = ["models", "chat"], ["models"]
FIRST, SECOND, REFUSED, LIMITED, THIRD = (
    f"sk-{name}-key-{os.urandom(8).hex()}" for name in ("first", "second", "refused", "limited", "third")
)
MASTER = f"sk-master-{os.urandom(8).hex()}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Failed(Exception):
    """Something is not as it must be."""


class Report:
    """The timeline, printed as it happens."""

    def __init__(self):
        self.start = time.monotonic()
        self.lines = []

    def line(self, text):
        text = f"{time.monotonic() - self.start:6.1f} s  {text}"
        self.lines.append(text)
        print(text, flush=True)

    def step(self, text):
        self.lines.append("")
        print(flush=True)
        self.line(text)


def require(condition, message):
    if not condition:
        raise Failed(message)


def ask(port):
    """The status of one completion on a connection of its own; 0 where there was none, or it was not as it must be."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}]}).encode(),
        headers={"Authorization": f"Bearer {MASTER}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            body = json.load(response)
            return response.status if body["choices"][0]["message"]["content"] == "echo: hello" else 0
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError):
        return 0


class Run:
    EXAMPLE = "litellm-exec"
    WITHIN = 75  # seconds that the agent gives LiteLLM to become healthy

    def __init__(self, work, report):
        self.work, self.report = work, report
        self.agent_binary = os.environ.get("LEASEHOLD_AGENT") or self.build()
        self.python = os.environ.get("LEASEHOLD_PYTHON") or self.printed([ROOT / "scripts" / "venv"])
        self.port, self.upstream_port = free_port(), free_port()
        self.agent = self.upstream = None
        for file in ("agent.yaml", "litellm.yaml.tera"):
            shutil.copy(ROOT / "examples" / self.EXAMPLE / file, work / file)
        self.environment = {
            **os.environ,
            "AGENT_CONFIG": str(work / "agent.yaml"),
            "LITELLM": str(Path(self.python).parent / "litellm"),
            "LITELLM_PORT": str(self.port),
            "LITELLM_WITHIN": f"{self.WITHIN}s",
            "UPSTREAM_URL": f"http://127.0.0.1:{self.upstream_port}/v1",
        }
        for name in ("DATABASE_URL", "LITELLM_MASTER_KEY", "LITELLM_SALT_KEY", "CONFIG_FILE_PATH"):
            self.environment.pop(name, None)

    @staticmethod
    def printed(command):
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    @staticmethod
    def build():
        subprocess.run(["cargo", "build", "--locked", "--release", "--bin", "agent"], cwd=ROOT, check=True)
        return str(Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "release" / "agent")

    # What is changed from outside.

    def replace(self, name, value):
        """Replaces a file whole, as JSON (which is YAML too)."""
        path = self.work / name
        fresh = path.with_suffix(".new")
        with open(fresh, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            json.dump(value, file)
        fresh.rename(path)

    def provider_accepts(self, keys):
        self.replace("keys.json", keys)

    def rotate_to(self, key):
        self.replace("secrets.yaml", {"master": {"key": MASTER}, "provider": {"api_key": key}})

    # What is seen from outside.

    def agent_says(self, command):
        done = subprocess.run(
            [self.agent_binary, command, "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def state(self):
        status = self.agent_says("status")
        return next((t["state"] for t in status["targets"] if t["name"] == "litellm"), None) if status else None

    def outcomes(self):
        history = self.agent_says("history") or []
        entries = history["history"] if isinstance(history, dict) else history
        return [entry["outcome"] for entry in entries if entry["target"] == "litellm"]

    def wait_for(self, outcome, times, seconds):
        """Waits until the history has an outcome so many times and the target is healthy."""
        deadline = time.monotonic() + seconds
        while self.outcomes().count(outcome) < times or self.state() != "healthy":
            if self.agent.poll() is not None:
                raise Failed(f"the agent ended with {self.agent.returncode}")
            if time.monotonic() > deadline:
                raise Failed(f"no {outcome} number {times} in {seconds} s: state {self.state()}, history {self.outcomes()}")
            time.sleep(0.2)

    def processes(self):
        """The pid and start time of each LiteLLM that the agent runs, the oldest first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text()
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            if int(fields[1]) == self.agent.pid and self.serves(stat.parent):
                found.append((int(stat.parent.name), fields[19]))
        return sorted(found, key=lambda process: int(process[1]))

    @staticmethod
    def serves(process):
        """Whether it is LiteLLM itself, and not the check of a file."""
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"--config" in arguments and b"--validate_config" not in arguments

    def process(self):
        """The pid and start time of the newest LiteLLM."""
        return next(reversed(self.processes()), None)

    def upstream_saw(self, key):
        """The method, path and status of every request that the provider had with a key."""
        log = (self.work / "upstream.log").read_text().splitlines()
        seen = [json.loads(line) for line in log]
        return [(e["method"], e["path"], e["status"]) for e in seen if e["key"] == upstream.key_id(key)]

    def complete_with(self, key, name):
        """One completion through LiteLLM must succeed, and the provider must have seen it with the right key."""
        before = len(self.upstream_saw(key))
        status = ask(self.port)
        require(status == 200, f"a completion was answered with {status}, not 200")
        chats = [seen for seen in self.upstream_saw(key)[before:] if seen == ("POST", "/v1/chat/completions", 200)]
        require(chats, f"the provider did not see the {name} key")
        self.report.line(f"POST /v1/chat/completions: 200; the provider saw the {name} key ({upstream.key_id(key)})")

    # Its start and end.

    def start(self):
        self.provider_accepts({FIRST: ALL})
        self.rotate_to(FIRST)
        (self.work / "upstream.log").touch()
        self.upstream = subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "upstream.py", "--listen", f"127.0.0.1:{self.upstream_port}"]
            + ["--keys", self.work / "keys.json", "--log", self.work / "upstream.log"],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.upstream_port), 1).close()
                break
            except OSError:
                require(time.monotonic() < deadline, "the upstream did not start")
                time.sleep(0.05)
        self.report.step("start: `agent run` with the first key")
        with open(self.work / "agent.log", "wb") as log:
            self.agent = subprocess.Popen(
                [self.agent_binary, "run"], env=self.environment, cwd=self.work, stdout=log, stderr=log
            )
        self.wait_for("committed", 1, self.WITHIN + 30)
        self.report.line(f"committed: LiteLLM is healthy, process {self.process()[0]}")
        self.complete_with(FIRST, "first")

    def leaks(self):
        told = [(self.work / "agent.log").read_text(errors="replace")]
        for command in ("status", "history"):
            told.append(json.dumps(self.agent_says(command)))
        require(all(told), "the agent logged nothing or told nothing")
        for key in (FIRST, SECOND, REFUSED, LIMITED, THIRD, MASTER):
            require(not any(key in text for text in told), "a key is in the agent's log, status or history")
        self.report.line("no key is in the log, the status or the history")

    def end_clients(self):
        """Ends what asks LiteLLM, before the agent stops it."""

    def stop(self):
        self.report.step("stop: TERM to the agent")
        self.end_clients()
        child = self.process()
        self.agent.send_signal(signal.SIGTERM)
        try:
            # Longer than LiteLLM itself may take (stop_timeout).
            code = self.agent.wait(60)
        except subprocess.TimeoutExpired:
            raise Failed("the agent did not end within 60 s of TERM") from None
        require(not Path(f"/proc/{child[0]}").exists(), "LiteLLM outlived the agent")
        self.report.line(f"the agent ended with exit code {code}; LiteLLM is gone")

    def clean_up(self):
        for process in (self.agent, self.upstream):
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def version(python):
    return Run.printed([python, "-c", "import importlib.metadata as m; print(m.version('litellm'))"])


def passes(kind, page, report_to):
    """Takes a run through its steps. The first that fails ends it: 1. `page` makes of the timeline what goes to `report_to`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="leasehold-litellm."))
    run = None
    try:
        report = Report()
        run = kind(work, report)
        report.start = time.monotonic()
        for step in run.steps():
            step()
        if report_to:
            report_to.write_text(page(report.lines, run))
        return 0
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        log = work / "agent.log"
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()
            # Without what LiteLLM logs of each request that went well.
            print("\n".join([line for line in lines if not re.search(r'" 200( |$)', line)][-60:]), file=sys.stderr)
        return 1
    finally:
        if run:
            run.clean_up()
        shutil.rmtree(work, ignore_errors=True)
