"""What a formula says: the outcome, terms of the fixed part, offsets, and terms that differ by group. Imports grammar.

A term is a set of factors whose columns are multiplied; the intercept is the term without any. Wilkinson & Rogers
(1973), Applied Statistics 22; Chambers & Hastie (1992), Statistical Models in S, ch. 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from probinfer.model.formula.grammar import Binary, Call, Name, Node, Number, Signed, Source, parse, words

_MOST_TERMS = 2_000


@dataclass(frozen=True)
class Term:
    """Factors in the order of their writing. Two terms of the same factors are the same."""

    factors: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """As it is called in a posterior."""
        return ":".join(words(factor) for factor in self.factors) if self.factors else "Intercept"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and frozenset(self.factors) == frozenset(other.factors)

    def __hash__(self) -> int:
        return hash(frozenset(self.factors))

    def times(self, other: "Term") -> "Term":
        """The interaction."""
        return Term((*self.factors, *(factor for factor in other.factors if factor not in self.factors)))


INTERCEPT = Term()


@dataclass(frozen=True)
class GroupTerm:
    """(terms | group): coefficients that each level of the group has for itself. `group`: columns whose combinations
    are the levels. `correlated`: written with `|`, not `||`."""

    terms: tuple[Term, ...]
    group: tuple[str, ...]
    correlated: bool
    at: int

    @property
    def name(self) -> str:
        """Of the group. A column that has a colon in its name is in backticks, so that it is no combination."""
        return ":".join(f"`{column}`" if ":" in column else column for column in self.group)


@dataclass(frozen=True)
class Formula:
    """A formula, taken apart. Terms come by the number of their factors, the intercept first if there is one."""

    source: Source
    response: Node
    terms: tuple[Term, ...]
    offsets: tuple[Node, ...]
    groups: tuple[GroupTerm, ...]

    @property
    def intercept(self) -> bool:
        """Whether the fixed part has one."""
        return INTERCEPT in self.terms

    @property
    def effects(self) -> tuple[Term, ...]:
        """The terms of the fixed part without the intercept."""
        return tuple(term for term in self.terms if term != INTERCEPT)

    @property
    def predictors(self) -> tuple[Node, ...]:
        """All factors and offsets that are read, and the groups' columns as names."""
        terms = [*self.terms, *(term for group in self.groups for term in group.terms)]
        factors = [factor for term in terms for factor in term.factors]
        return (*factors, *self.offsets)


def read_formula(text: str) -> Formula:
    """Raises ModelError, with a caret at the place, for a text that says nothing that a model can be made of.

    >>> found = read_formula("y ~ a * b - a + (1 + a | g/h)")
    >>> [term.name for term in found.terms]
    ['Intercept', 'b', 'a:b']
    >>> [(group.name, [term.name for term in group.terms]) for group in found.groups]
    [('g', ['Intercept', 'a']), ('g:h', ['Intercept', 'a'])]
    """
    response, right = parse(text)
    source = Source(text)
    fixed: list[Node | tuple[Node, bool]] = []
    offsets: list[Node] = []
    groups: list[GroupTerm] = []
    for piece, added in _pieces(right):
        if isinstance(piece, Binary) and piece.operator in ("|", "||"):
            if not added:
                source.fail(piece.at, "A group term cannot be taken away; leave it out.")
            groups += _groups(piece, source)
        elif isinstance(piece, Call) and piece.function == "offset":
            if not added or len(piece.arguments) != 1 or piece.options:
                source.fail(piece.at, "An offset is added, and is one column: + offset(log(exposure)).")
            offsets.append(piece.arguments[0])
        else:
            fixed.append((piece, added))
    return Formula(source, response, _summed(fixed, source), tuple(offsets), tuple(groups))


def _groups(piece: Binary, source: Source) -> Iterator[GroupTerm]:
    terms = _summed(list(_pieces(piece.left)), source)
    if not terms:
        source.fail(piece.at, "The group term has no coefficient before `|`; wanted (1 | group) or (x | group).")
    for term in terms:
        for factor in term.factors:
            if isinstance(factor, Call) and factor.function == "offset":
                source.fail(factor.at, "An offset is the same for every group: it stands outside of the parenthesis.")
    for level in _expanded(piece.right, source):
        if not level.factors or not all(isinstance(factor, Name) for factor in level.factors):
            at = level.factors[0].at if level.factors else piece.right.at
            source.fail(at, "After `|` stand columns that hold groups: (1 | county), (1 | school:class).")
        names = tuple(factor.name for factor in level.factors if isinstance(factor, Name))
        yield GroupTerm(terms, names, piece.operator == "|", piece.at)


def _pieces(node: Node, added: bool = True) -> Iterator[tuple[Node, bool]]:
    """What a sum adds (True) and takes away (False), from the left."""
    later: list[tuple[Node, bool]] = []
    while isinstance(node, Binary) and node.operator in ("+", "-"):
        later.append((node.right, added if node.operator == "+" else not added))
        node = node.left
    if isinstance(node, Signed):
        yield from _pieces(node.operand, not added)
    else:
        yield node, added
    for right, kept in reversed(later):
        yield from _pieces(right, kept)


def _summed(pieces: list, source: Source) -> tuple[Term, ...]:
    """The terms of a sum that has an intercept unless it is taken away."""
    found: dict[Term, None] = {INTERCEPT: None}
    for piece, added in pieces:
        if isinstance(piece, Number):
            if piece.value not in (0.0, 1.0):
                source.fail(piece.at, f"A number among the terms is 1, the intercept, or 0, none; came {words(piece)}.")
            keep = (piece.value == 1.0) is added
            found = ({INTERCEPT: None} if keep else {}) | {t: None for t in found if t != INTERCEPT}
            continue
        terms = _expanded(piece, source)
        for term in terms:
            if added:
                found.setdefault(term)
            else:
                found.pop(term, None)
        if len(found) > _MOST_TERMS:
            source.fail(piece.at, f"The formula has more than {_MOST_TERMS} terms.")
    return tuple(sorted(found, key=lambda term: len(term.factors)))


def _expanded(node: Node, source: Source) -> list[Term]:
    """The terms that a part of the formula stands for."""
    if isinstance(node, Number):
        if node.value != 1.0:
            source.fail(node.at, f"{words(node)} has no meaning there. A number is 1 or 0, added to the terms.")
        return [INTERCEPT]
    if isinstance(node, Name):
        return [Term((node,))]
    if isinstance(node, Call):
        if node.function == "offset":
            source.fail(node.at, "An offset is a term of its own: + offset(log(exposure)).")
        return [Term((node,))]
    if isinstance(node, Signed) or node.operator == "-":
        source.fail(node.at, "`-` takes terms away from the whole formula, not inside of parentheses or products.")
    if node.operator in ("|", "||"):
        source.fail(node.at, "A group term is added to the others: ... + (1 | county).")
    if node.operator == "**":
        return _power(node, source)
    left, right = _expanded(node.left, source), _expanded(node.right, source)
    if node.operator == "+":
        return _unique([*left, *right])
    if node.operator == "/":
        within = Term(tuple(dict.fromkeys(factor for term in left for factor in term.factors)))
        return _unique([*left, *(within.times(term) for term in right)])
    products = [one.times(other) for one in left for other in right]
    return _unique(products if node.operator == ":" else [*left, *right, *products])


def _power(node: Binary, source: Source) -> list[Term]:
    power = node.right.value if isinstance(node.right, Number) else 0.0
    if power < 1 or power != int(power):
        source.fail(
            node.right.at, "The power of a sum of terms is a whole number: (a + b + c)**2. Squares are I(x**2)."
        )
    terms = _expanded(node.left, source)
    if len(terms) == 1 and power > 1:
        name = words(node.left)
        source.fail(node.at, f"{name}**{power:g} is {name} alone: ** is for interactions. Its square is I({name}**2).")
    found = []
    for size in range(1, min(int(power), len(terms)) + 1):
        for chosen in combinations(terms, size):
            product = chosen[0]
            for term in chosen[1:]:
                product = product.times(term)
            found.append(product)
            if len(found) > _MOST_TERMS:
                source.fail(node.at, f"The formula has more than {_MOST_TERMS} terms.")
    return _unique(found)


def _unique(terms: list[Term]) -> list[Term]:
    return list(dict.fromkeys(terms))
