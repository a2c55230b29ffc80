"""Published divisions into training and test cases, as files say them.

nnLandmark's are JSON, {"imagesTr": [case, ...], "imagesTs": [case, ...], "all": [...]}; others are text, a test case a
line. Cases are named as the recipe names them, which for nnLandmark's datasets is as nnLandmark does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autolmk.errors import AutolmkError, some
from autolmk.files.serialization import from_json, near, read_json, read_text


@dataclass(frozen=True)
class Parts:
    """The names of cases in the published parts."""

    training: frozenset[str]
    test: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """The cases of both parts."""
        return self.training | self.test


def read_split(file: Path, cases: Sequence[str]) -> Parts:
    """The parts that a file names. AutolmkError where a case is in two parts, or is none of these cases."""
    if file.name.lower().endswith(".json"):
        content = read_json(file)
        if not isinstance(content, dict) or not {"imagesTr", "imagesTs"} <= content.keys():
            raise AutolmkError(
                "this is no file of parts", file=file, expected='{"imagesTr": [...], "imagesTs": [...]}',
                remedy="name a split_*.json of nnLandmark, or a text with a test case a line",
            )  # fmt: skip
        lists = {key: from_json(list[str], content[key], file=file, path=key) for key in ("imagesTr", "imagesTs")}
    else:
        lines = [line.strip() for line in read_text(file).splitlines()]
        test = [line for line in lines if line]
        lists = {"imagesTr": [case for case in cases if case not in set(test)], "imagesTs": test}
    twice = sorted(set(lists["imagesTr"]) & set(lists["imagesTs"]))
    named = [*lists["imagesTr"], *lists["imagesTs"]]
    unknown = sorted(set(named) - set(cases))
    if twice or unknown or not lists["imagesTr"]:
        problem = "a case is in two parts" if twice else "a part names a case that is not there"
        raise AutolmkError(
            problem if twice or unknown else "a split leaves no case for training",
            file=file,
            found=some(twice or unknown) + ("" if twice or not unknown else near(unknown[0], cases)),
            expected=f"names such as {some(sorted(cases)[:3])}, each once",
            remedy="fetch the whole dataset, or correct the file",
        )
    return Parts(frozenset(lists["imagesTr"]), frozenset(lists["imagesTs"]))
