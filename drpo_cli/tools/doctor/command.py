"""`drpo doctor`: starts the slow checks in processes, and does the others meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.launch.place import Place
from drpo_cli.spec import Spec, load
from drpo_cli.tools.doctor import devices, machine, needs, software
from drpo_cli.tools.doctor.across import check_nodes
from drpo_cli.tools.doctor.findings import Finding, as_json, ok, run_check, show, wrong
from drpo_cli.tools.doctor.probe import ask

TORCH_S, IMPORT_S, ALL_REDUCE_S = 60.0, 120.0, 45.0
"""Time limits of the processes."""


def doctor(path: Path | None, json_out: bool, place: Place | None = None) -> int:
    """Prints every finding; returns 1 when something is wrong, else 0."""
    findings = examine(path, place)
    if json_out:
        sys.stdout.write(as_json(findings) + "\n")
    else:
        show(findings, sys.stdout)
    return EXIT_RUN_FAILED if any(each.status == "wrong" for each in findings) else 0


def examine(path: Path | None, place: Place | None = None) -> list[Finding]:
    """All findings in the order in which they are shown; with a spec, also its own.

    With a place, those of all nodes come last. They are found first, while the others wait.
    """
    spec, of_spec = _load(path)
    runs = spec.run.folder if spec else Path("runs").absolute()
    across = run_check("nodes", lambda: check_nodes(place, runs)) if place else []
    engine = spec.rollout.type if spec else None
    vllm = engine == "vllm" or (engine is None and software.has_vllm())
    names = [*software.MODELS, *([software.VLLM] if vllm else [])]
    box = needs.sandbox_of(spec) if spec else None
    with ThreadPoolExecutor() as pool:
        imports = pool.submit(ask, "import_names", *names, seconds=IMPORT_S)  # the slowest
        adding = pool.submit(ask, "add_up", seconds=ALL_REDUCE_S)
        describing = pool.submit(ask, "describe_torch", seconds=TORCH_S)
        sandbox = pool.submit(run_check, "sandbox", lambda: machine.check_sandbox(box))
        vision = pool.submit(run_check, "torchvision", _check_torchvision)
        torch = describing.result()
        gpus = len(torch.said.get("gpus") or ())
        return [
            *run_check("versions", software.check_versions),
            *vision.result(),
            software.check_import("torch", ["torch"], torch),
            *run_check("engine", lambda: software.check_engine(engine, gpus > 0)),
            *software.check_models_and_vllm(imports.result(), vllm),
            *run_check("devices", lambda: devices.check_gpus(torch)),
            *_check_machine(spec, gpus),
            *sandbox.result(),
            *_check_folders(spec),
            *run_check("all-reduce", lambda: devices.check_all_reduce(adding.result())),
            *of_spec,
            *(_check_needs(spec, gpus) if spec else ()),
            *across,
        ]


def _load(path: Path | None) -> tuple[Spec | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        spec = load(path)
    except UserError as error:
        return None, [wrong("spec", error.what, error.fix or f"drpo check {path}")]
    return spec, [ok("spec", f"{path} is valid")]


def _check_torchvision() -> Iterator[Finding]:
    """Whether torchvision fits torch, where it is installed: a wrong one breaks transformers."""
    if util.find_spec("torchvision") is not None:
        answer = ask("import_names", "torchvision", seconds=IMPORT_S)
        yield software.check_import("torchvision", ["torchvision"], answer)


def _check_machine(spec: Spec | None, gpus: int) -> Iterator[Finding]:
    processes = needs.count_processes(spec) * max(1, gpus) if spec else 0
    yield from run_check("CPU", lambda: machine.check_threads(gpus))
    yield from run_check("memory", machine.check_memory)
    yield from run_check("shared memory", lambda: machine.check_shared_memory(gpus))
    yield from run_check("limits", lambda: machine.check_limits(processes))


def _check_folders(spec: Spec | None) -> Iterator[Finding]:
    runs = spec.run.folder if spec else Path("runs").absolute()
    space = needs.checkpoint_space(spec) if spec else 0
    temporary, hub = machine.temporary_folder, machine.hub_cache
    check = machine.check_folder
    yield from run_check("runs", lambda: check("runs", runs, "run.folder", space))
    yield from run_check("temporary files", lambda: check("temporary files", temporary(), "TMPDIR"))
    yield from run_check("hub cache", lambda: check("hub cache", hub(), "HF_HOME"))


def _check_needs(spec: Spec, gpus: int) -> Iterator[Finding]:
    yield from run_check("models", lambda: needs.check_models(spec))
    yield from run_check("run", lambda: needs.check_plan(spec, gpus))
    yield from run_check("plugins", lambda: needs.check_plugins(spec))
