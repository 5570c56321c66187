"""Structured mutations: one part of an input, one value of a JSON document, or one word of a line.

Random changes of bytes mostly cause syntax errors, which the first check refuses. Inputs with valid
syntax and wrong content reach further code.
"""

import json
import random
from pathlib import Path

CUT = b"\n--8<--\n"
WORDS = [b"", b"a" * 300, *(Path(__file__).parent / "words.txt").read_bytes().split()]
VALUES = [None, True, 0, -1, 1, 2**31, 2**64, 10**30, 0.5, 1e308, float("nan"), "", "a", "0", [], {}, [[]]]


def mutated(data, max_size, seed, of_bytes):
    """Return a mutated input of at most `max_size` bytes.

    `of_bytes(data, max_size)` mutates bytes anywhere, like the mutator of libFuzzer.
    """
    rng = random.Random(seed)
    parts = data.split(CUT)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        i = rng.randrange(len(parts))
        change = rng.choice((of_part, of_part, of_part, of_json, of_json, of_word, of_word, of_parts))
        if change is of_parts:
            parts = of_parts(parts, i, rng)
        else:
            parts[i] = change(parts[i], rng, of_bytes)
    return CUT.join(parts)[:max_size]


def of_part(part, rng, of_bytes):
    """Mutate bytes of one part; mostly those after its first line, if that line is a name."""
    head, line, content = part.partition(b"\n")
    if line and len(head) < 99 and rng.random() < 0.8:
        return head + line + of_bytes(content, 2 * len(content) + 16)
    return of_bytes(part, 2 * len(part) + 16)


def of_json(part, rng, of_bytes):
    """Replace or delete one value of a JSON document at any depth; mutate bytes of other content."""
    head, line, content = (b"", b"", part) if part[:1] in b"{[" else part.partition(b"\n")
    try:
        document = json.loads(content)
    except ValueError:
        return of_part(part, rng, of_bytes)
    places = list(inner_places(document))
    if not places:
        return of_part(part, rng, of_bytes)
    holder, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.2:
        del holder[key]
    elif choice < 0.4:
        other, its = rng.choice(places)
        # a copy, so that no value contains itself
        holder[key] = json.loads(json.dumps(other[its]))
    else:
        holder[key] = rng.choice(VALUES)
    return head + line + json.dumps(document).encode()


def inner_places(document):
    """Yield each list or object of a document with each of its keys."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from inner_places(document[key])


def of_word(part, rng, of_bytes):
    """Replace one word of one line; every other time of the first line."""
    lines = part.split(b"\n")
    i = 0 if rng.random() < 0.5 else rng.randrange(len(lines))
    for mark in (b",", b"\t", b";", b" "):
        if mark in lines[i]:
            break
    words = lines[i].split(mark)
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    lines[i] = mark.join(words)
    return b"\n".join(lines)


def of_parts(parts, i, rng):
    """Delete a part, duplicate it, or replace all but its first line by the content of another part."""
    j = rng.randrange(len(parts))
    choice = rng.randrange(3)
    if choice == 0 and len(parts) > 1:
        return parts[:i] + parts[i + 1 :]
    if choice == 1:
        return [*parts[:i], parts[j], *parts[i:]]
    head, line, _ = parts[i].partition(b"\n")
    return [*parts[:i], head + line + parts[j].partition(b"\n")[2], *parts[i + 1 :]]
