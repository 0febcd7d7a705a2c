"""The tiles: compiled pieces that keep their results in vector registers, written as instructions of LLVM.

LLVM does not find this form by itself: it would load and store a result for every product. A tile has up to
``TILE_ROWS`` rows of the result and up to two vectors of its columns: twelve accumulators, which hide the latency of
the multiplier and fit into the sixteen registers of AVX2. Products and sums are fused where the processor can; the
order of the operations is fixed, so results have the same bits in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

TILE_ROWS = 6
_FUSED = ("contract", "nsz")
_INDEX = ir.IntType(64)


def _find_vector_bytes() -> int:
    """Return the width of a vector register for which numba compiles."""
    try:
        names = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
    except RuntimeError:  # the platform does not tell
        names = ""
    return 64 if "+avx512f" in names.split(",") else 32


VECTOR_BYTES = _find_vector_bytes()


class Matrix:
    """An array argument of an intrinsic: addresses of its elements, vectors of them."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        item = np.dtype(kind.dtype.name).itemsize
        self.lanes = VECTOR_BYTES // item
        self.vector = ir.VectorType(self.data.type.pointee, self.lanes)
        self.item = item
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        self.row_items = builder.sdiv(stride, ir.Constant(_INDEX, item))

    def at(self, row: Any, column: Any = None) -> Any:
        """Return the address of an element."""
        place = self.builder.mul(row, self.row_items)
        return self.builder.gep(self.data, [place if column is None else self.builder.add(place, column)])

    def place(self, address: Any, number: int) -> Any:
        """Return the address of the vector with this number, counted from an address."""
        moved = self.builder.gep(address, [ir.Constant(_INDEX, number * self.lanes)])
        return self.builder.bitcast(moved, self.vector.as_pointer())

    def load(self, address: Any, number: int) -> Any:
        """Load the vector with this number, counted from an address."""
        return self.builder.load(self.place(address, number), align=self.item)

    def store(self, vector: Any, address: Any, number: int) -> None:
        """Store a vector in the place with this number, counted from an address."""
        self.builder.store(vector, self.place(address, number), align=self.item)

    def splat(self, scalar: Any) -> Any:
        """Return a vector that holds a scalar in every lane."""
        empty = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(
            first, empty, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        )


def emit_loop(
    builder: Any, count: Any, carried: list[Any], body_of: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Emit a loop of ``count`` steps and return its last values; ``body_of(step, values)`` returns the next ones."""
    before = builder.block
    head, body, end = (builder.append_basic_block(name) for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    step = builder.phi(_INDEX)
    step.add_incoming(ir.Constant(_INDEX, 0), before)
    values = []
    for value in carried:
        values.append(builder.phi(value.type))
        values[-1].add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", step, count), body, end)
    builder.position_at_end(body)
    handed_on = body_of(step, values)
    step.add_incoming(builder.add(step, ir.Constant(_INDEX, 1)), builder.block)
    for value, new in zip(values, handed_on, strict=True):
        value.add_incoming(new, builder.block)
    builder.branch(head)
    builder.position_at_end(end)
    return values


def _accumulate(
    builder: Any, count: Any, start: list[Any], products: Callable[[Any], list[tuple[Any, Any]]]
) -> list[Any]:
    """Emit a loop of ``count`` steps i that adds ``a * b`` to each accumulator, for the pairs of ``products(i)``."""

    def add(step: Any, sums: list[Any]) -> list[Any]:
        return [
            builder.fadd(builder.fmul(a, b, flags=_FUSED), total, flags=_FUSED)
            for (a, b), total in zip(products(step), sums, strict=True)
        ]

    return emit_loop(builder, count, start, add)


def make_dot_tile(rows: int) -> Any:
    """Return the tile of :func:`~.products.multiply_group` for this number of rows of the result."""

    @intrinsic
    def dot_tile(_, weights, chosen, first, group, n_terms, out, column):  # type: ignore[no-untyped-def]
        signature = types.void(weights, chosen, first, group, n_terms, out, column)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            w, picked, phi, result = (
                Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 3, 5)
            )
            slots = [builder.add(arguments[2], ir.Constant(_INDEX, i)) for i in range(rows)]
            sources = [w.at(builder.load(builder.gep(picked.data, [slot]))) for slot in slots]

            def multiply(step):  # type: ignore[no-untyped-def]
                address = phi.at(step)
                vectors = [phi.load(address, v) for v in range(2)]
                scalars = [phi.splat(builder.load(builder.gep(source, [step]))) for source in sources]
                return [(scalar, vector) for scalar in scalars for vector in vectors]

            zero = ir.Constant(phi.vector, [0.0] * phi.lanes)
            sums = _accumulate(builder, arguments[4], [zero] * (2 * rows), multiply)
            for i, slot in enumerate(slots):
                target = result.at(slot, arguments[6])
                for v in range(2):
                    result.store(sums[2 * i + v], target, v)
            return context.get_dummy_value()

        return signature, generate

    return dot_tile


def make_sum_tile(rows: int, vectors: int) -> Any:
    """Return the tile of :func:`~.products.add_products` for these numbers of rows and vectors of the result."""

    @intrinsic
    def sum_tile(_, shares, chosen, first, features, n_rows, totals, column):  # type: ignore[no-untyped-def]
        signature = types.void(shares, chosen, first, features, n_rows, totals, column)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            r, picked, phi, result = (
                Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 3, 5)
            )
            slots = [builder.add(arguments[2], ir.Constant(_INDEX, i)) for i in range(rows)]
            targets = [result.at(builder.load(builder.gep(picked.data, [slot])), arguments[6]) for slot in slots]
            sources = [r.at(slot) for slot in slots]

            def multiply(step):  # type: ignore[no-untyped-def]
                address = phi.at(step, arguments[6])
                loaded = [phi.load(address, v) for v in range(vectors)]
                scalars = [phi.splat(builder.load(builder.gep(source, [step]))) for source in sources]
                return [(scalar, vector) for scalar in scalars for vector in loaded]

            start = [result.load(target, v) for target in targets for v in range(vectors)]
            sums = _accumulate(builder, arguments[4], start, multiply)
            for i, target in enumerate(targets):
                for v in range(vectors):
                    result.store(sums[vectors * i + v], target, v)
            return context.get_dummy_value()

        return signature, generate

    return sum_tile


@intrinsic
def transpose_tile(_, source, row, column, target, target_row, target_column):  # type: ignore[no-untyped-def]
    """Copy a square of the source, as wide as a vector, to a place of the target, transposed."""
    signature = types.void(source, row, column, target, target_row, target_column)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, b = (Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 3))
        n = a.lanes

        def row_of(matrix: Matrix, first: Any, number: int, place: Any) -> Any:
            return matrix.at(builder.add(first, ir.Constant(_INDEX, number)), place)

        values = [a.load(row_of(a, arguments[1], i, arguments[2]), 0) for i in range(n)]
        width = 1
        while width < n:
            # Exchanges the off-diagonal squares of this width within all squares of twice the width.
            low = [j if not j & width else j - width + n for j in range(n)]
            high = [j + width if not j & width else j + n for j in range(n)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), n), m) for m in (low, high)]
            exchanged = list(values)
            for i in range(n):
                if not i & width:
                    pair = values[i], values[i + width]
                    exchanged[i] = builder.shuffle_vector(*pair, masks[0])
                    exchanged[i + width] = builder.shuffle_vector(*pair, masks[1])
            values, width = exchanged, 2 * width
        for i in range(n):
            b.store(values[i], row_of(b, arguments[4], i, arguments[5]), 0)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def product_tile(_, group, factor, first, count, target):  # type: ignore[no-untyped-def]
    """Fill rows from ``target`` on with the products of the row ``factor`` and ``count`` rows from ``first`` on."""
    signature = types.void(group, factor, first, count, target)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows = Matrix(context, builder, signature.args[0], arguments[0])
        _, factor, first, count, target = arguments
        factors = [rows.load(rows.at(factor), v) for v in range(2)]

        def multiply(step, _):  # type: ignore[no-untyped-def]
            source, place = rows.at(builder.add(first, step)), rows.at(builder.add(target, step))
            for v in range(2):
                rows.store(builder.fmul(factors[v], rows.load(source, v)), place, v)
            return []

        emit_loop(builder, count, [], multiply)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_tile(_, source, column, count, target, first):  # type: ignore[no-untyped-def]
    """Copy two vectors of each of ``count`` rows, from a column on, to the rows of the target from ``first`` on."""
    signature = types.void(source, column, count, target, first)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, b = (Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 3))
        _, column, count, _, first = arguments

        def copy(step, _):  # type: ignore[no-untyped-def]
            origin, place = a.at(step, column), b.at(builder.add(first, step))
            for v in range(2):
                b.store(a.load(origin, v), place, v)
            return []

        emit_loop(builder, count, [], copy)
        return context.get_dummy_value()

    return signature, generate
