"""Words, symbols and colours of verdicts, in HTML and in the terminal."""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """Level of quality to which verdicts, answers and findings are mapped.

    Parameters
    ----------
    css_class
        Class in HTML, and name of the symbol in ``interface/templates/macros.html``.
    word
        Word shown if the verdict has none of its own.
    symbol
        Symbol in the terminal; its shape differs by level for readers who do not see the colour.
    color
        Colour in the terminal, "" for the default.
    """

    css_class: str
    word: str
    symbol: str
    color: str

    def in_terminal(self, text: str = "") -> str:
        """Return the symbol, followed by a text if there is one, in the colour of the level (Rich markup)."""
        marked = f"{self.symbol} {text}".strip()
        return f"[{self.color}]{marked}[/]" if self.color else marked


GOOD = Level("good", "good", "●", "green")
FAIR = Level("fair", "fair", "▲", "yellow")
POOR = Level("poor", "poor", "■", "red")
UNKNOWN = Level("unknown", "not judged", "○", "")

LEVELS = {level.css_class: level for level in (GOOD, FAIR, POOR, UNKNOWN)}
# light of an answer: `Answer.light`
LIGHTS = {"green": GOOD, "amber": FAIR, "red": POOR, "unknown": UNKNOWN}
# column "verdict" of the tables of `evaluate` and `audit_privacy`
VERDICTS = {"within": GOOD, "close": FAIR, "off": POOR, "pass": GOOD, "caution": FAIR, "fail": POOR}
VERDICTS["not judged"] = UNKNOWN
