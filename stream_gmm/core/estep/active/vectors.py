"""Loops over the components of a group of rows, with one lane of a vector register for each row."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stream_gmm.core.estep.tiles.vectors import Matrix, emit_loop

_INDEX, _REAL = ir.IntType(64), ir.DoubleType()


@intrinsic
def find_highest(_, matrix, count, top, best):  # type: ignore[no-untyped-def]
    """Fill ``top (rows,)`` with the highest of the first ``count`` values of each column, ``best`` with its place.

    ``top`` is at least what it holds before; then ``best`` is -1.
    """
    signature = types.void(matrix, count, top, best)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, highest, places = (Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 3))
        start = [highest.load(highest.data, v) for v in range(2)]
        none = ir.Constant(values.vector, [-1.0] * values.lanes)

        def compare(step: Any, carried: list[Any]) -> list[Any]:
            number, address = values.splat(builder.sitofp(step, _REAL)), values.at(step)
            tops, bests = carried[:2], carried[2:]
            for v in range(2):
                value = values.load(address, v)
                higher = builder.fcmp_ordered(">", value, tops[v])
                tops[v] = builder.select(higher, value, tops[v])
                bests[v] = builder.select(higher, number, bests[v])
            return [*tops, *bests]

        last = emit_loop(builder, arguments[1], [*start, none, none], compare)
        for v in range(2):
            highest.store(last[v], highest.data, v)
            places.store(last[2 + v], places.data, v)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def find_possible(_, coordinates, log_norm, half, count, floor, active):  # type: ignore[no-untyped-def]
    """Fill ``active`` with the numbers c whose ``log_norm[c] - half * coordinates[c] ** 2`` reaches ``floor``.

    In one lane it must; how many do is returned.
    """
    signature = types.int64(coordinates, log_norm, half, count, floor, active)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, norms, floors, found = (
            Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 4, 5)
        )
        lowest = [floors.load(floors.data, v) for v in range(2)]
        half = values.splat(builder.fneg(arguments[2]))

        def compare(step: Any, carried: list[Any]) -> list[Any]:
            address, norm = values.at(step), values.splat(builder.load(builder.gep(norms.data, [step])))
            reached = []
            for v in range(2):
                value = values.load(address, v)
                bound = builder.fadd(norm, builder.fmul(half, builder.fmul(value, value)))
                reached.append(builder.fcmp_unordered(">=", bound, lowest[v]))
            lanes = builder.bitcast(builder.or_(*reached), ir.IntType(values.lanes))
            some = builder.icmp_unsigned("!=", lanes, ir.Constant(ir.IntType(values.lanes), 0))
            builder.store(step, builder.gep(found.data, carried))
            return [builder.add(carried[0], builder.zext(some, _INDEX))]

        return emit_loop(builder, arguments[3], [ir.Constant(_INDEX, 0)], compare)[0]

    return signature, generate


_POLYNOMIAL = (
    2.7626357241447223e-07, 2.764018079620985e-06, 2.4801504346997686e-05, 0.00019841170270440067,
    0.0013888888932488599, 0.008333333385667782, 0.04166666666657314, 0.16666666666554406, 0.5000000000000006,
    1.0000000000000067, 1.0,
)  # fmt: skip
_FUSED = ("contract", "nsz")


def _emit_exp(builder: Any, x: Any) -> Any:
    """Emit ``exp(x)`` of a vector of float64, as :func:`~stream_gmm.core.estep.kernels.exp_nonpositive` takes it."""
    lanes = x.type.count
    whole_numbers = ir.VectorType(_INDEX, lanes)

    def constant(value: float) -> Any:
        return ir.Constant(x.type, [value] * lanes)

    def fma(a: Any, b: Any, c: Any) -> Any:
        return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)

    inside = builder.fcmp_ordered(">", x, constant(-230.0))
    value = builder.select(inside, x, constant(-230.0))
    shifted = fma(value, constant(1.4426950408889634), constant(6755399441055744.0))
    whole = builder.fsub(shifted, constant(6755399441055744.0))
    rest = fma(whole, constant(-0.6931471803691238), value)
    rest = fma(whole, constant(-1.9082149292705877e-10), rest)
    power = constant(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power = fma(power, rest, constant(coefficient))
    bias, exponent = (ir.Constant(whole_numbers, [v] * lanes) for v in (1023, 52))
    scale = builder.shl(builder.add(builder.bitcast(shifted, whole_numbers), bias), exponent)
    return builder.select(inside, builder.fmul(power, builder.bitcast(scale, x.type)), constant(0.0))


@intrinsic
def exponentiate(_, logp, count, top, total, least, active):  # type: ignore[no-untyped-def]
    """Replace log-densities by ``exp(logp - top)``, add them to ``total``, and drop components below ``least``.

    Of the first ``count`` rows of ``logp`` those are kept, at its top, which reach ``least`` in some lane; so are
    their numbers in ``active``. How many were kept is returned.
    """
    signature = types.int64(logp, count, top, total, least, active)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, highest, totals, found = (
            Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 3, 5)
        )
        tops = [highest.load(highest.data, v) for v in range(2)]
        least = values.splat(arguments[4])

        def step_of(step: Any, carried: list[Any]) -> list[Any]:
            kept, sums = carried[0], carried[1:]
            source, target = values.at(step), values.at(kept)
            powers = [_emit_exp(builder, builder.fsub(values.load(source, v), tops[v])) for v in range(2)]
            reached = [builder.fcmp_ordered(">=", power, least) for power in powers]
            lanes = builder.bitcast(builder.or_(*reached), ir.IntType(values.lanes))
            some = builder.icmp_unsigned("!=", lanes, ir.Constant(ir.IntType(values.lanes), 0))
            for v in range(2):
                values.store(powers[v], target, v)
            number = builder.load(builder.gep(found.data, [step]))
            builder.store(number, builder.gep(found.data, [kept]))
            sums = [builder.fadd(s, p) for s, p in zip(sums, powers, strict=True)]
            return [builder.add(kept, builder.zext(some, _INDEX)), *sums]

        start = [totals.load(totals.data, v) for v in range(2)]
        last = emit_loop(builder, arguments[1], [ir.Constant(_INDEX, 0), *start], step_of)
        for v in range(2):
            totals.store(last[1 + v], totals.data, v)
        return last[0]

    return signature, generate


@intrinsic
def scale_rows(_, values, count, factors):  # type: ignore[no-untyped-def]
    """Multiply each of the first ``count`` rows of ``values`` by ``factors (rows,)``."""
    signature = types.void(values, count, factors)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows, scale = (Matrix(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        loaded = [scale.load(scale.data, v) for v in range(2)]

        def multiply(step: Any, _: list[Any]) -> list[Any]:
            address = rows.at(step)
            for v in range(2):
                rows.store(builder.fmul(rows.load(address, v), loaded[v]), address, v)
            return []

        emit_loop(builder, arguments[1], [], multiply)
        return context.get_dummy_value()

    return signature, generate
