"""What the expression parsers of this folder share: tokens to take one by one, and a limit on how deep they nest."""

DEPTH = 40


class Unparsable(Exception):
    """The text is no expression."""


class Tokens:
    """`tokens` are what is left, last first."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def sees(self, *tokens: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] in tokens

    def closes(self) -> None:
        """Take a closing bracket."""
        if not self.sees(")"):
            raise Unparsable
        self.tokens.pop()

    def deeper(self, depth: int) -> int:
        if depth >= DEPTH:
            raise Unparsable
        return depth + 1
