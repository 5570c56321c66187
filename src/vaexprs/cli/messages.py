"""Messages of the Python functions with the names of options instead of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# arguments of the Python functions whose option has another name
OTHER_NAMES = {"fit": "model", "privacy": "epsilon"}
PREDICATES = "must|cannot|requires|applies"
TABLES = ("obs",)  # in messages these are parts of an AnnData unless they are followed by "="


def option_names(command: Any) -> dict[str, str]:
    """Return the options of a Click command by the names that their values have in Python.

    An option may be repeated where the argument takes several values: ``covariate_keys`` is
    ``--covariate-key``.
    """
    found: dict[str, str] = {}
    plural: dict[str, str] = {}
    for parameter in command.params:
        if parameter.param_type_name != "option":
            found[str(parameter.name)] = str(parameter.name).upper()
            continue
        option = max(parameter.opts, key=len)
        for name in (str(parameter.name), option.lstrip("-").replace("-", "_")):
            found[name] = option
            plural[f"{name}s"] = option
    other = {name: found[own] for name, own in OTHER_NAMES.items() if own in found}
    return plural | other | found


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Return a message with arguments replaced by options: ``layer='counts'`` by ``--layer counts``.

    Names in quotes are the user's and are kept, and so are calls of Python functions.

    Parameters
    ----------
    text
        Message of a Python function.
    options
        Options by the names of the arguments, as `option_names` returns them.
    """
    if not options:
        return text
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    subjects = "|".join(re.escape(name) for name in options if name not in TABLES)
    joined = "|".join(sorted((re.escape(name) for name in options if "_" in name), key=len, reverse=True))
    parts = [
        r"(?P<kept>--[\w-]+|[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\))",
        rf"(?<![\w.'\-])(?P<keyword>{names})=(?P<value>\{{[^}}]*\}}|\[[^\]]*\]|'[^']*'|[\w.+-]*\w)?",
        r"(?P<quoted>(?<!\w)(?:'[^']*'|\"[^\"]*\")(?!\w))",
        rf"(?:^|(?<=\. ))(?P<subject>{subjects})(?:\[(?P<item>'[^']*')\])?(?= (?:{PREDICATES})\b)",
        *([rf"(?<![\w.\-])(?P<name>{joined})(?![\w.]\w|=)"] if joined else []),
    ]

    def replaced(found: re.Match[str]) -> str:
        groups = found.groupdict()
        if groups["keyword"]:
            return f"{options[groups['keyword']]}{_as_word(groups['value'] or '')}"
        if groups["subject"]:
            item = groups["item"]
            return f"{options[groups['subject']]}{f' {item}' if item else ''}"
        return options[groups["name"]] if groups.get("name") else found[0]

    said = re.sub("|".join(parts), replaced, text)
    return re.sub(r"(--[\w-]+(?: [^\s()]+)?) \(\1\)", r"\1", said)  # messages that name both


def _as_word(value: str) -> str:
    """Return a value of an argument as it is typed after an option, with a space before it."""
    if value in ("", "True"):  # a bare name, or an option without a value
        return ""
    pair = re.fullmatch(r"\{'([^']*)': '?([^']*?)'?\}", value)
    text = f"{pair[1]}={pair[2]}" if pair else value.strip("[]").strip("'")
    return f" '{text}'" if re.search(r"[^\w.+/=-]", text) or not text else f" {text}"


def options_of(group: Any, words: Sequence[str]) -> dict[str, str]:
    """Return the options of the command of a Click group that a command line runs; empty if it names none."""
    commands = group.commands
    return option_names(commands[words[0]]) if words and words[0] in commands else {}
