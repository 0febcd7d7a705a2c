"""Five nights on one machine: object store, Dask, Prefect, and the jobs of every night, checked by other means.

``python nights.py [--folder FOLDER] [--nights 5]`` starts an S3 server (moto), a Dask scheduler with two workers, a
Prefect server and a Prefect worker, all on the loopback address; deploys the jobs with a cron schedule; and plays the
nights: it writes the files of a night, triggers the runs that the schedule would have made at two o'clock of that
date, waits for them, and computes every score again with NumPy and SciPy from the Parquet files and the model as
JSON. It ends with exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import stream_gmm as sg

HERE = Path(__file__).parent
POOL, ROWS = "nights", 4_000
CENTRES = np.array([[0.0, 0.0], [6.0, 1.0], [2.0, 7.0]])
SPREADS = np.array([[[1.0, 0.3], [0.3, 0.8]], [[0.6, -0.2], [-0.2, 0.9]], [[1.2, 0.0], [0.0, 0.5]]])
SHARES = np.array([[0.50, 0.3, 0.2], [0.44, 0.34, 0.22], [0.43, 0.35, 0.22], [0.45, 0.33, 0.22], [0.46, 0.31, 0.23]])
"""Of the segments, night by night: a little change is no alarm, and the model follows."""
SHIFT = np.array([[0.0, 0.0], [1.2, 0.0], [0.0, 0.0]])
"""On night four the delays of one segment are the same, and its amounts are higher."""


def find_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true value of a check."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.5)
    raise TimeoutError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Stack:
    """The servers, as processes with logs in ``folder``; and how to talk to them."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.s3, self.dask, self.prefect = (find_port() for _ in range(3))
        self.api = f"http://127.0.0.1:{self.prefect}/api"
        os.environ.update({
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3}", "AWS_EC2_METADATA_DISABLED": "true",
            "PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "1",
        })  # fmt: skip

    def start(self) -> None:
        """Start all servers, and wait until they answer."""
        python = sys.executable
        moto = "from moto.server import main; main()"
        self._begin("s3", [python, "-c", moto, "-H", "127.0.0.1", "-p", str(self.s3)])
        self._begin("scheduler", [python, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(self.dask),
                                  "--dashboard-address", "127.0.0.1:0"])  # fmt: skip
        for number in (1, 2):
            self._begin(f"worker{number}", [
                python, "-m", "dask", "worker", f"tcp://127.0.0.1:{self.dask}", "--host", "127.0.0.1",
                "--nthreads", "1", "--dashboard-address", "127.0.0.1:0",
                "--local-directory", str(self.folder / f"worker{number}"),
            ])  # fmt: skip
        self._begin("prefect-server", [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1",
                                       "--port", str(self.prefect)])  # fmt: skip
        wait_for(lambda: self._answers(f"{self.api}/health"), 180, "the Prefect server answers")
        wait_for(lambda: self._answers(f"http://127.0.0.1:{self.s3}/moto-api/"), 60, "the S3 server answers")
        self.ask("/work_pools/", {"name": POOL, "type": "process"})
        self._begin("prefect-worker", [python, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "w"])
        self.files = pafs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.s3}", scheme="http", allow_bucket_creation=True,
            access_key="testing", secret_key="testing", region="us-east-1",
        )  # fmt: skip
        self.files.create_dir("lake")

    def stop(self) -> None:
        """Stop all servers, those that were started last first."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer of the Prefect API; with a body, something is sent."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}{path}", data, {"Content-Type": "application/json"})
        for left in range(20, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                if error.code != 503 or not left:
                    raise
                time.sleep(1.0)  # its database is busy
        raise AssertionError("unreachable")

    def _begin(self, name: str, command: Sequence[str]) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """Yield the servers while they run."""
    stack = Stack(folder)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


class Nights:
    """The nights: what arrives, which runs are made, and whether the results are right."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.folder = stack, stack.folder
        self.run = stack.folder / "run"
        self.config = stack.folder / "events.yaml"
        text = string.Template((HERE / "events.yaml").read_text())
        self.config.write_text(text.substitute(scheduler=f"tcp://127.0.0.1:{stack.dask}"))
        self.digests: dict[int, str] = {}
        self.failures: list[str] = []

    def write(self, name: str, seed: int, night: int, shift: bool = False) -> str:
        """Write a file of events into the object store; return its URI."""
        rng = np.random.default_rng(seed)
        which = rng.choice(3, ROWS, p=SHARES[night - 1])
        factors = np.linalg.cholesky(SPREADS)
        rows = CENTRES[which] + np.einsum("nij,nj->ni", factors[which], rng.normal(size=(ROWS, 2)))
        rows += SHIFT[which] * shift
        table = pa.table({"event": np.arange(ROWS) + seed * ROWS, "amount": rows[:, 0], "delay": rows[:, 1]})
        pq.write_table(table, f"lake/events/{name}", filesystem=self.stack.files)
        return f"s3://lake/events/{name}"

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run ``stream-gmm`` in the folder; return what it prints."""
        command = [sys.executable, "-m", "stream_gmm", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        self.check(done.returncode == code, f"stream-gmm {' '.join(arguments)}: exit code {code}", done.stderr[-800:])
        return done.stdout

    def check(self, holds: bool, what: str, otherwise: object = "") -> None:
        """Print whether something holds."""
        print(f"  {'ok   ' if holds else 'WRONG'} {what}{'' if holds else f': {otherwise}'}", flush=True)
        if not holds:
            self.failures.append(what)

    def deploy(self) -> None:
        """Deploy the jobs: at two the events of the day before are compared with the model in use, then taken in."""
        for job, cron in (("run", None), ("update", "10 2 * * *"), ("monitor", "0 2 * * *")):
            schedule = ["--cron", cron] if cron else []
            self.command("deploy", str(self.config), "--job", job, "--pool", POOL, *schedule)

    def trigger(self, flow: str, night: int, ends: str = "COMPLETED", **parameters: Any) -> None:
        """Make the run that the schedule would have made on a night, and wait for its end."""
        deployment = self.stack.ask(f"/deployments/name/{flow}/events")
        body = {
            "parameters": {**deployment["parameters"], **parameters},
            "idempotency_key": f"{flow} {night}",
            "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": f"2024-12-{night:02d}T02:00:00Z"}},
        }
        run = self.stack.ask(f"/deployments/{deployment['id']}/create_flow_run", body)

        def ended() -> Any:
            found = self.stack.ask(f"/flow_runs/{run['id']}")
            return found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and found

        done = wait_for(ended, 300, f"the run of {flow} ends")
        self.check(done["state_type"] == ends, f"{done['name']}: {flow} {ends.lower()}", done["state"]["message"])

    def monitor(self, night: int, new: Sequence[str], drifted: bool) -> None:
        """Compare the files of a night with the model in use."""
        config = self.stack.ask("/deployments/name/monitor/events")["parameters"]["config"]
        config = {**config, "data": {**config["data"], "paths": list(new)}}
        ends = "FAILED" if drifted else "COMPLETED"
        self.trigger("monitor", night, ends, config=config, period=f"2024-12-{night:02d}")
        total = [r for r in pq.read_table(self.run / "monitor.parquet").to_pylist()
                 if (r["period"], r["file"]) == (f"2024-12-{night:02d}", "*")]  # fmt: skip
        self.check(len(total) == 1 and (total[0]["status"] == "drifted") == drifted,
                   f"the monitor raises {'an' if drifted else 'no'} alarm", total)  # fmt: skip

    def audit(self, night: int) -> None:
        """Compute every score again, and compare the components with those of the first night."""
        registry, table = sg.open_registry(self.run), sg.open_scored("s3://lake/scored")
        models = {}
        for version in registry.history:
            content = json.loads(registry.load(version.name).to_json())
            models[content["digest"]] = content
        used, worst, rows = set(), 0.0, 0
        raw = {
            f.path.removeprefix("lake/events/"): pq.read_table(f.path, filesystem=self.stack.files)
            for f in self.stack.files.get_file_info(pafs.FileSelector("lake/events", recursive=True)) if f.is_file
        }  # fmt: skip
        parts = table.manifest["parts"]
        scored = {part["source"]: (part, path) for part, path in zip(parts, table.files, strict=True)}
        self.check(set(scored) == set(raw), f"night {night}: {len(raw)} files are there, and scored", set(scored))
        for name, (part, path) in scored.items():
            found = pq.read_table(path.removeprefix("s3://"), filesystem=self.stack.files)
            model, given = models[part["model"]], raw[name]
            used.add(part["model"])
            rows += len(found)
            same = found.select(given.column_names).equals(given)
            points = np.column_stack([given[c].to_numpy() for c in model["columns"]])
            joint = np.column_stack([
                np.log(w) + multivariate_normal(m, c).logpdf(points)
                for w, m, c in zip(model["weights"], model["means"], model["covariances"], strict=True)
            ])  # fmt: skip
            density = logsumexp(joint, axis=1)
            shares = np.exp(joint - density[:, None])
            columns = [f"proba_{k}" for k in range(joint.shape[1])]
            worst = max(
                worst,
                np.abs(found["log_density"].to_numpy() - density).max(),
                np.abs(np.column_stack([found[c].to_numpy() for c in columns]) - shares).max(),
                0.0 if same and (found["component"].to_numpy() == shares.argmax(1)).all() else np.inf,
            )
        self.check(worst < 1e-9, f"night {night}: {rows:,} rows as SciPy has them, by {len(used)} models", worst)
        champion = models[registry.load().digest]
        means = np.array(champion["means"])
        nearest = np.linalg.norm(means[:, None] - self.first(means)[None], axis=2).argmin(1)
        self.check(list(nearest) == list(range(len(means))), f"night {night}: components keep their numbers", nearest)
        self.digests[night] = champion["digest"]

    def first(self, means: np.ndarray) -> np.ndarray:
        """Return the means of the first night."""
        self._first = getattr(self, "_first", means)
        return self._first

    def play(self, last: int) -> None:
        """Play the nights up to the last one."""
        print("night 1: four files; search, choice, scores, report")
        for i in range(4):
            self.write(f"night=1/{i}.parquet", i, 1)
        self.trigger("sweep-and-score", 1)
        self.check(sg.open_registry(self.run).load().n_components == 3, "three segments are found")
        self.audit(1)
        print("night 2: two files, a third one is late")
        self._take_in(2, [self.write(f"night=2/{i}.parquet", 10 + i, 2) for i in range(2)])
        if last >= 3:
            print("night 3: two files, the late one of night 2, and one of night 1 was corrected")
            new = [self.write(f"night=3/{i}.parquet", 20 + i, 3) for i in range(2)]
            new += [self.write("night=2/2.parquet", 12, 2), self.write("night=1/3.parquet", 93, 1)]
            self._take_in(3, new)
        if last >= 4:
            print("night 4: two files, in which one segment has shifted")
            new = [self.write(f"night=4/{i}.parquet", 30 + i, 4, shift=True) for i in range(2)]
            self._take_in(4, new, drifted=True)
            said = self.command("monitor", str(self.config), *new, "--period", "2024-12-04", code=11)
            self.check(not said or json.loads(said)["drifted"], "one JSON line for alerts", said)
        if last >= 5:
            print("night 5: two files, as before")
            self._take_in(5, [self.write(f"night=5/{i}.parquet", 40 + i, 5) for i in range(2)])
        print("the morning after: back to night 2")
        registry = sg.open_registry(self.run)
        wanted = next(v.name for v in registry.history if v.model_digest == self.digests[2])
        self.command("promote", "run", wanted)
        used = sg.load_model(self.run / "model.gmm").digest
        self.check(used == self.digests[2], f"{wanted}, the model of night 2, is in use again")
        self.command("score", str(self.config), "--quiet")
        self.audit(last + 1)
        self.command("verify", "run")
        self.command("report", "run", "--quiet")

    def _take_in(self, night: int, new: Sequence[str], drifted: bool = False) -> None:
        self.monitor(night, new, drifted)
        self.trigger("update", night)
        self.audit(night)


def main() -> None:
    """Start the servers, play the nights, say what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="for logs and results [default: a temporary one]")
    parser.add_argument("--nights", type=int, default=5, choices=range(2, 6))
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="nights-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder) as stack:
        nights = Nights(stack)
        nights.deploy()
        nights.play(given.nights)
    print(f"results and logs: {folder}")
    if nights.failures:
        sys.exit(f"{len(nights.failures)} wrong: " + "; ".join(nights.failures))


if __name__ == "__main__":
    main()
