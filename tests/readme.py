"""What the tests of the README share: its code blocks, and how its commands are run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Return the commands; fewer rows and replicates are enough to see them run."""
    fewer = {
        "--rows 100000": "--rows 5000",
        "--replicates 20": "--replicates 4",
        "--ratio-replicates 9": "--ratio-replicates 2",
        "--n-components 1:6": "--n-components 1:3",
        "--n-components 1:7": "--n-components 1:4",
    }
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    for many, few in fewer.items():
        lines = [line.replace(many, few) for line in lines]
    return lines


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | more


def run(command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=_environment(**environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def start(command: str, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    log = open(folder / f"{abs(hash(command))}.log", "wb")
    return subprocess.Popen(
        shlex.split(command.rstrip(" &")), cwd=folder, env=_environment(**environment),
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
