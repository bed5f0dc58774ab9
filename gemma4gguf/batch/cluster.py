"""Those who answer on the machines of a Ray cluster: each actor is one model, in a process that Ray starts again.

In: entries, which say where a line stands and not what is in it: the actor reads the line and its pictures, from the
same paths. Out: `Answerer`s. So Ray carries small records only. Whose lines run again, and when, is `run`'s; Ray only
tells that an actor is lost.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..bundle.finding import find_model
from ..errors import InputError
from ..model import Gemma4
from .answerers import WAITING, of_model, slow
from .journal import Answer
from .lines import Entry
from .run import Answerer, AwayError

START_S = 600.0  # until the first model is there


class Remote:
    """A model on one of the machines. `file`: a path that is the same on all, or a name in each one's models folder."""

    def __init__(self, file: Path, places: int, files_from: Path | None, options: Mapping[str, Any]) -> None:
        self._model = Gemma4(find_model(file), parallel=places, isolate=True, **options)
        self._model.load()
        self._ask = of_model(self._model, places, files_from)[0].ask

    async def ready(self) -> None:
        """Return once the model is there."""

    async def answer(self, entry: Entry) -> Answer:
        return await self._ask(entry)


def pool(cpus: Sequence[int], threads: int | None) -> tuple[int, int]:
    """Processors that an actor takes, and how many actors, for nodes with so many processors.

    Without `threads`, each node has one actor, and one processor is left.
    """
    return (max(1, min(cpus) - 1), len(cpus)) if threads is None else (threads, sum(n // threads for n in cpus))


@asynccontextmanager
async def of_cluster(
    address: str, file: Path, places: int, files_from: Path | None, limit_s: float, options: Mapping[str, Any]
) -> AsyncIterator[list[Answerer]]:
    """The models of a cluster, until the block ends. `address`: as `ray.init` takes it; `limit_s`: for one answer.

    Raises InputError where no model starts.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"ray: {address}: {str(error).strip().splitlines()[0]}") from None
    try:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        each, count = pool([n for n in cpus if n] or [0], options.get("threads"))
        if not count or max(cpus) < each:
            raise InputError(f"threads is {each}: the nodes of {address} have {max(cpus)} processors at most")
        how: dict[str, Any] = {"num_cpus": each, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        kind = ray.remote(Remote).options(**how, max_concurrency=WAITING * places + 1)
        where = file.absolute() if file.exists() else file
        actors = [kind.remote(where, places, files_from, dict(options)) for _ in range(count)]
        ready = [asyncio.wrap_future(actor.ready.remote().future()) for actor in actors]
        await _first(ready, address)
        asks = [_asking(ray, actor, there, limit_s) for actor, there in zip(actors, ready, strict=True)]
        yield [Answerer(f"actor {number}", ask) for number, ask in enumerate(asks) for _ in range(WAITING * places)]
    finally:
        ray.shutdown()


async def _first(ready: Sequence[asyncio.Future[None]], address: str) -> None:
    done, _ = await asyncio.wait(ready, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise InputError(f"ray: no model has started on {address} within {START_S:g} s")
    if error := done.pop().exception():
        raise InputError(f"ray: {_said(error)}")


def _asking(ray: Any, actor: Any, ready: asyncio.Future[None], limit_s: float) -> Callable[[Entry], Awaitable[Answer]]:
    async def ask(entry: Entry) -> Answer:
        if not ready.done():
            raise AwayError("is starting")
        try:
            answer: Answer = await asyncio.wait_for(actor.answer.remote(entry), limit_s)
            return answer
        except asyncio.TimeoutError as error:
            ray.kill(actor, no_restart=False)
            raise slow(limit_s) from error
        except ray.exceptions.RayTaskError:  # what `answer` has raised: an AwayError or a FailedError is one, too
            raise
        except ray.exceptions.RayError as error:
            raise AwayError(_said(error)) from error

    return ask


def _said(error: BaseException) -> str:
    """Ray's messages have many lines; the last one has what was raised."""
    return str(error).strip().splitlines()[-1].strip()
