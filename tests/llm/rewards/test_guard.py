"""What an answer may do when it is evaluated, and what a verifier process may do at all."""

import signal
import subprocess
import sys
import time

import pytest

from r2vpo.llm.rewards.verifier.guarded_eval import UnsafeExpression, check_symbolic, guarded_eval

ATTACKS = [
    "__import__('os').system('touch {path}')",
    "open('{path}', 'w')",
    "[].__class__.__base__.__subclasses__()",
    "(lambda: 0)()",
    "[x for x in (1, 2)]",
    "exec('1')",
    "eval('1')",
    "getattr(1, 'real')",
    "f'{{1}}'",
    "(1).__class__",
    "[1][0]",
    "x if 1 else 2",
    "*x",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_literal_evaluation_refuses_everything_else(attack, tmp_path):
    path = tmp_path / "made"
    with pytest.raises((UnsafeExpression, SyntaxError)):
        guarded_eval(attack.format(path=path))
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[0, 1], [1, 0]]", [[0, 1], [1, 0]]),
        ("['a', 'b']", ["a", "b"]),
        ("(0x1f + 3) << 1", 68),
        (" {1: -2} ", {1: -2}),
    ],
)
def test_literals_and_arithmetic_are_evaluated(text, value):
    assert guarded_eval(text) == value


def test_compiled_code_is_refused():
    with pytest.raises(UnsafeExpression):
        guarded_eval(compile("1", "", "eval"))


SYMPY_ATTACKS = [
    "__import__('os').system('touch {path}')",
    "open('{path}', 'w')",
    "exec(\"open('{path}', 'w')\")",
    "sympify(\"open('{path}', 'w')\")",
    "S(\"open('{path}', 'w')\")",
    "lambdify(x, 'x')",
    "preview(x)",
    "x.subs(x, 1)",
    "Integer(open('{path}', 'w'))",
    "Symbol(open('{path}', 'w'))",
    "Function(open('{path}', 'w'))(1)",
    "sin(open('{path}', 'w'))",
    "sin(evaluate=open('{path}', 'w'))",
    "sin(*[open('{path}', 'w')])",
    "f(x)(open('{path}', 'w'))",
    "[x for x in (1, 2)]",
    "(lambda: 0)()",
    "'text'",
    "x[open('{path}', 'w')]",
]


@pytest.fixture
def guarded_parser(monkeypatch):
    parser = pytest.importorskip("sympy.parsing.sympy_parser")
    from r2vpo.llm.rewards.verifier.guarded_eval import guard_sympy

    monkeypatch.setattr(parser, "stringify_expr", parser.stringify_expr)  # restored after the test
    guard_sympy()
    return parser


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("attack", SYMPY_ATTACKS)
def test_sympy_evaluates_no_attack(guarded_parser, attack, evaluate, tmp_path):
    path = tmp_path / "made"
    with pytest.raises((UnsafeExpression, SyntaxError)):
        guarded_parser.parse_expr(attack.format(path=path), evaluate=evaluate)
    assert not path.exists()


def test_strings_that_sympy_converts_on_its_own_are_checked_too(guarded_parser, tmp_path):
    import sympy

    path = tmp_path / "made"
    with pytest.raises((UnsafeExpression, sympy.SympifyError)):
        sympy.sympify(f"open('{path}', 'w')")
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["2*x**2 + 3*x*y - 1/3", "sin(x)**2 + sqrt(pi)", "5!", "f(x) + C", "Max(1, x)", "1.5e3", "x < 2"]
)
@pytest.mark.parametrize("evaluate", [True, False])
def test_sympy_still_evaluates_mathematics(guarded_parser, text, evaluate):
    import sympy

    assert isinstance(
        guarded_parser.parse_expr(text, local_dict={"C": sympy.Symbol("C")}, evaluate=evaluate), sympy.Basic
    )


def test_symbols_of_the_caller_are_known():
    check_symbolic("Integer (2 )*C", {"C": object()})
    with pytest.raises(UnsafeExpression, match="'C'"):
        check_symbolic("Integer (2 )*C", {})


def confined(code, memory_bytes=2**30):
    setup = "import os, socket, subprocess\nfrom r2vpo.llm.rewards.verifier.confinement import confine, die_after\n"
    setup += f"confine({memory_bytes})\n"
    return subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "os.system('touch {path}')",
        "open('{path}', 'w')",
        "open('{path}', 'a')",
        "open('{path}', 'x')",
        "os.open('{path}', os.O_CREAT | os.O_WRONLY)",
        "os.mkdir('{path}')",
        "os.symlink('/', '{path}')",
        "subprocess.run(['touch', '{path}'])",
        "os.posix_spawnp('touch', ['touch', '{path}'], os.environ)",
        "os.execvp('touch', ['touch', '{path}'])",
        "os.fork()",
        "socket.create_connection(('127.0.0.1', 9))",
        "os.kill(os.getppid(), 0)",
    ],
)
def test_a_confined_process_changes_nothing(code, tmp_path):
    path = tmp_path / "made"
    result = confined(code.format(path=path))
    assert "PermissionError" in result.stderr, result.stderr
    assert not path.exists()


def test_a_confined_process_can_read_and_compute():
    assert confined("open(os.__file__).read(); print(2**64)").stdout == f"{2**64}\n"


def test_memory_is_limited():
    assert "MemoryError" in confined("bytearray(2**31)").stderr


def test_the_kernel_ends_a_computation_that_never_returns_to_python():
    start = time.perf_counter()
    result = confined("die_after(0.5); 9 ** 9 ** 9")
    assert result.returncode != 0
    assert time.perf_counter() - start < 15.0


def test_a_worker_leaves_after_it_ran_out_of_memory():
    """Its reply says so, so that the parent gives it nothing more."""
    from r2vpo.llm.rewards.verifier.worker import serve

    def check(outcome):
        if outcome == "memory":
            raise MemoryError
        if outcome == "error":
            raise ValueError("a" * 1000)
        return 1

    replies = []
    lines = [
        b'{"check": "c", "arguments": {"outcome": "%s"}}\n' % outcome
        for outcome in (b"good", b"error", b"memory", b"good")
    ]
    lines.insert(0, b"not json\n")
    serve(lines, replies.append, {"c": check}, seconds=60.0)
    assert [sorted(reply) for reply in replies] == [["error"], ["value"], ["error"], ["error", "leaving"]]
    assert len(replies[2]["error"]) <= 200
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # a timer left behind would end this process later
