"""Changes a content where its reader looks: one part, one value of a JSON document, one word of a line.

Bytes changed anywhere seldom leave more than a broken line or a missing bracket, which the first check
refuses. What is whole and wrong goes further.
"""

import json
import random
from pathlib import Path

CUT = b"\n--8<--\n"
WORDS = [b"", b"a" * 300, *(Path(__file__).parent / "words.txt").read_bytes().split()]
VALUES = [None, True, 0, -1, 1, 2**31, 2**64, 10**30, 0.5, 1e308, float("nan"), "", "a", "0", [], {}, [[]]]


def mutated(data, room, seed, of_bytes):
    """Return a changed content of at most `room` bytes.

    `of_bytes(data, room)` is what changes bytes anywhere: libFuzzer's own, or any other.
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
    return CUT.join(parts)[:room]


def of_part(part, rng, of_bytes):
    """Change bytes of one part: of what follows its first line, mostly, where that is a name."""
    head, line, content = part.partition(b"\n")
    if line and len(head) < 99 and rng.random() < 0.8:
        return head + line + of_bytes(content, 2 * len(content) + 16)
    return of_bytes(part, 2 * len(part) + 16)


def of_json(part, rng, of_bytes):
    """Change one value of a JSON document, whatever its depth, or leave it out; others change by bytes."""
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
        # through text, so that no value holds itself
        holder[key] = json.loads(json.dumps(other[its]))
    else:
        holder[key] = rng.choice(VALUES)
    return head + line + json.dumps(document).encode()


def inner_places(document):
    """Give each list or object of a document with each place in it."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from inner_places(document[key])


def of_word(part, rng, of_bytes):
    """Change one word of one line, of the first one every other time."""
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
    """Leave out a part, give it twice, or give it the content of another under its own first line."""
    j = rng.randrange(len(parts))
    choice = rng.randrange(3)
    if choice == 0 and len(parts) > 1:
        return parts[:i] + parts[i + 1 :]
    if choice == 1:
        return [*parts[:i], parts[j], *parts[i:]]
    head, line, _ = parts[i].partition(b"\n")
    return [*parts[:i], head + line + parts[j].partition(b"\n")[2], *parts[i + 1 :]]
