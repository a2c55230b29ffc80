"""Files that appear whole or not at all; leftovers are told from strangers' files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autolmk.errors import AutolmkError
from autolmk.files.atomic import refuse_link, remove_leftovers, replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "table.csv"
    with replacing(file) as temporary:
        temporary.write_text("first")
        assert not file.exists()
    with pytest.raises(ValueError, match="broken off"), replacing(file) as temporary:
        temporary.write_text("half")
        raise ValueError("broken off")
    assert file.read_text() == "first"
    assert [entry.name for entry in file.parent.iterdir()] == ["table.csv"]


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "table.csv").symlink_to(precious)
    with replacing(tmp_path / "table.csv") as temporary:
        temporary.write_text("ours")
    assert precious.read_text() == "mine"
    assert (tmp_path / "table.csv").read_text() == "ours" and not (tmp_path / "table.csv").is_symlink()


def test_only_our_leftovers_are_removed_and_only_those_of_the_targets(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.nii.gz", ".nii.gz") as temporary:
        ours = temporary.name
        raise KeyboardInterrupt
    (tmp_path / ours).touch()
    (tmp_path / "below").mkdir()
    strangers = [".x.tmp", ".a.nii.gz.tmp", ".a.nii.gz.abcd1234.tmp", "a.autolmk-abcd1234.tmp", f"below/{ours}"]
    for name in strangers:
        (tmp_path / name).touch()
    (tmp_path / ".linked.autolmk-abcd1234.tmp").symlink_to(tmp_path / ".x.tmp")
    (tmp_path / ".other.autolmk-abcd1234.tmp").touch()
    remove_leftovers(tmp_path, {"a.nii.gz", "linked"})
    assert not (tmp_path / ours).exists()
    assert all((tmp_path / name).exists() for name in [*strangers, ".other.autolmk-abcd1234.tmp"])
    assert (tmp_path / ".linked.autolmk-abcd1234.tmp").is_symlink()
    remove_leftovers(tmp_path)
    assert not (tmp_path / ".other.autolmk-abcd1234.tmp").exists()
    remove_leftovers(tmp_path / "nowhere")


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    refuse_link(tmp_path)
    refuse_link(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(AutolmkError, match="a link is in the place"):
        refuse_link(tmp_path / "link")


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644), (0o000, 0o666)])
def test_whom_a_file_lets_in_is_said_by_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    before = os.umask(umask)
    try:
        with replacing(shared / "table.csv") as temporary:
            temporary.write_text("ours")
    finally:
        os.umask(before)
    status = (shared / "table.csv").stat()
    assert status.st_mode & 0o777 == mode and status.st_gid == shared.stat().st_gid
