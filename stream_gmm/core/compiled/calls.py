"""Calls of compiled functions by their address.

Numba copies a function into the code of every function that calls it, directly or not, and optimises each copy again.
A large one that is called at its address is compiled once, on its own. It cannot be inlined, and its caller may be
given another one with the same types.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic


@cache
def address_of(function: Any, signature: Any) -> int:
    """Return where the code of a compiled function for a signature begins; it is compiled or loaded if need be."""
    kinds = tuple(signature.args)  # as in an ordinary call, without the type of the result
    function.compile(kinds)
    result = function.overloads[kinds]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def make_call(signature: Any) -> Any:
    """Return ``call(address, *arguments)`` for compiled code: the call of a function of this signature."""

    @intrinsic
    def call(_, address, *arguments):  # type: ignore[no-untyped-def]
        for place, (given, wanted) in enumerate(zip(arguments, signature.args, strict=True)):
            if types.unliteral(given) != wanted:
                raise TypingError(f"argument {place} is {given}; the function is compiled for {wanted}.")
        kinds = types.int64, types.StarArgTuple.from_types(tuple(arguments))

        def generate(context, builder, _, values):  # type: ignore[no-untyped-def]
            convention = context.call_conv
            kind = convention.get_function_type(signature.return_type, signature.args)
            function = builder.inttoptr(values[0], kind.as_pointer())
            handed_on = cgutils.unpack_tuple(builder, values[1], len(signature.args))
            status, result = convention.call_function(
                builder, function, signature.return_type, signature.args, handed_on
            )
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return result

        return signature.return_type(*kinds), generate

    return call
