"""Bundles of strangers: 1,000 damaged or misleading ones write nothing outside their place, run nothing and end in an
error for users."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bundles
import pytest

from autolmk.bundles import installing
from autolmk.bundles.in_place import model_of, read, unpack
from autolmk.bundles.installing import install
from autolmk.bundles.manifest import require_different, require_name
from autolmk.errors import AutolmkError
from autolmk.files.locks import exclusive


def everything(folder: Path) -> dict[str, object]:
    """Path -> content of all below a folder; links by where they lead."""
    found: dict[str, object] = {}
    for place in folder.rglob("*"):
        name = str(place.relative_to(folder))
        found[name] = os.readlink(place) if place.is_symlink() else place.read_bytes() if place.is_file() else None
    return found


def test_the_undamaged_one_is_installed(tmp_path: Path) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    folder, new = install(place, tmp_path / "results")
    assert new and folder == tmp_path / "results" / "Dataset000_Example" / bundles.MODEL
    made = bundles.draft()
    for name, data in made.files.items():
        assert (folder / name).read_bytes() == data, name
    before = everything(tmp_path)
    assert install(place, tmp_path / "results") == (folder, False)
    assert everything(tmp_path) == before


def test_a_large_zip_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose sizes take 64 bits, as beyond 4 GiB: its end is another record."""
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 100)
    place = bundles.write(tmp_path, bundles.draft())
    monkeypatch.undo()
    data = place.read_bytes()
    assert data[-42:-38] == b"PK\x06\x07"
    assert install(place, tmp_path / "results")[1]
    place.write_bytes(data[:-66] + b"\xff" * 8 + data[-58:])  # how many files the longer record says there are
    with pytest.raises(AutolmkError, match="a list of"):
        install(place, tmp_path / "others")


def test_a_thousand_bad_bundles(tmp_path: Path) -> None:
    """At least 900 are refused (some changes mean nothing, such as a file's date); none does anything else."""
    world, results = tmp_path / "world", tmp_path / "world" / "a" / "results"
    (world / "a" / "victim").mkdir(parents=True)
    (world / "victim").write_text("untouched")
    place = tmp_path / "bundle.autolmk.zip"
    empty, cwd = everything(world), os.getcwd()
    os.chdir(world)
    outcomes: Counter[str] = Counter()
    try:
        for seed in range(1000):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile's of names that stand twice, where the sample is made
                what, data = bundles.mutated(seed)
            place.write_bytes(data)
            try:
                folder, _ = install(place, results)
            except AutolmkError:
                outcomes["refused"] += 1
                left = {name: v for name, v in everything(world).items() if name != "a/results"}
                assert left == empty, f"seed {seed}: {what}"
            else:
                outcomes["installed"] += 1
                assert folder.parent.parent == results and not folder.is_symlink(), f"seed {seed}: {what}"
                left = everything(world)
                own = f"a/results/{folder.parent.name}"
                others = {n: v for n, v in left.items() if n not in (own, "a/results") and not n.startswith(f"{own}/")}
                assert others == empty, f"seed {seed}: {what}"
                assert not any(p.is_symlink() or p.suffix == ".py" for p in folder.rglob("*")), f"seed {seed}: {what}"
                bundles_remove(results)
    finally:
        os.chdir(cwd)
    assert outcomes["refused"] >= 900 and sum(outcomes.values()) == 1000


def bundles_remove(results: Path) -> None:
    """So that the next one finds its place free."""
    for place in sorted(results.rglob("*"), reverse=True):
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()


@pytest.mark.parametrize("name", bundles.ELSEWHERE)
def test_no_name_leads_elsewhere(name: str) -> None:
    if name == "trainer_source/x.py":
        require_name(name, packed=False)
        return
    for packed in (False, True):
        with pytest.raises(ValueError):
            require_name(name, packed=packed)


def test_names_that_are_one_on_some_systems() -> None:
    for twins in (("plans.json", "PLANS.json"), ("é/a", "e\u0301/a"), ("straße", "STRASSE"), ("a", "a/b"), ("ſ", "s")):
        with pytest.raises(ValueError, match=r"same path|file and a folder"):
            require_different(twins)
    require_different(("a/b", "a/c", "ab"))


def test_links_and_devices_of_a_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "unzipped"
    made = bundles.draft()
    for name, data in [*made.files.items(), ("bundle.json", made.manifest_bytes())]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    target, new = install(folder, tmp_path / "results")
    assert new and (target / "plans.json").read_bytes() == made.files["plans.json"]
    (folder / "fold_0" / "measured.json").unlink()
    (folder / "fold_0" / "measured.json").symlink_to("/etc/hostname")
    with pytest.raises(AutolmkError, match="link"):
        install(folder, tmp_path / "others")
    (folder / "fold_0" / "measured.json").unlink()
    os.mkfifo(folder / "fold_0" / "measured.json")
    with pytest.raises(AutolmkError, match="device"):
        install(folder, tmp_path / "others")
    assert not (tmp_path / "others" / "Dataset000_Example").exists()


def test_code_is_installed_only_where_it_is_trusted_and_never_run(tmp_path: Path) -> None:
    made = bundles.draft()
    made.files["trainer_source/mine.py"] = f"open({str(tmp_path / 'run')!r}, 'w')".encode()
    made.rehash()
    place = bundles.write(tmp_path, made)
    with pytest.raises(AutolmkError, match=r"holds code[\s\S]*mine\.py[\s\S]*--trust-code"):
        install(place, tmp_path / "results")
    with pytest.raises(AutolmkError, match="holds code"), model_of(place):
        pass
    folder, _ = install(place, tmp_path / "results", trust_code=True)
    assert (folder / "trainer_source" / "mine.py").is_file() and not (tmp_path / "run").exists()


def test_another_model_is_not_overwritten(tmp_path: Path) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    folder = tmp_path / "results" / "Dataset000_Example" / bundles.MODEL
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text("mine")
    with pytest.raises(AutolmkError, match="another model"):
        install(place, tmp_path / "results")
    assert everything(tmp_path / "results")[f"Dataset000_Example/{bundles.MODEL}/plans.json"] == b"mine"
    assert sorted(p.name for p in folder.parent.iterdir()) == [bundles.MODEL]


def test_pages_are_made_anew_of_the_card(tmp_path: Path) -> None:
    made = bundles.draft()
    made.files["model_card.html"] = b"<script>alert(1)</script>"
    made.rehash()
    folder, _ = install(bundles.write(tmp_path, made), tmp_path / "results")
    assert b"<script" not in (folder / "model_card.html").read_bytes()


def test_a_temporary_copy_is_private_and_removed(tmp_path: Path) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    with model_of(place) as folder:
        assert folder.name == bundles.MODEL and (folder / "fold_0" / "config.json").is_file()
        assert folder.parent.stat().st_mode & 0o077 == 0
    assert not folder.parent.exists()


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    for name, data in (("no.zip", b"no zip"), ("empty.zip", b""), ("png.zip", b"\x89PNG" + bytes(500))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AutolmkError, match=r"damaged[\s\S]*autolmk_export"):
            read(tmp_path / name)
    with pytest.raises(AutolmkError, match="missing"):
        read(tmp_path / "nowhere.zip")
    with pytest.raises(AutolmkError, match="no bundle"):
        unpack(tmp_path, tmp_path / "target")


def test_what_a_killed_command_left_is_removed_and_files_of_others_stay(tmp_path: Path) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    begun = tmp_path / "results" / "Dataset000_Example" / f".installing_{bundles.MODEL}"
    (begun / bundles.MODEL / "fold_0").mkdir(parents=True)
    (begun / bundles.MODEL / "plans.json").write_text("half")
    (begun / "notes.txt").write_text("mine")
    folder, new = install(place, tmp_path / "results")
    assert new and (folder / "plans.json").read_text() != "half"
    assert [p.name for p in begun.iterdir()] == ["notes.txt"]
    (begun / "notes.txt").unlink()
    shutil.rmtree(folder)
    assert install(place, tmp_path / "results")[1] and not begun.exists()


def test_whoever_installs_second_finds_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    make, first = installing.make_folder, []

    def make_late(folder: Path) -> None:
        if not first:
            first.append(folder)
            assert install(place, tmp_path / "results")[1]
        make(folder)

    monkeypatch.setattr(installing, "make_folder", make_late)
    assert not install(place, tmp_path / "results")[1]
    with exclusive_of(tmp_path), pytest.raises(AutolmkError, match="another process is at work"):
        shutil.rmtree(tmp_path / "results" / "Dataset000_Example" / bundles.MODEL)
        install(place, tmp_path / "results")


@contextmanager
def exclusive_of(tmp_path: Path) -> Iterator[None]:
    """Another process installs the model."""
    folder = tmp_path / "results" / "Dataset000_Example" / f".installing_{bundles.MODEL}"
    folder.mkdir()
    with exclusive(folder):
        yield


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o700), (0o002, 0o775), (0o022, 0o755)])
def test_whom_an_installed_model_lets_in_is_said_by_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    place = bundles.write(tmp_path, bundles.draft())
    before = os.umask(umask)
    try:
        folder, _ = install(place, tmp_path / "results")
    finally:
        os.umask(before)
    folders = [folder.parent, folder, *(p for p in folder.rglob("*") if p.is_dir())]
    assert {p.stat().st_mode & 0o777 for p in folders} == {mode}
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {mode & 0o666}
