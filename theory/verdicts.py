"""Running claims: by name, by topic, or from a file of one's own."""

import importlib.util
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from threadpoolctl import threadpool_limits

from sde_sgd._checks import choice, whole

from . import claims
from .claim import Claim, Level, Verdict

LEVELS = {"fast": 1.0, "full": 10.0}


def check(
    names: Iterable[str] | None = None,
    *,
    level: str = "fast",
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> list[Verdict]:
    """Verdicts of claims, in their order; the same bits whatever `jobs`.

    Parameters
    ----------
    names : of claims, of topics (all of their claims), or of Python files that hold claims; all claims where None.
    level : "fast", or "full", with errors about ten times smaller.
    seed : of what is random.
    jobs : processes at work.
    progress : called as progress(claims done, claims).

    Raises ValueError for an unknown name, level, or number of jobs.
    """
    work = Level(LEVELS[choice("level", level, list(LEVELS))], whole("seed", seed, 0, 2**63 - 1))
    jobs = whole("jobs", jobs, 1, 1024)
    asked = list(find(names))
    found: dict[int, Verdict] = {}
    if jobs == 1 or len(asked) < 2:
        for done, (origin, name) in enumerate(asked):
            found[done] = _verdict(origin, name, work)
            if progress is not None:
                progress(done + 1, len(asked))
    else:
        with ProcessPoolExecutor(min(jobs, len(asked)), multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(_verdict, *one, work): place for place, one in enumerate(asked)}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    if progress is not None:
                        progress(len(found), len(asked))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [found[place] for place in range(len(asked))]


def find(names: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """(file, or "" for the package's own; name) of each claim that is asked for, each once."""
    found: dict[tuple[str, str], None] = {}
    for name in claims.CLAIMS if names is None else names:
        if name in claims.TOPICS:
            found.update(dict.fromkeys(("", member) for member in claims.TOPICS[name]))
        elif name.endswith(".py"):
            members = _of_file(name)
            if not members:
                raise ValueError(f"{name} holds no Claim at its top level; make one by Claim(name=…, check=…, …)")
            found.update(dict.fromkeys((name, member) for member in members))
        else:
            choice("claim", name, [*claims.CLAIMS, *claims.TOPICS])
            found["", name] = None
    return list(found)


def claim_of(origin: str, name: str) -> Claim:
    """The claim that `find` names."""
    return (_of_file(origin) if origin else claims.CLAIMS)[name]


def _of_file(path: str) -> dict[str, Claim]:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; give a Python file, a claim or a topic")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return claims.of(module)


def _verdict(origin: str, name: str, level: Level) -> Verdict:
    with threadpool_limits(1, user_api="blas"):  # the order of sums, hence the bits, would follow the threads
        return claim_of(origin, name).verdict(level)
