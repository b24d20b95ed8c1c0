r"""Reading a formula as a sympy expression: all of it, or not at all. The text is rewritten token by token as
Python, which sympy's parser reads; what no rule rewrites is unread. Sums, integrals and limits go to latex2sympy,
and nothing else: it drops primes, bases (`101_2`) and powers of `I`, takes `2(1/2)` for a mixed number and `x(2)`
for a function."""

import re
from functools import lru_cache
from typing import Any

from thinkscale.grading.notation import VOCABULARY


class UnreadError(ValueError):
    """A text is no formula, or one that has no one reading."""


LARGEST = 50_000  # bits of a power of numbers, and arguments of a factorial or binomial coefficient
_TOKEN = re.compile(r"( *)(\\[A-Za-z]+|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|\*\*|.)", re.DOTALL)  # behind its spaces
_FUNCTIONS = {name: function for function, names in VOCABULARY["functions"].items() for name in names.split()}
_LETTERS = VOCABULARY["formulas"]["letters"].split()
_SYMBOLS = frozenset((*_LETTERS, *(name.title() for name in _LETTERS), *VOCABULARY["formulas"]["more_letters"].split()))
_ACCENTS = frozenset(VOCABULARY["formulas"]["accents"].split())
_SPELLED_OUT = {*_FUNCTIONS, "sqrt", "infty", "infinity", "binom", *_LETTERS} - {"Re", "Im", "arg", "Gamma", "."} - {
    name for name in _LETTERS if len(name) < 3 and name != "pi"
}  # fmt: skip
_NAMES = re.compile(rf"(?<![\\A-Za-z_{{])({'|'.join(sorted(_SPELLED_OUT, key=len, reverse=True))})(?![A-Za-z])")
_LOG = re.compile(r"\\?\blog(2|10)\b")
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_BARS = {"|": "|", "\\lvert": "\\rvert", "\\vert": "\\vert"}
_ROUNDED = {"\\lfloor": "floor", "\\lceil": "ceiling"}
_CALCULUS = re.compile(r"\\(?:sum|prod|int|iint|oint|lim)(?![a-z])")
_DERIVATIVE = re.compile(r"\\frac ?\{ ?(?:d|\\partial)")
_WORD = re.compile(r"(?<![\\A-Za-z_{])(?=[a-z]*[aeiou])[A-Za-z][a-z]{3,}")


def spelled(text: str) -> str:
    """A formula with the names of functions as LaTeX has them."""
    return _NAMES.sub(r"\\\1", _LOG.sub(r"\\log_{\1}", text.replace("**", "^")))


@lru_cache(maxsize=256)
def read(text: str) -> Any:
    """The expression (sympy.Expr) that a cleaned text is. Raises UnreadError where not all of the text is one value."""
    import sympy
    from sympy.parsing.sympy_parser import parse_expr

    text = spelled(text)
    if _CALCULUS.search(text):
        return _calculus(text)
    if _WORD.search(text) or _DERIVATIVE.search(text):
        raise UnreadError(text)
    reader = _Reader(text)
    source = reader.value(None)
    known = ("pi", "oo", "E", "I", "root", *_FUNCTIONS.values())
    names = {"Q": sympy.Rational, **{name: getattr(sympy, name) for name in known}}
    names |= {name: _bounded(getattr(sympy, name)) for name in ("Pow", "factorial", "binomial")}
    symbols = {place: sympy.Symbol(name, real=True) for name, place in reader.symbols.items()}
    try:
        found = sympy.sympify(parse_expr(source, local_dict=names | symbols, global_dict={}, transformations=()))
    except (SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise UnreadError(text) from error
    if found.has(sympy.nan, sympy.zoo):
        raise UnreadError(text)
    return found


def _bounded(function: Any) -> Any:
    """The function, but for numbers whose result would fill the memory: nobody compares these."""

    def call(*values: Any) -> Any:
        if all(value.is_Rational for value in values):
            first, last = abs(values[0]), abs(values[-1])
            bits = max(first.p, first.q).bit_length() if function.__name__ == "Pow" else 1
            if bits * last > LARGEST or (bits == 1 and first > LARGEST):
                raise UnreadError(f"a {function.__name__} of {values}")
        return function(*values)

    return call


def _calculus(text: str) -> Any:
    import sympy
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    config = ConversionConfig(lowercase_symbols=False)
    try:
        found = latex2sympy(text, is_real=True, normalization_config=None, conversion_config=config)
    except Exception as error:
        raise UnreadError(text) from error  # latex2sympy raises Exception itself
    if not isinstance(found, sympy.Expr):
        raise UnreadError(text)
    return sympy.nsimplify(found, rational=True)  # decimals exactly


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text.rstrip(" "))
        self._at = 0
        self.symbols: dict[str, str] = {}

    def _peek(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise UnreadError("it ends too early")
        self._at += 1
        return token

    def value(self, closing: str | None, *, commas: bool = False) -> str:
        """What stands before `closing` (None: the end), as Python."""
        out: list[str] = []
        operand, divided, last = False, 0, ""
        while (token := self._peek()) != closing or (closing == "|" and not operand):
            token = self._next()
            spaced = bool(self._tokens[self._at - 1][0])
            if token in ("+", "-") or (token == "," and commas):
                out.append(token)
                operand, divided = False, 0
            elif token in ("*", "\\cdot", "\\times", "/", "\\div"):
                out.append("/" if token in ("/", "\\div") else "*")
                operand, divided = False, int(out[-1] == "/")
                if len(out) == 1:
                    raise UnreadError("an operator without a left side")
            elif token in ("^", "**", "!"):
                if not operand:
                    raise UnreadError(f"{token} after nothing")
                if token != "!" and out[-1].startswith("Pow"):
                    raise UnreadError("a power of a power")
                out[-1] = f"factorial({out[-1]})" if token == "!" else f"Pow({out[-1]},{self._argument()})"
            else:
                item = self._operand(token)
                if operand and last.isdigit() and item.startswith("((Q("):  # a mixed number
                    out[-1] = f"({out[-1]}+{item})"
                    last = ""
                    continue
                if operand:
                    if token[0].isdigit() and (out[-1][-2:] == "')" or not spaced):
                        raise UnreadError("two numbers side by side")
                    if divided == 2 and not spaced:
                        raise UnreadError("1/2x is half of x or 1/(2x)")
                    out.append("*")
                    divided = 0
                out.append(item)
                operand, divided, last = True, divided + bool(divided), token
        if closing is not None:
            self._next()
        if not operand:
            raise UnreadError("it ends in an operator")
        return "".join(out)

    def _operand(self, token: str) -> str:
        name = token[1:]
        if token[0].isdigit() or (token[0] == "." and name):
            if self._peek() == "_":
                raise UnreadError("a number with an index")
            return f"Q('{token}')"
        if token in _CLOSING:
            return f"{_ROUNDED.get(token, '')}({self.value(_CLOSING[token])})"
        if token in _BARS:
            return f"Abs({self.value(_BARS[token])})"
        if token == "\\frac":
            return f"(({self._argument()})/({self._argument()}))"
        if token == "\\binom":
            return f"binomial({self._argument()},{self._argument()})"
        if token == "\\sqrt":
            degree = "Q('2')"
            if self._peek() == "[":
                self._next()
                degree = self.value("]")
            return f"root({self._argument()},{degree})"
        if token in ("\\pi", "\\infty", "\\infinity"):
            return "pi" if token == "\\pi" else "oo"
        if name in _FUNCTIONS and token[0] == "\\" and not (name == "Gamma" and self._peek() != "("):
            return self._function(name)
        if token.isalpha() or name in _SYMBOLS:
            return self._symbol(token)
        if name in _ACCENTS:
            return self._symbol(f"{token} {self._raw()}")
        raise UnreadError(f"{token} is no part of a value")

    def _argument(self) -> str:
        """Of a power or a command: a group, or one token with its sign."""
        token = self._next()
        if token == "{" or token == "(":
            return self.value(_CLOSING[token])
        return token + self._argument() if token in "+-" else self._operand(token)

    def _raw(self) -> str:
        depth, taken = 0, ""
        while not taken or depth > 0:
            token = self._next()
            depth += (token in "{(") - (token in "})")
            taken += token
        return taken.strip("{}")

    def _symbol(self, name: str) -> str:
        plain = name
        if self._peek() == "_":
            self._next()
            name += f"_{self._raw()}"
        while self._peek() == "'":
            name += self._next()
        if plain in "fgh" and self._peek() == "(":  # a function that nobody defined
            name += f"({self._raw()})"
        if name in ("e", "i"):
            return {"e": "E", "i": "I"}[name]
        return self.symbols.setdefault(name, f"s{len(self.symbols)}")

    def _function(self, name: str) -> str:
        function, power, base = _FUNCTIONS[name], "", ", Q('10')" if name == "lg" else ""
        while (mark := self._peek()) in ("^", "_"):
            self._next()
            if mark == "_" and name == "log":
                base = f", {self._argument()}"
            elif mark == "^":
                power = self._argument()
            else:
                raise UnreadError(f"{name} with an index")
        if power.replace("Q('1')", "1") == "-1" and f"arc{name}" in _FUNCTIONS:
            function, power = _FUNCTIONS[f"arc{name}"], ""
        if self._peek() in ("(", "[", "{"):
            argument = self.value(_CLOSING[self._next()], commas=name in ("gcd", "lcm", "max", "min"))
        else:
            argument = self._bare_argument()
        call = f"{function}({argument}{base})"
        return f"Pow({call},{power})" if power else call

    def _bare_argument(self) -> str:
        """Of a function without brackets: the factors up to an operator or another function."""
        out = [self._next()] if self._peek() == "-" else []
        factors: list[str] = []
        while (token := self._peek()) is not None and (
            token.isalnum() or token in ("{", "|", "\\frac", "\\sqrt", "\\pi", "\\lvert") or token[1:] in _SYMBOLS
        ):
            if factors and token[0].isdigit():
                raise UnreadError("two numbers side by side")
            item = self._operand(self._next())
            while self._peek() in ("^", "!"):
                item = f"Pow({item},{self._argument()})" if self._next() == "^" else f"factorial({item})"
            factors.append(item)
        if not factors:
            raise UnreadError("a function of nothing")
        return "".join(out) + "*".join(factors)
