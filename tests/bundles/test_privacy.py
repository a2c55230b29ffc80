"""What is found in texts that would go into a bundle, and what is let through."""

from __future__ import annotations

import pytest

from autolmk.bundles.privacy import PATH, Secrets, shortened, texts, without_reasons

SECRETS = Secrets(["case_01", "Anna_Meier", "whole", "001", "ab", "x.y-7", "phantom"], ["Dataset001_Heads", "left ear"])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("as case_01 shows", "case_01"),
        ("case_01", "case_01"),
        ("CASE_01.", "case_01"),
        ("(x.y-7)", "x.y-7"),
        ("of Anna_Meier", "Anna_Meier"),
        ("anna_meier, f", "Anna_Meier"),
        ("a whole image", "whole"),
    ],
)
def test_names_are_found(text: str, name: str) -> None:
    assert SECRETS.named(text) == SECRETS.found(text) == name


@pytest.mark.parametrize("text", ["whole", "case_011", "mycase_01", "Dataset001_Heads", "001", "ab ab", "x_y-7", ""])
def test_other_words_and_words_of_the_field_are_not(text: str) -> None:
    """A value such as "whole" of the plans, parts of the model's own names, names too short to mean anything."""
    assert SECRETS.found(text) is None


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("/home/a/b", True), ("see /data/x", True), ("~/x/y", True), ("~jane/x", True), ("C:\\Users\\a", True),
        ("D:/data", True), ("file=/mnt/x/y", True), ("\\\\host\\share", True), ("'/srv/a'", True),
        ("https://a.org/b/c", False), ("1/2 mm", False), ("and/or", False), ("mm/px/vox", False), ("a / b", False),
        ("10.1038/s41592-020-01008-z", False), ("fold_0/measured.json", False), ("~5 mm", False), ("ratio: 3/4", False),
    ],
)  # fmt: skip
def test_paths_are_told_from_fractions_and_addresses(text: str, is_path: bool) -> None:
    assert bool(PATH.search(text)) == is_path


def test_reasons_with_a_name_are_left_out_and_others_stay() -> None:
    value = {"why": {"a": "of case_01", "b": "of 8 cases"}, "in": [{"why": "as case_01"}, {"x": "case_01"}]}
    found = without_reasons(value, SECRETS)
    assert found["why"]["b"] == "of 8 cases" and found["in"][1] == {"x": "case_01"}
    assert [text for _, text in texts(found) if "case_01" in text] == ["case_01"]


def test_specifications_lose_their_folders() -> None:
    assert shortened("/home/a/mine.py:Mine") == shortened("C:\\a\\mine.py:Mine") == "mine.py:Mine"
    assert [shortened(s) for s in ("heatmap", "package.module:Class")] == ["heatmap", "package.module:Class"]
