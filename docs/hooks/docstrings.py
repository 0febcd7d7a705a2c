"""What the reference shows of a docstring: options that are filled in when the package runs, and no Sphinx roles."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from griffe import Extension


class Docstrings(Extension):
    """Completes docstrings before mkdocstrings reads them."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Fill in generated parts, and write roles as code."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if "{options}" in text:
            live = getattr(importlib.import_module(obj.module.path), obj.name)
            text = inspect.getdoc(live) or text
            self._complete_parameters(obj, inspect.signature(live))
        obj.docstring.value = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)

    @staticmethod
    def _complete_parameters(obj: Any, signature: inspect.Signature) -> None:
        """Replace ``**options`` by the options."""
        from griffe import Parameter, ParameterKind, Parameters

        kept = [p for p in obj.parameters if p.name in signature.parameters]
        known = {p.name for p in kept}
        more = [
            Parameter(name, kind=ParameterKind.keyword_only, default=repr(p.default))
            for name, p in signature.parameters.items()
            if name not in known
        ]
        obj.parameters = Parameters(*kept, *more)
