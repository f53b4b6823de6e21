"""Which categorical factors of a term keep all their levels, so that no column is implied by others. Imports nothing.

A factor coded in full spans the same as one coded without its first level together with nothing in its place:
a = 1 + a-. So a term stands for the subsets of its categorical factors; those that earlier terms with the same numeric
factors have spanned already are left out, and what is left is put together again into as few products as can be. It is
what R's model.matrix does where that is right, and what it should do elsewhere: `y ~ 1 + a:b` has full rank.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations

Product = dict[Hashable, bool]  # categorical factor: whether it is coded in full


def code_terms(terms: Sequence[tuple[frozenset, tuple]]) -> list[list[Product]]:
    """For each term, given by its numeric and its categorical factors, the products of coded factors that it adds.

    >>> code_terms([(frozenset(), ()), (frozenset(), ("a",)), (frozenset(), ("a", "b"))])  # 1 + a + a:b
    [[{}], [{'a': False}], [{'a': True, 'b': False}]]
    >>> code_terms([(frozenset(), ("a", "b"))])  # 0 + a:b
    [[{'a': True, 'b': True}]]
    """
    spanned: dict[frozenset, set[frozenset]] = {}
    found = []
    for numeric, categorical in terms:
        known = spanned.setdefault(numeric, set())
        subsets = [c for size in range(len(categorical) + 1) for c in combinations(categorical, size)]
        new = [dict.fromkeys(chosen, False) for chosen in subsets if frozenset(chosen) not in known]
        known.update(map(frozenset, subsets))
        while _join(new):
            pass
        found.append(new)
    return found


def _join(products: list[Product]) -> bool:
    """Put one product into another that has one factor more, reduced, which is then coded in full."""
    for i, short in enumerate(products):
        for long in products[i + 1 :]:
            more = [factor for factor in long if factor not in short]
            same = all(factor in long and long[factor] == full for factor, full in short.items())
            if len(more) == 1 and same and not long[more[0]]:
                long[more[0]] = True
                del products[i]
                return True
    return False
