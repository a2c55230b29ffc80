"""Thousands of damaged files and mistyped commands: none may crash, hang, leave anything half-written, call a failure a
success, or touch anything outside the folders that it was given.

    python benchmarks/fuzz.py --inputs 3000 --seed 0 --folder .verify/fuzz

A world is made once: datasets in every format, plans, preprocessed data, two trained folds, a packed model and
predictions of it. Each input is a copy of the world with one damaged file (or with damaged arguments), one command on
it, in a process of its own with bounds on CPU seconds and memory. The seed and the number of an input make it again:
`--only 1234` runs that one and shows what the command said. Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a process that was forked has one thread

from fuzz_world import Command, commands, make_world  # noqa: E402
from mutations import mutate, mutate_arguments  # noqa: E402

import autolmk  # noqa: E402

CPU_SECONDS, WALL_SECONDS, MEMORY = 60, 600, 6 << 30
ARGUMENTS_SHARE = 0.15  # of the inputs damage the arguments instead of a file
GOOD_EXITS = (0, 2, 3)
PRELOADED = (
    *("torch", "torch._dynamo", "torch.utils.data", "safetensors.torch", "blosc2", "regex", "jinja2", "joblib"),
    *("batchgenerators.transforms.noise_transforms", "acvl_utils.cropping_and_padding.bounding_boxes"),
    *("scipy.ndimage", "scipy.stats", "scipy.optimize", "scipy.spatial.transform", "scipy.cluster.hierarchy"),
    *("SimpleITK", "pydicom.pixels", "nibabel.nifti2", "PIL.Image", "tifffile", "imagecodecs"),
    *("matplotlib.font_manager", "matplotlib.figure", "matplotlib.backends.backend_agg"),
)
ENDS = {".png": b"IEND\xaeB`\x82", ".html": b"</html>"}


@dataclass
class Outcome:
    """Of one input. faults: what must not be; empty where all is well."""

    number: int
    command: str
    damage: str
    code: int
    output: str
    faults: list[str] = field(default_factory=list)


def main() -> int:
    """Run the inputs, print what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--inputs", type=int, default=3000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--folder", type=Path, default=ROOT / ".verify" / "fuzz")
    arguments.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--only", type=int, help="the number of one input, whose output is shown")
    arguments.add_argument("--command", help="only inputs of this command")
    args = arguments.parse_args()
    folder = args.folder.absolute()
    known = commands()
    numbers = [args.only] if args.only is not None else range(args.inputs)
    planned = [n for n in numbers if args.command in (None, chosen(known, n, args.seed).name)]
    for command in known:
        importlib.import_module(f"autolmk.cli.{command.module}")  # before the fork: once, not for each input
    preload()
    world = make_world(folder / "world", args.seed, run_command)
    if args.only is None:
        intact(known if args.inputs > len(known) else used(known, planned, args.seed), args.command, world, folder)
    outcomes = list(run_all(planned, args, world, folder, known))
    return report(outcomes, shown=args.only is not None)


def intact(known: list[Command], only: str | None, world: Path, folder: Path) -> None:
    """Every command on the undamaged world must succeed, or what follows would show nothing."""
    for command in known:
        if only in (None, command.name):
            outcome = one_input(-1, 0, world, folder / "run0", [command])
            if outcome.code != 0 or outcome.faults:
                sys.exit(f"undamaged: {command.name}: exit code {outcome.code}; {outcome.faults}\n{outcome.output}")


def preload() -> None:
    """What commands import when they run, so that each process that is forked has it."""
    for name in PRELOADED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(autolmk.__path__, "autolmk."):
        with contextlib.suppress(ImportError):  # what needs an extra that is not installed
            importlib.import_module(module.name)


def chosen(known: list[Command], number: int, seed: int) -> Command:
    """The command of an input."""
    return Random(f"{seed}-{number}-command").choices(known, [c.weight for c in known])[0]


def used(known: list[Command], numbers: list[int], seed: int) -> list[Command]:
    """Those of the commands that some inputs are of."""
    names = {chosen(known, number, seed).name for number in numbers}
    return [command for command in known if command.name in names]


def run_all(
    numbers: list[int], args: argparse.Namespace, world: Path, folder: Path, known: list[Command]
) -> Iterator[Outcome]:
    """The outcomes, in several processes, each of which forks one for each input."""
    if args.jobs <= 1 or len(numbers) < 4:
        for number in numbers:
            yield one_input(number, args.seed, world, folder / "run0", known)
        return
    files = []
    for job in range(args.jobs):
        file = folder / f"outcomes{job}.jsonl"
        file.unlink(missing_ok=True)  # of an earlier run
        files.append(file)
        if os.fork() == 0:
            with file.open("w") as stream:
                for number in numbers[job :: args.jobs]:
                    outcome = one_input(number, args.seed, world, folder / f"run{job}", known)
                    stream.write(json.dumps(vars(outcome)) + "\n")
                    stream.flush()
            os._exit(0)
    started, last = time.monotonic(), 0
    left = args.jobs
    while left:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        left -= pid != 0
        done = sum(file.read_text().count("\n") for file in files if file.exists())
        if sys.stderr.isatty() or done - last >= 250 or not left:
            print(f"{done} of {len(numbers)} inputs, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            last = done
        time.sleep(0.5)
    for file in files:
        for line in file.read_text().splitlines():
            yield Outcome(**json.loads(line))


def one_input(number: int, seed: int, world: Path, place: Path, known: list[Command]) -> Outcome:
    """Make the damage, run the command, look at what it left."""
    random, command = Random(f"{seed}-{number}"), chosen(known, number, seed)
    renew(world, place)
    words = command.arguments(place / "given")
    if number < 0:
        damage = "none"
    elif random.random() < ARGUMENTS_SHARE:
        words, damage = mutate_arguments(words, random)
        damage = f"{damage}: {words}"[:300]
    else:
        files = sorted(f for pattern in command.reads for f in (place / "given").glob(pattern) if f.is_file())
        file = random.choice(files)
        data, kind = mutate(file.read_bytes(), file.name, random)
        file.write_bytes(data)
        damage = f"{kind}: {file.relative_to(place)}"
    before = snapshot(place)
    code, output = run_command(command.module, words, place)
    outcome = Outcome(number, command.name, damage, code, output[-6000:])
    outcome.faults = faults_of(command, words, code, output, before, snapshot(place), place)
    return outcome


def renew(world: Path, place: Path) -> None:
    """Make `place` a copy of the world, by writing only what differs: quicker than a new copy for each input."""
    place.mkdir(parents=True, exist_ok=True)
    wanted, found = snapshot(world), snapshot(place)
    for name in sorted(found, reverse=True):  # what a folder holds before the folder
        if wanted.get(name) != found[name]:
            path = place / name
            path.rmdir() if found[name][2] == "folder" else path.unlink()
    for name in sorted(wanted):
        if wanted[name] != found.get(name):
            path = place / name
            path.mkdir() if wanted[name][2] == "folder" else shutil.copy2(world / name, path, follow_symlinks=False)


def run_command(module: str, words: list[str], place: Path) -> tuple[int, str]:
    """(exit code, what it printed) of a command in a process of its own; the code is negative where a signal ended
    it."""
    log = place.parent / f"{place.name}.log"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            bound_process(log, place)
            code = 1
            try:
                code = importlib.import_module(f"autolmk.cli.{module}").main(words)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
        os._exit(1)
    started = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - started > WALL_SECONDS:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # whatever it left running
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def bound_process(log: Path, place: Path) -> None:
    """In the forked process: its own session, output, working folder and home, and bounds."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.chdir(place / "elsewhere")
    os.environ.update(HOME=str(place / "home"), MPLBACKEND="Agg", MPLCONFIGDIR=str(place.parent / "matplotlib"))
    for name in ("raw", "preprocessed", "results"):
        os.environ.pop(f"autolmk_{name}", None)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def snapshot(place: Path) -> dict[str, tuple[int, int, str]]:
    """Of every file, link and folder: size, time of change (not of folders), and where a link points."""
    found = {}
    for path in place.rglob("*"):
        state = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        target = os.readlink(path) if path.is_symlink() else "folder" if is_folder else ""
        found[str(path.relative_to(place))] = (
            (0, 0, target) if is_folder else (state.st_size, state.st_mtime_ns, target)
        )
    return found


def faults_of(
    command: Command,
    words: list[str],
    code: int,
    output: str,
    before: dict[str, tuple[int, int, str]],
    after: dict[str, tuple[int, int, str]],
    place: Path,
) -> list[str]:
    """What must not be."""
    faults = []
    if code == -signal.SIGXCPU:
        faults.append(f"hang: over {CPU_SECONDS} CPU seconds")
    elif code not in GOOD_EXITS:
        faults.append(f"exit code {code}")
    if "internal error" in output or "Traceback (most recent call last)" in output:
        faults.append("internal error")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    allowed = tuple(f"given/{folder}" for folder in command.writes)
    given = command.arguments(place / "given")
    lost = [f"home/autolmk/{kind}" for kind in ("raw", "preprocessed", "results") if f"--{kind}" in {*given} - {*words}]
    others = (name for name in changed if not name.startswith(allowed) and not is_usual(name, lost))
    foreign = sorted(name for name in others if not is_named(name, words, place))
    if foreign:
        faults.append(f"touched outside its folders: {', '.join(foreign[:5])}")
    leftovers = sorted(n for n in after.keys() - before.keys() if is_temporary(Path(n)))
    if leftovers:
        faults.append(f"left over: {', '.join(leftovers[:5])}")
    for name in sorted(changed & after.keys()):
        broken = half_written(place / name)
        if broken:
            faults.append(f"half-written: {name}: {broken}")
    if code == 0 and any(line.startswith("error: ") for line in output.splitlines()):
        faults.append("exit code 0, though it speaks of an error")
    if code == 0 and words == given:
        faults += [f"exit code 0 without {name}" for name in command.leaves if f"given/{name}" not in after]
    if code in (2, 3) and not output.strip():
        faults.append("failed without a word")
    return faults


def is_usual(name: str, lost: list[str]) -> bool:
    """Whether a place lies in one of the default folders that count since an argument was lost, or is above it."""
    return any(name.startswith(place) or place.startswith(f"{name}/") for place in lost)


def is_named(name: str, words: list[str], place: Path) -> bool:
    """Whether an argument names this place, a folder above it, or something in this folder, which was made for it; in
    the command's working folder.
    """
    path = place / name
    for word in words:
        for part in (word, word.rpartition("=")[2]):
            with contextlib.suppress(ValueError, OSError):
                home = str(place / "home") if part.startswith("~") else ""
                named = (place / "elsewhere" / (home + part.removeprefix("~") if home else part)).resolve()
                if part and named != place and (path == named or named in path.parents):
                    return named not in place.parents
                if part and path in named.parents and path.is_dir() and named.exists():
                    return True
    return False


def is_temporary(path: Path) -> bool:
    """What a command should have taken away again."""
    return any(
        p.startswith(".writing_") or (p.startswith(".") and p.endswith(".tmp")) or p.endswith(".partial")
        for p in path.parts
    )


def half_written(file: Path) -> str:
    """Why a file that a command wrote is not whole; empty where it is."""
    if file.is_dir() or file.is_symlink():
        return ""
    data = file.read_bytes()
    try:
        if file.suffix == ".json":
            json.loads(data)
        elif file.suffix == ".csv" and data:
            rows = data.decode()
            if not rows.endswith("\n"):
                return "no line end"
        elif file.suffix in ENDS and ENDS[file.suffix] not in data[-100:]:
            return "no end"
        elif file.suffix == ".safetensors":
            from safetensors.numpy import load

            load(data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def report(outcomes: list[Outcome], *, shown: bool) -> int:
    """A table of commands, and every fault with the number that makes it again."""
    bad = [outcome for outcome in outcomes if outcome.faults]
    codes = collections.Counter((o.command, o.code) for o in outcomes)
    print(f"{'command':28}" + "".join(f"{f'exit {c}':>9}" for c in GOOD_EXITS) + f"{'other':>9}{'faults':>9}")
    for command in sorted({o.command for o in outcomes}):
        total = sum(n for (name, _), n in codes.items() if name == command)
        good = [codes[command, c] for c in GOOD_EXITS]
        faulty = sum(o.command == command for o in bad)
        print(f"{command:28}" + "".join(f"{n:9}" for n in good) + f"{total - sum(good):9}{faulty:9}")
    for outcome in sorted(bad, key=lambda o: o.number):
        print(f"\n#{outcome.number} {outcome.command}, {outcome.damage}\n  {'; '.join(outcome.faults)}")
        print("    " + "\n    ".join(outcome.output.strip().splitlines()[-6:])[:1500])
    if shown:
        for outcome in outcomes:
            print(
                f"\n#{outcome.number} {outcome.command}, {outcome.damage}: exit code {outcome.code}\n{outcome.output}"
            )
    kinds = collections.Counter(fault.partition(":")[0] for o in bad for fault in o.faults)
    said = ", ".join(f"{n} × {kind}" for kind, n in kinds.most_common()) or "nothing found"
    print(f"\n{len(outcomes)} inputs: {said}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
