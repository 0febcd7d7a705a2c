"""The commands and snippets of README.md and of the pages in docs/, and how the tests run them.

A fenced block is run if its language is ``bash`` or ``python``, and is a configuration if it is ``yaml``; output is
``text``. A ``yaml`` or ``python`` block with a title is also the file of that name, for the commands below it.
A comment in the line above, ``<!-- not run: why -->``, leaves a block out.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stream_gmm.pipeline.job.config import validate_config

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PAGES = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        if path.name != "architecture.md"
    )
)
FEWER = {
    "--rows 1000000": "--rows 5000",
    "--rows 100000": "--rows 5000",
    "--replicates 20": "--replicates 4",
    "--ratio-replicates 9": "--ratio-replicates 0",
    "--n-components 1:8": "--n-components 1:3",
    "--n-components 1:7": "--n-components 1:4",
    "--n-components 1:6": "--n-components 1:3",
    "range(1, 7)": "range(1, 4)",
    "replicates=20": "replicates=4",
    "replicates=9": "replicates=2",
}
"""Fewer rows, candidates and replicates are enough to see a command run."""
ON_A_CLUSTER = {"run", "sweep", "fit", "score", "bootstrap", "plan", "monitor", "serve", "update"}
"""The commands that start an embedded Dask cluster unless they are told otherwise."""
_FENCE = re.compile(
    r"^(?P<why><!-- not run: .+? -->\n+)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; one that is not run says why."""

    page: str
    line: int
    language: str
    text: str
    title: str | None
    runs: bool

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def read_blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(page, text[: m.start("text")].count("\n") + 1, m["language"], m["text"], m["title"], m["why"] is None)
        for m in _FENCE.finditer(text)
    ]


def split_commands(text: str) -> list[str]:
    """Return the commands of a block, one each, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_commands(page: str) -> list[str]:
    return [c for b in read_blocks(page) if b.runs and b.language == "bash" for c in split_commands(b.text)]


def is_on(page: str, *words: str) -> bool:
    """Return True if a page has a command that begins with these words."""
    return any(shlex.split(c, comments=True)[: len(words)] == list(words) for c in read_commands(page))


def needs_prefect(page: str) -> bool:
    return any(is_on(page, *words) for words in (("prefect",), ("stream-gmm", "run"), ("stream-gmm", "serve")))


def starts_servers(page: str) -> bool:
    """Return True if a page starts something that goes on in the background."""
    return any(c.endswith(" &") for c in read_commands(page))


def shorten(command: str) -> str:
    """Return a command with less to do, on threads where the cluster is not the point."""
    command = _replace(command)
    words = shlex.split(command, comments=True)
    elsewhere = {"--address", "--executor", "--cluster-class"} & set(words)
    if words[0] == "stream-gmm" and words[1] in ON_A_CLUSTER and not elsewhere and not _has_operator(command):
        return shlex.join([*words, "--executor", "threads"])
    return shlex.join(words) if words[0] == "stream-gmm" and not _has_operator(command) else command


def _replace(text: str) -> str:
    for many, few in FEWER.items():
        text = text.replace(many, few)
    return text


def _has_operator(command: str) -> bool:
    return bool({"<", ">", "|", "&&"} & set(command.split()))


class Reader:
    """Someone who follows a page: the folder, the names and the variables stay from block to block."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder, self.names = folder, {"__name__": "page"}
        self._patch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def follow(self, page: str) -> None:
        """Do what the blocks of a page say, in their order."""
        for block in read_blocks(page):
            if block.runs:
                self.do(block)

    def do(self, block: Block) -> None:
        if block.title:
            (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.title).write_text(block.text)
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + _replace(block.text), block.page, "exec"), self.names)
        elif block.language == "yaml":
            check_configuration(block)
        elif block.language == "bash":
            for command in split_commands(block.text):
                try:
                    self.run(command)
                except (AssertionError, subprocess.CalledProcessError) as error:
                    raise AssertionError(f"{block}: {command}\n{error}") from error

    def run(self, command: str) -> str:
        """Run a command; ours in this process, where the package is loaded and compiled."""
        from tests.cli.test_commands import run as run_in_process

        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), command
            return ""
        if words[0] in ("pip", "git", "cd"):
            return ""
        if words[0] == "export":
            name, value = words[1].split("=", 1)
            self._patch.setenv(name, os.path.expandvars(value))
            return ""
        command = shorten(command)
        if words[0] == "stream-gmm" and not _has_operator(command):
            return run_in_process(*shlex.split(command)[1:])
        return run_in_shell(command, self.folder)


def check_configuration(block: Block) -> None:
    """Check a configuration, or a part of one."""
    content = yaml.safe_load(block.text)
    content.setdefault("data", {}).setdefault("paths", "events/")
    validate_config(content, str(block))


def run_in_shell(command: str, folder: Path, **environment: str) -> str:
    path = f"{BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def start(command: str, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command of a page that ends in ``&``."""
    log = open(folder / f"{abs(hash(command))}.log", "wb")
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(
        shlex.split(command.rstrip(" &")), cwd=folder, env=os.environ | environment,
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip


def stop(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
