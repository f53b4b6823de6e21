"""A formula's text as a tree: tokens, precedences, and where in the text a mistake is. Imports nothing but errors.

The operators bind as in R, the loosest first: `~`, `|`, `+ -`, `* /`, `:`, a sign, `**` (or `^`). Nothing of the text
is ever evaluated: names and numbers are looked up by what reads the tree.
"""

import re
from dataclasses import dataclass, field
from typing import NoReturn

from probinfer.errors import ModelError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|`(?P<quoted>[^`]+)`"
    r"|(?P<sign>\*\*|\|\||[-~+*/:^()|,=]))"
)
_BINDS = {"|": 1, "||": 1, "+": 2, "-": 2, "*": 3, "/": 3, ":": 4, "**": 6}
_SIGN_BINDS = 5
_MOST_DEPTH = 50


@dataclass(frozen=True)
class Number:
    """A number as it is written."""

    value: float
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Name:
    """A column."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Call:
    """A function of arguments; `options` those that have a name."""

    function: str
    arguments: "tuple[Node, ...]"
    options: "tuple[tuple[str, Node], ...]" = ()
    at: int = field(default=0, compare=False)

    @property
    def named(self) -> "dict[str, Node]":
        """The options as a mapping."""
        return dict(self.options)


@dataclass(frozen=True)
class Signed:
    """A `-` before something; a `+` there says nothing."""

    operand: "Node"
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Binary:
    """An operator between two; `at` is where it stands."""

    operator: str
    left: "Node"
    right: "Node"
    at: int = field(default=0, compare=False)


type Node = Number | Name | Call | Signed | Binary


@dataclass(frozen=True)
class Source:
    """The text of a formula, for errors that point at a place in it."""

    text: str

    def fail(self, at: int, what: str) -> NoReturn:
        """Raise ModelError with the formula and a caret below the place."""
        shown = re.sub(r"\s", " ", self.text)
        raise ModelError(f"{what}\n  {shown}\n  {' ' * min(at, len(shown))}^")


def parse(text: str) -> tuple[Node, Node]:
    """The trees on both sides of the `~`.

    Raises ModelError, with a caret at the place, for what is no formula.

    >>> parse("y ~ x + log(z)")[1]
    Binary(operator='+', left=Name(name='x', at=4), right=Call(function='log', arguments=(Name(name='z', at=12),), options=(), at=8), at=6)
    """  # noqa: E501
    if not isinstance(text, str):
        raise ModelError(f"The formula came as {type(text).__name__}; wanted a text such as 'y ~ x + (1 | group)'.")
    reader = _Reader(Source(text))
    if reader.sign == "~":
        reader.fail("The formula has nothing before `~`; wanted the outcome there: 'y ~ x'.")
    left = reader.expression(0)
    if reader.sign != "~":
        if reader.ended:
            reader.fail("The formula has no `~`; wanted the outcome before it and the predictors after: 'y ~ x'.")
        reader.fail(f"The formula has {reader.shown} where `~` was expected.")
    reader.step()
    if reader.ended:
        reader.fail("The formula has nothing after `~`; wanted predictors there, or 1 for an intercept alone.")
    right = reader.expression(0)
    if not reader.ended:
        hint = " A formula has one `~`." if reader.sign == "~" else ""
        reader.fail(f"The formula has {reader.shown} where an operator or its end was expected.{hint}")
    return left, right


def words(node: Node, outer: int = 0) -> str:
    """The tree as text again, the same for the same tree however it was spaced.

    >>> words(parse("y~I( (a+b)**2 )")[1])
    'I((a + b)**2)'
    """
    if isinstance(node, Number):
        return f"{node.value:.12g}"
    if isinstance(node, Name):
        return node.name if re.fullmatch(r"[^\W\d]\w*", node.name) else f"`{node.name}`"
    if isinstance(node, Call):
        given = [words(one) for one in node.arguments] + [f"{name}={words(one)}" for name, one in node.options]
        return f"{node.function}({', '.join(given)})"
    if isinstance(node, Signed):
        text = f"-{words(node.operand, _SIGN_BINDS)}"
        return f"({text})" if outer > _SIGN_BINDS else text
    binds = _BINDS[node.operator]
    gap = "" if node.operator in ("**", ":") else " "
    sides = (binds + 1, binds) if node.operator == "**" else (binds, binds + 1)
    text = f"{words(node.left, sides[0])}{gap}{node.operator}{gap}{words(node.right, sides[1])}"
    return f"({text})" if outer > binds else text


class _Reader:
    """Walks over the tokens; one is looked at, `step` goes on to the next."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._parentheses = self._calls = self._depth = 0
        self._next = 0
        self.step()

    def step(self) -> None:
        rest = self.source.text[self._next :]
        self.ended = not rest.strip()
        if self.ended:
            self.kind, self.value, self.at = "end", "", len(self.source.text.rstrip())
            return
        match = _TOKEN.match(self.source.text, self._next)
        if match is None:
            at = self._next + len(rest) - len(rest.lstrip())
            odd = self.source.text[at]
            hint = " Names that are no words stand between backticks: `price per m2`." if odd not in "'\"" else (
                " There are no texts in a formula; the order of levels is said by levels=."
            )  # fmt: skip
            self.source.fail(at, f"The formula has {odd!r}, which means nothing there.{hint}")
        self.kind = str(match.lastgroup)
        self.value = match[self.kind]
        self.at = match.start(self.kind) - (self.kind == "quoted")
        self._next = match.end()
        if self.value == "^":
            self.value = "**"

    @property
    def sign(self) -> str:
        return self.value if self.kind == "sign" else ""

    @property
    def shown(self) -> str:
        return "its end" if self.ended else f"`{self.value}`"

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        self.source.fail(self.at if at is None else at, what)

    def expression(self, least: int) -> Node:
        """All that binds tighter than `least`."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            self.fail(f"The formula is nested more than {_MOST_DEPTH} deep.")
        node = self._operand()
        while (operator := self.sign) in _BINDS and _BINDS[operator] > least:
            at = self.at
            if operator in ("|", "||", ":") and self._calls:
                self.fail(f"`{operator}` has no meaning inside a function, where +, -, *, / and ** are arithmetic.")
            if operator in ("|", "||") and not self._parentheses:
                self.fail("A group term stands in parentheses: (1 + x | county).")
            self.step()
            binds = _BINDS[operator]
            node = Binary(operator, node, self.expression(binds - 1 if operator == "**" else binds), at)
        self._depth -= 1
        return node

    def _operand(self) -> Node:
        at, value = self.at, self.value
        if self.kind == "number":
            self.step()
            return Number(float(value), at)
        if self.kind in ("name", "quoted"):
            quoted = self.kind == "quoted"
            self.step()
            return self._call(value, at) if self.sign == "(" and not quoted else Name(value, at)
        if self.sign in ("-", "+"):
            self.step()
            operand = self.expression(_SIGN_BINDS)
            return Signed(operand, at) if value == "-" else operand
        if self.sign == "(":
            self.step()
            self._parentheses += 1
            node = self.expression(0)
            self._close(at)
            self._parentheses -= 1
            return node
        self.fail(f"The formula has {self.shown} where a column, a number or a parenthesis was expected.")

    def _call(self, function: str, at: int) -> Node:
        opened = self.at
        self.step()
        self._calls += 1
        arguments: list[Node] = []
        options: list[tuple[str, Node]] = []
        while self.sign != ")":
            node = self.expression(0)
            if self.sign == "=" and isinstance(node, Name):
                self.step()
                options.append((node.name, self.expression(0)))
            elif options:
                self.fail(f"{function}() has an argument without a name after one that has a name.", node.at)
            else:
                arguments.append(node)
            if self.sign == ",":
                self.step()
            elif self.sign != ")":
                break
        self._close(opened)
        self._calls -= 1
        return Call(function, tuple(arguments), tuple(options), at)

    def _close(self, opened: int) -> None:
        if self.ended:
            self.fail("This parenthesis is never closed.", opened)
        if self.sign != ")":
            self.fail(f"The formula has {self.shown} where an operator or `)` was expected.")
        self.step()
