"""The one exception that a user is meant to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autolmk.escaping import indented
from autolmk.escaping import lines as shown

NAMED = 6  # things that a message names before it only counts


class AutolmkError(Exception):
    """Bad input or a situation that the user can mend; the command line prints it without a traceback.

    The message names, as far as they apply: the file, the case, what was found, what was expected and what to do.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        case: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.file, self.case = shown(problem), None if file is None else str(file), case
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [indented(self.problem)]
        for label, value in (
            ("file", self.file),
            ("case", self.case),
            ("found", self.found),
            ("expected", self.expected),
            ("what to do", self.remedy),
        ):
            if value is not None:
                lines.append(f"  {label}: {indented(value)}")
        return "\n".join(lines)

    def of_case(self, case: str) -> AutolmkError:
        """The same error, naming `case` where it names none."""
        return AutolmkError(
            self.problem,
            file=self.file,
            case=self.case or case,
            found=self.found,
            expected=self.expected,
            remedy=self.remedy,
        )

    def __reduce__(self) -> tuple[object, ...]:  # travels between processes with its fields
        return (_rebuild, (type(self), self.problem, self.file, self.case, self.found, self.expected, self.remedy))


def _rebuild(
    cls: type[AutolmkError],
    problem: str,
    file: str | None,
    case: str | None,
    found: object,
    expected: object,
    remedy: str | None,
) -> AutolmkError:
    return cls(problem, file=file, case=case, found=found, expected=expected, remedy=remedy)


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as '1 case' and '2 cases', for messages. plural: where it is more than the noun and
    an s.
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def some(texts: Sequence[str]) -> str:
    """The first few of a list and how many more there are, for messages."""
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")
