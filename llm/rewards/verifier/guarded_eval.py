"""What may be evaluated of a model's answer: arithmetic, literals, and the mathematics of SymPy, by name.

SymPy's ``parse_expr`` (also behind ``sympify`` of a string) and four verifiers of reasoning-gym hand text to Python's
``eval``. In a verifier process both go through the checks below first, which read the syntax tree and refuse every
node that is not listed: attributes, subscripts, comprehensions, lambdas and calls of anything but the named functions.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from typing import Any

_CONSTRUCTORS = "Integer Float Rational Symbol Function"
_CONSTANTS = "pi E I oo zoo nan GoldenRatio EulerGamma Catalan"
_FUNCTIONS = """
    sin cos tan cot sec csc asin acos atan atan2 acot asec acsc sinh cosh tanh coth sech csch asinh acosh atanh acoth
    asech acsch exp log ln sqrt cbrt root Abs abs sign floor ceiling factorial factorial2 binomial gamma Mod
    Max Min max min pow round Add Mul Pow erf erfc erfi Ei Si Ci li re im conjugate Eq Ne Lt Le Gt Ge Tuple
"""
CONSTRUCTORS = frozenset(_CONSTRUCTORS.split())
"""What SymPy's tokenizer wraps numbers and names in; only these take strings."""
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Functions an expression may call."""
CONSTANTS = frozenset(_CONSTANTS.split())
"""Names an expression may read besides its own symbols."""

_NODES = (
    *(ast.Expression, ast.Constant, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.Load),
    *(ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop, ast.Tuple, ast.List, ast.Set, ast.Dict),
)


class UnsafeExpression(ValueError):
    """Text that would do more than compute a value."""


def guarded_eval(source: Any, *scopes: Any) -> Any:
    """``eval`` for literals and arithmetic on them; no name can be read and nothing called.

    Raises:
        UnsafeExpression: Anything else.
        SyntaxError: Not an expression.
    """
    if not isinstance(source, str):
        raise UnsafeExpression(f"only text can be evaluated, got {type(source).__name__}")
    tree = ast.parse(source.strip(), mode="eval")
    for node in ast.walk(tree):
        _check_node(node)
    return eval(compile(tree, "<answer>", "eval"), {"__builtins__": {}})


def check_symbolic(code: str, symbols: Mapping[Any, Any]) -> None:
    """Raise unless code from SymPy's ``stringify_expr`` only combines numbers, symbols and known functions.

    Args:
        code: Python source, in which SymPy has already wrapped numbers and unknown names.
        symbols: Names the caller of ``parse_expr`` defined itself.

    Raises:
        UnsafeExpression: Another call, a name that is none of those, an attribute, a subscript, a string.
    """
    _Symbolic(symbols).visit(ast.parse(code.strip(), mode="eval"))


class _Symbolic(ast.NodeVisitor):
    def __init__(self, symbols: Mapping[Any, Any]) -> None:
        self.symbols = symbols

    def generic_visit(self, node: ast.AST) -> None:
        _check_node(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            raise UnsafeExpression("a string")
        super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id not in CONSTANTS and node.id not in self.symbols:
            raise UnsafeExpression(f"the name {node.id!r}")

    def visit_Call(self, node: ast.Call) -> None:
        if node.keywords:
            raise UnsafeExpression("a keyword argument")
        if _is_call_of(node, CONSTRUCTORS):
            if not all(isinstance(argument, ast.Constant) for argument in node.args):
                raise UnsafeExpression("a constructor of something that is not a constant")
            return
        named_function = isinstance(node.func, ast.Call) and _is_call_of(node.func, frozenset({"Function"}))
        if named_function:
            self.visit(node.func)
        elif not _is_call_of(node, FUNCTIONS):
            raise UnsafeExpression("a call of something that is not a known function")
        for argument in node.args:
            self.visit(argument)


def guard_sympy() -> None:
    """Put :func:`check_symbolic` in front of every evaluation of SymPy's parser in this process."""
    import sympy.parsing.sympy_parser as parser

    stringify: Callable[..., str] = parser.stringify_expr

    def checked(text: str, local_dict: dict[Any, Any], *rest: Any) -> str:
        code = stringify(text, local_dict, *rest)
        check_symbolic(code, local_dict)
        return code

    parser.stringify_expr = checked


def guard_reasoning_gym() -> None:
    """Replace ``eval`` in every loaded module of reasoning-gym by :func:`guarded_eval`."""
    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            module.eval = guarded_eval  # type: ignore[attr-defined]


def _check_node(node: ast.AST) -> None:
    if not isinstance(node, _NODES):
        raise UnsafeExpression(f"a {type(node).__name__}")


def _is_call_of(node: ast.Call, names: frozenset[str]) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in names
