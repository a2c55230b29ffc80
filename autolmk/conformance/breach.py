"""What the checks of a contract share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autolmk.errors import AutolmkError


class Breach:
    """Makes the errors, and turns a subclass's own exceptions into them."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.where = name, kind, ""

    def __call__(self, problem: str, found: object, expected: str, remedy: str | None = None) -> AutolmkError:
        return AutolmkError(
            f"{self.name} breaks the contract of a {self.kind}{self.where}: {problem}",
            found=found,
            expected=expected,
            remedy=remedy or f"see documentation/write_a_{self.kind}.md",
        )

    @contextmanager
    def names(self, where: str) -> Iterator[None]:
        """Within, messages say `where`."""
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
            raise self(f"{what} failed", f"{type(error).__name__}: {error}", f"{what} without an exception") from error


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
