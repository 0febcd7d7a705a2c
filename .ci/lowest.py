"""Print a constraint for each dependency, those of extras too: exactly the lowest version that is allowed."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
    if found := re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*>=\s*([\d.]+)", requirement):
        print("==".join(found.groups()))
