"""Names of cases and subjects, and paths of the machine that trained, kept out of a bundle.

Files are made anew of what prediction needs; texts that people wrote, and reasons, are then searched for what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from autolmk.errors import AutolmkError
from autolmk.methods.registry import label

WORD = r"[^\W_]"
PATH = re.compile(
    r"(?:^|(?<=[\s'\"(=,:\[]))(?:~[^\s/]*(?:/[^\s/'\"]+)+|/[^\s/'\"]+(?:/[^\s/'\"]+)+|[A-Za-z]:[\\/][^\s'\"]+|\\\\\w+\\\S+)"
)
SHORTEST = 3  # characters of a name that is looked for; shorter ones are numbers and letters that stand everywhere
WITHHELD = "left out: it names a case or a path"


class Secrets:
    """Names that a bundle must not hold. known: names that it must hold (landmarks, channels, the model's own); what is
    a part of one of these is not looked for. A name without a digit may be a word of the field, so it is looked for in
    texts of several words alone."""

    def __init__(self, names: Iterable[str], known: Iterable[str] = ()) -> None:
        held = "\n".join(known)
        wanted = sorted({n for n in names if len(n) >= SHORTEST and n not in held}, key=lambda n: (-len(n), n))
        self.names = {name: name.casefold() for name in wanted}
        self._clean: set[str] = set()  # texts that hold no name: a fingerprint holds the same keys many times

    def found(self, text: str) -> str | None:
        """The first name or path in a text; None where there is none."""
        path = PATH.search(text)
        return self.named(text) if path is None else path.group()

    def named(self, text: str) -> str | None:
        """The first name in a text; None where there is none."""
        if text in self._clean:
            return None
        folded, words = text.casefold(), len(text.split()) > 1
        for name, wanted in self.names.items():
            looked_for = wanted in folded and (words or any(c.isdigit() for c in name))
            if looked_for and re.search(rf"(?<!{WORD}){re.escape(wanted)}(?!{WORD})", folded):
                return name
        self._clean.add(text)
        return None


def require_none(value: Any, secrets: Secrets, name: str) -> None:
    """Raise AutolmkError where a text in JSON, or a text itself, holds a secret. name: of the file in the bundle."""
    for place, text in texts(value):
        found = secrets.found(text)
        if found is not None:
            raise AutolmkError(
                "a text that would go into the bundle names a case, a subject or a path",
                file=name,
                found=f"{found!r} in {place or 'it'}: {text[:200]}",
                expected="nothing that tells whose images the model was trained on, or where",
                remedy="reword it in the model folder (dataset.json of each model in it), and export again",
            )


def without_reasons(value: Any, secrets: Secrets) -> Any:
    """JSON in which the reasons (keys `why`) that hold a secret are left out."""
    if isinstance(value, Mapping):
        return {k: _reasons(v, secrets) if k == "why" else without_reasons(v, secrets) for k, v in value.items()}
    return [without_reasons(v, secrets) for v in value] if isinstance(value, list) else value


def _reasons(value: Any, secrets: Secrets) -> Any:
    if isinstance(value, Mapping):
        return {k: _reasons(v, secrets) for k, v in value.items() if secrets.found(str(k)) is None}
    return WITHHELD if isinstance(value, str) and secrets.found(value) is not None else value


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """All keys and texts in JSON, each as (where, text)."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"a key of {place or 'the top level'}", str(key)
            yield from texts(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from texts(inner, f"{place}[{i}]")


def shortened(specification: str) -> str:
    """A trainer's or planner's specification without the folders of its file: `my.py:Class`."""
    place, colon, name = specification.rpartition(":")
    file = re.split(r"[/\\]", place)[-1]
    return f"{file}:{name}" if colon and place.endswith(".py") else specification


def numbered(values: Iterable[Any], make: Callable[[Any], Any] = lambda v: v) -> dict[str, Any]:
    """The values by number, from "1" on, in their order."""
    return {str(i): make(value) for i, value in enumerate(values, 1)}


def planner_names(planner: str) -> str:
    """`Plans.planner`, short names alone."""
    return ",".join(label(one) if ".py:" in one else one for one in planner.split(","))
