"""How results that are a line of text and a table show themselves, in a terminal and in a notebook."""

from html import escape
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import pandas as pd


class Shown:
    """A result with a `_head`, in words, above the table that `to_frame` gives; `_digits` formats the table's numbers.

    Of a dataclass that inherits from it, `repr=False`.
    """

    _digits: ClassVar[str] = "{:.4g}"

    def to_frame(self) -> "pd.DataFrame":
        """The table."""
        raise NotImplementedError

    def _head(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self._head()}\n{self.to_frame().to_string(float_format=self._digits.format)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._head())}</p>{self.to_frame().to_html(float_format=self._digits.format)}"
