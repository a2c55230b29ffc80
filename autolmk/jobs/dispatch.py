"""Jobs side by side: on this machine, a few at a time, through joblib; or as tasks of a Dask or Ray cluster.

Every job is a process of its own wherever it runs. One that was killed, as by a system short of memory, is tried once
more, alone. Where a Dask worker is lost, Dask gives its job to another one, and training goes on from its checkpoint.
A cluster's workers need autolmk installed, and the same folders under the same paths.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import queue
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from autolmk.errors import AutolmkError, counted
from autolmk.files.serialization import write_bytes
from autolmk.jobs.job import FREE_GPU, GRACE_SECONDS, Job, JobResult, Place, failure, run_job
from autolmk.jobs.watching import Watch
from autolmk.parallel import default_workers, processors

DASK_PREFIXES = ("tcp://", "tls://", "ucx://", "ws://", "wss://")
ENCRYPTED = ("tls://", "wss://")
RAY, RAY_PREFIX = "ray", "ray://"
CONNECT_SECONDS = 30.0
WORKER_SECONDS = 120  # to wait for a worker of a cluster that has none
LOOK_SECONDS = 2.0  # between looks whether a cluster still has workers
BEAT_SECONDS, SILENCE_SECONDS = 5.0, 90.0  # a network file system may show a change a minute late
GPU = "GPU"  # the resource that Dask workers may declare
Run = Callable[[Sequence[Job]], Iterator[JobResult]]
logger = logging.getLogger(__name__)


def run_jobs(
    jobs: Sequence[Job],
    *,
    places: Sequence[Place],
    label: str,
    folder: Path,
    scheduler: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> list[JobResult]:
    """Run those of `jobs` that are not done, one a place at a time, and give their results.

    scheduler: address of a Dask scheduler (tcp://...), `ray` or ray://...; the jobs then run on its workers, one a
    thread, or one a declared GPU, each on a card of its own, and of `places` only the first one's device counts.
    folder: for the heartbeat that tells those workers that somebody still waits. label: what the progress is called.
    echo: takes what a single job says, as it says it.
    A job that fails costs the others nothing; afterwards AutolmkError names those that failed, with the last lines and
    the place of their logs. On an interruption the jobs are asked to save and stop.
    """
    todo = [job for job in jobs if not job.done]
    if not todo:
        return []
    results: dict[str, JobResult] = {}
    gpu = any("device" in job.takes for job in todo)
    with _backend(scheduler, places, folder, gpu) as run, Watch(todo, label, echo) as watch:
        for result in run(todo):
            results[result.job.name] = result
            watch.ended(result)
        for job in [result.job for result in results.values() if result.killed]:
            logger.warning("%s was killed; it is tried once more, alone", job.name)
            for result in run([job]):
                results[job.name] = result
                watch.ended(result)
    failed = [result for result in results.values() if not result.good]
    if failed:
        raise failure(failed)
    return [results[job.name] for job in todo]


def local_places(devices: Sequence[str], n_jobs: int, *, at_a_time: int | None = None, bytes_a_job: int) -> list[Place]:
    """The places for jobs on this machine: one for each GPU of `devices`; without any, as many as its cores and half of
    its free memory allow. The cores are shared out. n_jobs: more places would be idle. at_a_time: so many instead.
    """
    n = at_a_time or len(devices) or default_workers(bytes_a_job)
    n = max(1, min(n, n_jobs))
    cores = max(1, processors() // n)
    return [Place(devices[k % len(devices)] if devices else "cpu", cores) for k in range(n)]


def idle_gpus(devices: Sequence[str], jobs: Sequence[Job]) -> str | None:
    """The words to say where more GPUs of this machine are there than trainings, as each of these takes one GPU; else
    None."""
    todo = [job for job in jobs if not job.done]
    if not 0 < len(todo) < len(devices):
        return None
    each = max(2, len(devices) // len(todo))
    return (
        f"{len(devices)} GPUs, and {counted(len(todo), 'training')} of one GPU each: the others are idle. One training "
        f"is sooner done on several: end this run, train with the line below, and give the command of this run again\n"
        f"  {shlex.join([f'autolmk_{todo[0].command[0]}', *todo[0].command[1:]])} -num_gpus {each}"
    )


def check_scheduler(address: str) -> None:
    """Raise AutolmkError where an address names no kind of cluster that is known, or what it needs is not installed."""
    if address == RAY or address.startswith(RAY_PREFIX):
        _needed("ray")
    elif address.startswith(DASK_PREFIXES):
        _needed("distributed", "dask")
    else:
        raise AutolmkError(
            "a scheduler's address cannot be read",
            found=address,
            expected="tcp://HOST:PORT of a Dask scheduler, ray, or ray://HOST:PORT",
            remedy="correct --scheduler, or leave it out to use this machine",
        )


def cluster_slots(address: str, *, gpu: bool) -> int:
    """The number of jobs that a cluster runs at a time: its declared GPUs where `gpu` and there are any, else its
    workers' threads. AutolmkError where it cannot be reached or has no worker.
    """
    if not address.startswith(DASK_PREFIXES):
        with _ray(address, Place("auto", 1), gpu=gpu):
            found = _needed("ray").cluster_resources()
            return max(1, int((found.get(GPU) if gpu else None) or found.get("CPU", 1)))
    with _client(address) as client:
        return sum(_slots(client, gpu=gpu)[0].values())


def _backend(scheduler: str | None, places: Sequence[Place], folder: Path, gpu: bool) -> AbstractContextManager[Run]:
    if scheduler is None:
        return _local(places)
    check_scheduler(scheduler)
    if scheduler.startswith(DASK_PREFIXES):
        return _dask(scheduler, places[0].device, folder, gpu=gpu and places[0].device != "cpu")
    return _ray(scheduler, places[0], gpu=gpu and places[0].device != "cpu")


# -- this machine -----------------------------------------------------------------------------------------------------


@contextmanager
def _local(places: Sequence[Place]) -> Iterator[Run]:
    """Each job waits in a thread of its own, so that its process ends with it; see `parallel.end_with`."""
    stop = threading.Event()
    free: queue.Queue[Place] = queue.Queue()
    for place in places:
        free.put(place)

    def one(job: Job) -> JobResult:
        place = free.get()
        try:
            return run_job(job, place, lambda: not stop.is_set())
        finally:
            free.put(place)

    def run(jobs: Sequence[Job]) -> Iterator[JobResult]:
        return _results(Parallel(min(len(places), len(jobs)), "threading", **_AS_THEY_END)(map(delayed(one), jobs)))

    try:
        yield run
    except BaseException:
        stop.set()
        if free.qsize() < len(places):
            logger.info("asking the jobs to save and stop")
        with contextlib.suppress(queue.Empty):
            for _ in places:
                free.get(timeout=GRACE_SECONDS)  # all ended
        raise


_AS_THEY_END: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1, "pre_dispatch": "all"}


def _results(found: Iterable[Any]) -> Iterator[JobResult]:
    yield from found


# -- Dask -------------------------------------------------------------------------------------------------------------


@contextmanager
def _dask(address: str, device: str, folder: Path, *, gpu: bool) -> Iterator[Run]:
    with _client(address) as client, _heartbeat(folder) as file:
        slots, declared = _slots(client, gpu=gpu)
        resources, where = ({GPU: 1}, FREE_GPU) if declared else (None, device)

        def run(jobs: Sequence[Job]) -> Iterator[JobResult]:
            tasks = [
                client.submit(run_on_worker, job, where, slots, file, pure=False, resources=resources) for job in jobs
            ]
            return _of_living_workers(_as_they_end(tasks, client))

        yield run


def _as_they_end(tasks: Sequence[Any], client: Any) -> Iterator[JobResult]:
    """What Dask's tasks give. Always tasks of the cluster, also where it has one slot. Workers may come and go, as long
    as there are some again within WORKER_SECONDS; else AutolmkError."""
    ended: queue.Queue[Any] = queue.Queue()
    for task in tasks:
        task.add_done_callback(ended.put)
    left, seen = len(tasks), time.monotonic()
    while left:
        try:
            task = ended.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if client.status != "running":
                raise _no_worker(client, "the connection to the scheduler is lost") from None
            if client.scheduler_info(n_workers=-1)["workers"]:
                seen = time.monotonic()
            elif time.monotonic() - seen > WORKER_SECONDS:
                raise _no_worker(client, "the Dask scheduler has no worker any more") from None
            continue
        left, seen = left - 1, time.monotonic()
        yield task.result()


def _no_worker(client: Any, problem: str) -> AutolmkError:
    return AutolmkError(
        problem,
        found=client.scheduler.address if client.scheduler is not None else client.status,
        expected=f"at least one worker within {WORKER_SECONDS} s",
        remedy="start some: dask worker ADDRESS --nthreads 1, with --resources GPU=1 for one GPU each; then give the "
        "same command again: what is done is kept",
    )


def run_on_worker(job: Job, device: str, slots: Mapping[str, int], heartbeat: Path) -> JobResult:
    """`run_job` in a Dask worker, as long as somebody waits for it. slots: host -> jobs at a time there."""
    distributed = _needed("distributed", "dask")
    worker = distributed.get_worker()
    at_a_time = slots.get(_host(worker.address), worker.state.nthreads)
    return run_job(job, Place(device, max(1, processors() // max(1, at_a_time))), Pulse(heartbeat))


def _slots(client: Any, *, gpu: bool) -> tuple[dict[str, int], bool]:
    """(host -> jobs at a time there, whether these are declared GPUs)."""
    end = time.monotonic() + WORKER_SECONDS
    while not (workers := client.scheduler_info(n_workers=-1)["workers"]):
        if time.monotonic() > end:
            raise _no_worker(client, "the Dask scheduler has no worker")
        time.sleep(1)
    declared = gpu and any(worker["resources"].get(GPU) for worker in workers.values())
    slots: dict[str, int] = {}
    for place, worker in workers.items():
        n = int(worker["resources"].get(GPU, 0)) if declared else int(worker["nthreads"])
        slots[_host(place)] = slots.get(_host(place), 0) + n
    return slots, declared


def _host(address: str) -> str:
    """Of a worker's address such as tcp://10.0.0.1:4567."""
    return address.rpartition("://")[2].rpartition(":")[0]


def _of_living_workers(found: Iterable[Any]) -> Iterator[JobResult]:
    distributed = _needed("distributed", "dask")
    try:
        yield from found
    except distributed.scheduler.KilledWorker as error:
        raise AutolmkError(
            "workers of the Dask cluster died again and again",
            found=" ".join(str(error).split())[:300],
            remedy="see the workers' logs; once they live, give the same command again: what is done is kept",
        ) from None


@contextmanager
def _client(address: str) -> Iterator[Any]:
    distributed = _needed("distributed", "dask")
    if not address.startswith(ENCRYPTED):
        logger.warning("whoever reaches %s can run code as you: keep the port closed to others, or use tls://", address)
    if address.startswith(ENCRYPTED):
        _require_certificates(distributed, address)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise AutolmkError(
            "the Dask scheduler cannot be reached",
            found=f"{address}: {error}",
            remedy="start it with `dask scheduler`, and give the address that it says to --scheduler",
        ) from None
    with client:
        yield client


def _require_certificates(distributed: Any, address: str) -> None:
    """AutolmkError where Dask's configuration names no certificates, or none that can be read. Asked before a client is
    made: one that fails leaves its event loop behind, and may block the next one for ever when it is collected."""
    problem = "Dask's configuration names no certificates"
    try:
        if distributed.Security().get_connection_args("client")["ssl_context"] is not None:
            return
    except OSError as error:  # ssl.SSLError is one
        problem = str(error)
    raise AutolmkError(
        "the Dask scheduler cannot be spoken to",
        found=f"{address}: {problem}",
        expected="for tls://, certificates in Dask's configuration",
        remedy="set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to the files",
    )


@contextmanager
def _heartbeat(folder: Path) -> Iterator[Path]:
    """A file that changes as long as this process lives and waits. What killed runs left is removed, so that jobs of
    theirs end too: only one run at a time may use the folder."""
    for file in folder.glob("alive_" + 8 * "[0-9a-f]"):
        file.unlink(missing_ok=True)
    file, over = folder / f"alive_{uuid.uuid4().hex[:8]}", threading.Event()
    write_bytes(file, b"0")

    def beat() -> None:
        n = 0
        while not over.wait(BEAT_SECONDS):
            n += 1
            write_bytes(file, str(n).encode())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield file
    finally:
        over.set()
        thread.join()
        file.unlink(missing_ok=True)


class Pulse:
    """Whether the run that keeps a heartbeat file still waits: the file is there, and has changed of late."""

    def __init__(self, file: Path, silence: float = SILENCE_SECONDS, every: float = 2.0) -> None:
        self.file, self.silence, self.every = file, silence, every
        self._seen: bytes | None = None
        self._changed = self._looked = -silence
        self._alive = True

    def __call__(self) -> bool:
        """Looks at the file at most every few seconds."""
        now = time.monotonic()
        if now - self._looked < self.every or not self._alive:
            return self._alive
        self._looked = now
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            self._alive = False
            return False
        if content != self._seen:
            self._seen, self._changed = content, now
        self._alive = now - self._changed < self.silence
        return self._alive


# -- Ray --------------------------------------------------------------------------------------------------------------


@contextmanager
def _ray(address: str, place: Place, *, gpu: bool) -> Iterator[Run]:
    """As tasks of Ray. `ray`: what ray.init() finds or starts."""
    ray = _needed("ray")
    try:
        ray.init(address=None if address == RAY else address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise AutolmkError(
            "the Ray cluster cannot be reached", found=f"{address}: {error}", remedy="correct --scheduler"
        ) from None
    task = ray.remote(run_job)
    if gpu and ray.cluster_resources().get(GPU):
        task, place = task.options(num_gpus=1), Place("cuda", place.cores)  # Ray lets a task see its own GPU alone

    def run(jobs: Sequence[Job]) -> Iterator[JobResult]:
        left = [task.remote(job, place) for job in jobs]
        while left:
            (ended,), left = ray.wait(left, num_returns=1)
            yield ray.get(ended)

    try:
        yield run
    finally:
        ray.shutdown()


def _needed(module: str, extra: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AutolmkError(
            f"{extra or module} is not installed",
            found=str(error),
            remedy=f"pip install 'autolmk[{extra or module}]'",
        ) from None
