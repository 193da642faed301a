"""What `drpo doctor` does: starts what is slow at once, looks at the rest meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.spec import Spec, load
from drpo_cli.tools.doctor import devices, folders, needs, resources, selftests, show, software
from drpo_cli.tools.doctor.findings import Finding, looked, ok, wrong
from drpo_cli.tools.doctor.probe import Answer, ask
from drpo_cli.tools.doctor.sandbox import sandbox

TORCH_S = 60.0


def doctor(path: Path | None, json_out: bool) -> int:
    """Shows every finding; returns 1 where something is wrong."""
    findings = examine(path)
    if json_out:
        sys.stdout.write(show.as_json(findings) + "\n")
    else:
        show.show(findings, sys.stdout)
    return EXIT_RUN_FAILED if any(each.status == "wrong" for each in findings) else 0


@dataclass(frozen=True)
class Slow:
    """What takes seconds: processes that import, and the sandbox's own trial."""

    training: Future[Answer]
    models: Future[Answer]
    torchvision: Future[list[Finding]]
    all_reduce: Future[Answer]
    sandbox: Future[list[Finding]]


def examine(path: Path | None) -> list[Finding]:
    """All findings, in the order they are shown; with a spec, also what that one needs."""
    spec, said = _spec(path)
    engine = spec.rollout.type if spec else None
    vllm = engine == "vllm" or (engine is None and software.has_vllm())
    with ThreadPoolExecutor() as pool:
        slow = _started(pool, spec, vllm)
        found = list(looked("versions", software.python_and_packages))
        found += slow.torchvision.result()
        training = slow.training.result()
        found.append(software.imports("torch", ["torch"], training))
        gpus = len(training.said.get("gpus") or ())
        found += looked("engine", lambda: software.one_engine(engine, gpus > 0))
        found += software.models_and_vllm(slow.models.result(), vllm)
        found += _hardware(spec, training, gpus)
        found += slow.sandbox.result()
        found += _folders(spec)
        found += looked("DRPO loss", lambda: selftests.loss(training))
        found += looked("all-reduce", lambda: selftests.all_reduce(slow.all_reduce.result()))
    return [*found, *said, *(_of_spec(spec, gpus) if spec else ())]


def _spec(path: Path | None) -> tuple[Spec | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        spec = load(path)
    except UserError as error:
        return None, [wrong("spec", str(error), f"drpo check {path}")]
    return spec, [ok("spec", f"{path} is valid")]


def _started(pool: ThreadPoolExecutor, spec: Spec | None, vllm: bool) -> Slow:
    names = [*software.MODELS, *([software.VLLM] if vllm else [])]
    needed = needs.sandbox_of(spec) if spec else None
    return Slow(
        models=pool.submit(software.ask_imports, *names),  # first: it takes longest
        all_reduce=pool.submit(selftests.ask_all_reduce),
        training=pool.submit(ask, "drpo_cli.tools.doctor.probes.training", seconds=TORCH_S),
        torchvision=pool.submit(lambda: list(looked("torchvision", software.torchvision))),
        sandbox=pool.submit(lambda: list(looked("sandbox", lambda: sandbox(needed)))),
    )


def _hardware(spec: Spec | None, training: Answer, gpus: int) -> Iterator[Finding]:
    workers = needs.reward_processes(spec) * max(1, gpus) if spec else 0
    yield from looked("devices", lambda: devices.devices(training))
    yield from looked("interconnect", lambda: devices.interconnect(training))
    yield from looked("CPU", lambda: resources.threads(gpus))
    yield from looked("memory", resources.memory)
    yield from looked("shared memory", lambda: resources.shared_memory(gpus))
    yield from looked("limits", lambda: resources.limits(workers))


def _folders(spec: Spec | None) -> Iterator[Finding]:
    runs = spec.run.folder if spec else Path("runs").absolute()
    takes = needs.disk(spec) if spec else 0
    yield from looked("runs", lambda: folders.folder("runs", runs, "run.folder", takes))
    yield from looked(
        "temporary files",
        lambda: folders.folder("temporary files", folders.temporary(), "TMPDIR"),
    )
    yield from looked(
        "hub cache", lambda: folders.folder("hub cache", folders.hub_cache(), "HF_HOME")
    )


def _of_spec(spec: Spec, gpus: int) -> Iterator[Finding]:
    yield from looked("models", lambda: needs.models(spec))
    yield from looked("run", lambda: needs.processes(spec, gpus))
    yield from looked("plugins", lambda: needs.plugins(spec))
