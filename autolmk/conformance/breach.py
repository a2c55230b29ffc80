"""The breach of a contract, and what all checks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from autolmk.errors import AutolmkError, counted


class BrokenContract(AutolmkError):
    """One breach. what: the problem alone. where: such as ` in 2D`. cause: the exception behind it, in words."""

    what = where = cause = ""


class Breach:
    """Makes the errors, and turns a subclass's own exceptions into them."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.where = name, kind, ""

    def __call__(self, problem: str, found: object, expected: str, remedy: str | None = None) -> BrokenContract:
        error = BrokenContract(
            f"{self.name} breaks the contract of a {self.kind}{self.where}: {problem}",
            found=found,
            expected=expected,
            remedy=remedy or f"see documentation/write_a_{self.kind}.md",
        )
        error.what, error.where = problem, self.where
        return error

    @contextmanager
    def names(self, where: str) -> Iterator[None]:
        """Name the place `where` in all messages inside `with`."""
        self.where = f" {where}"
        yield

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """An exception within is a breach that names `what`; the exception stays visible as its cause."""
        try:
            yield
        except AutolmkError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            broken = self(f"{what} failed", cause, f"{what} without an exception")
            broken.cause = cause
            raise broken from error


class Breaches:
    """All the breaches of a contract, told at once."""

    def __init__(self, breach: Breach) -> None:
        self.breach = breach
        self._found: dict[str, tuple[AutolmkError, list[str]]] = {}

    @contextmanager
    def collected(self) -> Iterator[None]:
        """An error within is a breach, which is kept; one that was met before, or has the same cause, counts once."""
        try:
            yield
        except AutolmkError as error:
            self._keep(error)
        except Exception as error:
            self._keep(self.breach("a check failed", f"{type(error).__name__}: {error}", "no exception"))

    def _keep(self, error: AutolmkError) -> None:
        key = (error.cause or error.what) if isinstance(error, BrokenContract) else error.problem
        places = self._found.setdefault(key, (error, []))[1]
        if self.breach.where not in places:
            places.append(self.breach.where)

    def tell(self) -> None:
        """Raise AutolmkError where there are breaches: a single one as it is, else a numbered list of them."""
        told = list(self._found.values())
        if len(told) == 1:
            error, places = told[0]
            if isinstance(error, BrokenContract):
                self.breach.where = " and".join(places)
                raise self.breach(error.what, error.found, str(error.expected), error.remedy) from error.__cause__
            raise error
        if told:
            listed = [_entry(error, places) for error, places in told]
            raise AutolmkError(
                f"{self.breach.name} breaks the contract of a {self.breach.kind} in {counted(len(told), 'way')}",
                found="\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(listed, 1)),
                expected="none of these",
                remedy=f"mend them in this order, as a later one may follow from an earlier one; "
                f"see documentation/write_a_{self.breach.kind}.md",
            )


def _entry(error: AutolmkError, places: Sequence[str]) -> str:
    """Of a list: the problem, where it was met, and what is said of it."""
    what = error.what if isinstance(error, BrokenContract) else error.problem
    where = " and".join(places).strip()
    lines = [f"{where}: {what}" if where else what]
    for label, value in (("found", error.found), ("expected", error.expected), ("what to do", error.remedy)):
        lines += [f"   {label}: {value}"] if value is not None else []
    return "\n".join(lines)


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
