"""How operators print, on scalars and on vectors, in the spelling of a dialect."""

from attrs import frozen

from ..ir.scalar import SHUFFLES, SMALL_FLOATS, Apply, Const, is_float
from .dialects import INFIX, Dialect
from .prelude import Prelude, literal, short_name, stepping_stones, width


@frozen
class Operators:
    """Prints operators; `prelude` collects what they need."""

    prelude: Prelude

    @property
    def dialect(self) -> Dialect:
        """The dialect."""
        return self.prelude.dialect

    def apply(self, node: Apply, args: list[str]) -> str:
        """An operator on operands that are printed already."""
        fn, dtype, lanes = node.fn, node.dtype, node.lanes
        match fn:
            case "cast":
                return self._cast(node, args[0])
            case "bitcast":
                return self._bitcast(node, args[0])
            case "splat":
                return self.splat(f"-({args[0]})" if dtype == "bool" else args[0], dtype, lanes)
            case "select":
                return self._select(node, args)
            case "iota":
                items = ", ".join(map(str, range(lanes)))
                return self.dialect.literal.format(t=self.prelude.type(dtype, lanes), items=items)
            case "async":
                return args[0]
        if fn in SHUFFLES:
            return f"{self.prelude.shuffle(fn, dtype, lanes)}({', '.join(args)})"
        operand = node.args[0].dtype
        if fn in ("isnan", "isinf", "isfinite"):
            return self._test(fn, node, args[0])
        if fn in ("neg", "not"):
            sign = "-" if fn == "neg" else "!" if operand == "bool" and lanes == 1 else "~"
            operand_text = f"({args[0]})" if args[0].startswith("-") else args[0]  # --5 would be a decrement
            return self._narrow(f"({sign}{operand_text})", dtype, lanes)
        if fn in INFIX:
            if operand == "bool" and lanes > 1 and fn in ("lt", "le", "gt", "ge"):
                args = args[::-1]  # true is -1 in a mask: the order of false and true is the other way round
            text = f"({args[0]} {INFIX[fn]} {args[1]})"
            if dtype == "bool" and lanes > 1 and operand != "bool" and width(operand) != 4:
                return self.convert(text, "bool", lanes)
            return self._narrow(text, dtype, lanes)
        if fn in ("max", "min") and isinstance(node.args[1], Const) and node.args[1].value == node.args[1].value:
            fn += "c"
            args = [args[0], literal(node.args[1].value, node.args[1].dtype, self.dialect)]
        return f"{self.prelude.function(fn, operand, lanes, len(args))}({', '.join(args)})"

    def _narrow(self, text: str, dtype: str, lanes: int) -> str:
        """C computes with int at least; small integers must wrap around at their own width."""
        small = lanes == 1 and dtype in ("int8", "int16", "uint8", "uint16")
        return f"(({self.dialect.types[dtype]}){text})" if small else text

    def _test(self, fn: str, node: Apply, arg: str) -> str:
        operand, lanes = node.args[0].dtype, node.lanes
        if not is_float(operand):
            return (
                self.splat("1" if fn == "isfinite" else "0", "bool", lanes) if lanes > 1 else str(int(fn == "isfinite"))
            )
        name = f"fw_{fn}_{short_name(operand, lanes)}"
        ctype, result = self.prelude.type(operand, lanes), self.prelude.type("bool", lanes)
        # a - a is 0 for finite numbers and NaN for all others.
        test = {"isnan": "a != a", "isinf": "(a == a) & ((a - a) != (a - a))", "isfinite": "(a - a) == (a - a)"}[fn]
        if lanes > 1:
            test = self.convert(test, "bool", lanes)
        return f"{self.prelude.helper(name, f'static inline {result} {name}({ctype} a) {{ return {test}; }}')}({arg})"

    def _select(self, node: Apply, args: list[str]) -> str:
        if node.lanes == 1:
            return f"({args[0]} ? {args[1]} : {args[2]})"
        if node.args[0].lanes == 1:
            ctype = self.prelude.type(node.dtype, node.lanes)  # a load has the type of unaligned storage
            return f"({args[0]} ? ({ctype}){args[1]} : ({ctype}){args[2]})"
        return f"{self.prelude.function('select', node.dtype, node.lanes)}({', '.join(args)})"

    def splat(self, text: str, dtype: str, lanes: int) -> str:
        """A scalar in every lane of a vector."""
        return f"{self.prelude.function('splat', dtype, lanes)}({text})"

    def convert(self, text: str, dtype: str, lanes: int) -> str:
        """A vector with elements of another type."""
        return self.dialect.convert.format(x=text, t=self.prelude.type(dtype, lanes))

    def _bitcast(self, node: Apply, arg: str) -> str:
        source, lanes = node.args[0].dtype, node.lanes
        vector, scalar = self.dialect.bitcast
        name = f"fw_bitcast_{short_name(source)}_{short_name(node.dtype)}"
        given = self.prelude.type(source, lanes)
        words = {"t": self.prelude.type(node.dtype, lanes), "x": arg, "source": given, "name": name}
        if lanes > 1 or "{name}" not in scalar:
            return (vector if lanes > 1 else scalar).format(**words)
        return f"{self.prelude.helper(name, scalar.format(**words))}({arg})"

    def _cast(self, node: Apply, arg: str) -> str:
        source, dtype, lanes = node.args[0].dtype, node.dtype, node.lanes
        value = f"(-{arg})" if source == "bool" and lanes > 1 else arg
        if self._is_packed(source, lanes):
            value, source = f"{self.prelude.function('load', source, lanes)}({value})", "float32"
        if source == dtype:
            return value
        if self._is_packed(dtype, lanes):
            value = value if lanes > 1 else f"(float){value}"
            return f"{self.prelude.function('store', dtype, lanes)}({value})"
        if lanes > 1:
            for step in (*stepping_stones(source, dtype), dtype):
                value = self.convert(value, step, lanes)
            return value
        return f"(({self.dialect.types[dtype]}){value})"

    def _is_packed(self, dtype: str, lanes: int) -> bool:
        return dtype in self.dialect.packed or (lanes > 1 and dtype in SMALL_FLOATS)
