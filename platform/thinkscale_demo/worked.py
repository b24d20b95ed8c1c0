"""Worked solutions of procedurally generated questions, derived exactly from their generator's metadata.
Owns the wording: short, natural, every intermediate result written out, the answer last. Knows nothing of models. A
function with a family's name takes one item's metadata and gives the text; `procedural` checks it against the reference
answer. A family without one has questions without a solution."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

Metadata = Mapping[str, Any]


def gsm_symbolic(item: Metadata) -> str:
    """The generator's own solution without its `####` line, calculator dots and bullets."""
    lines = [line.strip(" •-\t") for line in str(item["answer_cot"]).splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("####"))


def chain_sum(item: Metadata) -> str:
    """Left to right, one operation a step; also for decimals."""
    first, *rest = str(item["expression"]).split()
    value = Decimal(first)
    steps = []
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        result = value + Decimal(term) if operator == "+" else value - Decimal(term)
        steps.append(f"{value} {operator} {term} = {result}")
        value = result
    return ". ".join(steps or [f"The value is {value}"])


decimal_chain_sum = chain_sum


def basic_arithmetic(item: Metadata) -> str:
    """Multiplications first, then left to right (no brackets, no division)."""
    tokens = str(item["expression"]).split()
    steps = []
    while "*" in tokens:
        at = tokens.index("*")
        product = int(tokens[at - 1]) * int(tokens[at + 1])
        steps.append(f"{tokens[at - 1]} * {tokens[at + 1]} = {product}")
        tokens[at - 1 : at + 2] = [str(product)]
    if steps and len(tokens) > 3:
        steps.append(f"That leaves {' '.join(tokens)}")
    if len(tokens) > 1 or not steps:
        steps.append(chain_sum({"expression": " ".join(tokens)}))
    return ". ".join(steps)


def arithmetic_value(expression: str) -> int:
    """The value of integers joined by ` + `, ` - ` and ` * `, multiplications first."""
    value, sign, product = 0, 1, 1
    for token in [*expression.split(), "+"]:
        if token in "+-":
            value, sign, product = value + sign * product, 1 if token == "+" else -1, 1
        elif token != "*":
            product *= int(token)
    return value


def products(item: Metadata) -> str:
    """Long multiplication by the second factor's decimal places."""
    factors = [int(term) for term in str(item["expression"]).split(" * ")]
    value, steps = factors[0], []
    for factor in factors[1:]:
        places = [(int(digit) * 10**i) for i, digit in enumerate(reversed(str(factor))) if digit != "0"][::-1]
        if len(places) > 1:
            steps += [f"{value} * {place} = {value * place}" for place in places]
            steps.append(f"{' + '.join(str(value * place) for place in places)} = {value * factor}")
        else:
            steps.append(f"{value} * {factor} = {value * factor}")
        value *= factor
    return ". ".join(steps)


def leg_counting(item: Metadata) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, steps, running = 0, [], []
    for animal, count in item["animals"].items():
        legs = count * ANIMALS[animal]
        steps.append(f"{count} {animal}{'s' if count > 1 else ''}: {count} * {ANIMALS[animal]} = {legs} legs")
        running.append(f"{total} + {legs} = {total + legs}")
        total += legs
    return ". ".join(steps + running[1:])


def letter_counting(item: Metadata) -> str:
    """Word by word with a running count; capitals count too."""
    letter, total, steps = item["target_letter"], 0, []
    for word in item["span"]:
        count = word.lower().count(letter)
        total += count
        steps.append(f"{word} {count}" + (f", makes {total}" if count else ""))
    return "; ".join(steps) + f". Total: {total}"


def spell_backward(item: Metadata) -> str:
    word = str(item["word"])
    return f"Letters: {' '.join(word)}. From the end: {' '.join(reversed(word))}. Together: {word[::-1]}"


def word_sequence_reversal(item: Metadata) -> str:
    words = list(item["words"])
    numbered = ", ".join(f"{i} {word}" for i, word in enumerate(words, 1))
    return f"In order: {numbered}. From {len(words)} down to 1: {', '.join(reversed(words))}"


def count_bits(item: Metadata) -> str:
    """Repeated halving; the odd numbers on the way are the ones."""
    number, steps, ones = int(item["number"]), [], 0
    while number:
        ones += number % 2
        steps.append(f"{number} is {'odd, ' + str(ones) if number % 2 else 'even'}")
        number //= 2
    return f"Halve again and again and count the odd numbers: {'; '.join(steps)}. That is {ones}"


def gcd(item: Metadata) -> str:
    """Euclid's algorithm, pairwise."""
    value, steps = int(item["numbers"][0]), []
    for other in item["numbers"][1:]:
        text, value = _euclid(value, int(other))
        steps += text
    return ". ".join([*steps, f"The greatest common divisor is {value}"])


def lcm(item: Metadata) -> str:
    value, steps = int(item["numbers"][0]), []
    for other in (int(number) for number in item["numbers"][1:]):
        text, divisor = _euclid(value, other)
        result = value * other // divisor
        steps += [*text, f"{value} * {other} / {divisor} = {result}"]
        value = result
    return ". ".join(steps)


def prime_factorization(item: Metadata) -> str:
    rest, factors = int(item["number"]), list(item["factors"])
    steps = []
    for factor in factors[:-1]:
        steps.append(f"{rest} / {factor} = {rest // factor}")
        rest //= factor
    return ". ".join([*steps, f"{rest} is prime", " × ".join(str(factor) for factor in factors)])


def fraction_simplification(item: Metadata) -> str:
    terms = [int(item["numerator"]), int(item["denominator"])]
    steps, divisor = _euclid(*terms)
    divisions = [f"{term} / {divisor} = {term // divisor}" for term in terms]
    return ". ".join([*steps, *divisions, "/".join(str(term // divisor) for term in terms)])


def base_conversion(item: Metadata) -> str:
    """Through decimal: place values up, repeated division down."""
    source, target, digits = int(item["source_base"]), int(item["target_base"]), str(item["source_repr"])
    steps, value = [], int(digits, source)
    if source != 10:
        places = [(int(digit, 36), source**i) for i, digit in enumerate(reversed(digits)) if digit != "0"][::-1]
        steps.append(f"{' + '.join(f'{digit} * {place}' for digit, place in places) or '0'} = {value}")
    if target != 10:
        written = ""
        while value or not written:
            digit = "0123456789abcdefghijklmnopqrstuvwxyz"[value % target]
            shown = f" ({digit})" if value % target > 9 else ""
            steps.append(f"{value} = {value // target} * {target} + {value % target}{shown}")
            written, value = digit + written, value // target
        steps.append(f"Remainders from last to first: {written}")
    return ". ".join(steps or [digits])


def simple_equations(item: Metadata) -> str | None:
    """`a*x + b = c` in the order given; None where the equation has another form."""
    name = re.escape(str(item["variable"]))
    match = re.fullmatch(rf"(?:(-?\d+) ([+-]) )?(-?\d*)\*?{name}(?: ([+-]) (\d+))? = (-?\d+)", str(item["equation"]))
    if match is None:
        return None
    before, sign, factor_text, after_sign, after, right_text = match.groups()
    variable, right = str(item["variable"]), int(right_text)
    factor = {"": 1, "-": -1}.get(factor_text) or int(factor_text)
    if sign == "-":
        factor = -factor
    steps = []
    for constant, positive in ((before, True), (after, after_sign == "+")):
        if constant is None:
            continue
        value = int(constant) if positive else -int(constant)
        moved = right - value
        operation = f"{right} - {value}" if value >= 0 else f"{right} + {-value}"
        steps.append(f"{factor}*{variable} = {operation} = {moved}")
        right = moved
    if right % factor:
        return None
    return ". ".join([*steps, f"{variable} = {right} / {factor} = {right // factor}"])


def count_primes(item: Metadata) -> str:
    primes = list(item["primes"])
    if not primes:
        return f"There is no prime from {item['start']} to {item['end']}. The count is 0"
    listed = ", ".join(f"{prime} ({i})" for i, prime in enumerate(primes, 1))
    return f"The primes from {item['start']} to {item['end']} with their count: {listed}. The count is {len(primes)}"


def time_intervals(item: Metadata) -> str | None:
    """Hours and minutes on one day, through minutes."""
    if item["task_type"] != "time":
        return None
    steps, minutes = [], []
    for moment in (datetime.fromisoformat(item[key]) for key in ("start_time", "end_time")):
        minutes.append(60 * moment.hour + moment.minute)
        steps.append(f"{moment:%H:%M} is {moment.hour} * 60 + {moment.minute} = {minutes[-1]} minutes")
    gap = minutes[1] - minutes[0]
    steps += [f"{minutes[1]} - {minutes[0]} = {gap} minutes", f"{gap} = {gap // 60} * 60 + {gap % 60}"]
    return ". ".join([*steps, f"{gap // 60:02d}:{gap % 60:02d}"]) if gap >= 0 else None


def coin_flip(item: Metadata) -> str:
    flips, heads = int(item["num_trials"]), int(item["k_heads"])
    exact = item["problem_type"] == "exact"
    counts = [(k, math.comb(flips, k)) for k in ([heads] if exact else range(heads, flips + 1))]
    ways = sum(count for _, count in counts)
    steps = [f"{k} heads in {flips}: {count} ways" for k, count in counts]
    if len(counts) > 1:
        steps.append(f"{' + '.join(str(count) for _, count in counts)} = {ways}")
    steps += [f"All outcomes: 2^{flips} = {2**flips}", f"{ways} / {2**flips} = {_plain(ways / 2**flips)}"]
    return ". ".join(steps)


def simple_geometry(item: Metadata) -> str:
    """The last interior angle of a polygon."""
    sides = int(item["n_sides"])
    angles = [_plain(angle) for angle in item["known_angles"]]
    known = sum(Decimal(angle) for angle in angles)
    total = (sides - 2) * 180
    every = f"All angles: ({sides} - 2) * 180 = {total}"
    return f"{every}. {' + '.join(angles)} = {known}. {total} - {known} = {total - known}"


def number_sorting(item: Metadata) -> str:
    """Selection: the extreme of what is left, one after another."""
    ordered = list(item["sorted_numbers"])
    name = "smallest" if item["direction"] == "ascending" else "largest"
    return f"Take the {name} number left each time: {', '.join(ordered)}"


def number_filtering(item: Metadata) -> str:
    bound, kept = item["filter_value"], set(item["result"])
    judged = [f"{number} {'stays' if number in kept else 'goes'}" for number in item["original_numbers"]]
    return f"Compare each with {bound}: {', '.join(judged)}. Left: {', '.join(item['result']) or 'none'}"


def caesar_cipher(item: Metadata) -> str:
    pairs = zip(str(item["cipher_text"]).split(), str(item["clear_text"]).split(), strict=True)
    shifted = ", ".join(f"{cipher} is {clear}" for cipher, clear in pairs)
    return f"Each letter moves back by {item['rotation']}. {shifted}. {item['clear_text']}"


def _euclid(a: int, b: int) -> tuple[list[str], int]:
    a, b = max(a, b), min(a, b)
    steps = []
    while b:
        steps.append(f"{a} mod {b} = {a % b}")
        a, b = b, a % b
    return steps, a


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
