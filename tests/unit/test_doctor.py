"""What the doctor says of machines that are really broken in one way, and of this one."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from drpo_cli.runs.checkpoints import checkpoint_bytes
from drpo_cli.runs.versions import MATRIX
from drpo_cli.sandbox import landlock
from drpo_cli.spec import load
from drpo_cli.tools.doctor import devices, machine, needs, software
from drpo_cli.tools.doctor.findings import Finding, ok, run_check, show, warning, wrong
from drpo_cli.tools.doctor.probe import ask
from support.command import drpo
from support.models import tiny_model
from support.specs import SMALLEST

ROOT = Path(__file__).parents[2]


def found(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    """Findings by their check."""
    assert "Traceback" not in done.stderr, done.stderr
    return {each["check"]: each for each in json.loads(done.stdout)["findings"]}


def packages(folder: Path, **sources: str) -> str:
    """A PYTHONPATH that finds packages of these sources first."""
    for name, source in sources.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)
    return os.pathsep.join([str(folder), str(ROOT)])


def test_this_machine_can_run_what_is_tested_on_it(tmp_path: Path) -> None:
    spec = tmp_path / "run.toml"
    model = tiny_model(tmp_path / "model")
    judge = '[[reward]]\ntype = "judge"\nmodel = "m"\nrubric = "r"\napi_key_env = "NO_SUCH_KEY"\n'
    judge += "[rollout]\nmax_new_tokens = 8\n"
    spec.write_text(SMALLEST.replace("some-org/some-model", str(model)) + judge)
    done = drpo("doctor", spec, "--json")
    lines = found(done)
    for check in ("torch", "import vLLM", "all-reduce", "spec", "model", "run"):
        assert lines[check]["status"] == "ok", lines[check]
    assert {check for check, line in lines.items() if line["status"] == "wrong"} == {
        "rewards judge"
    }
    assert "NO_SUCH_KEY" in lines["rewards judge"]["found"] and done.returncode == 1
    weights = needs.count_weights(model)
    assert weights and needs.checkpoint_space(load(spec)) == 5 * checkpoint_bytes(weights)


def test_each_thing_that_is_broken_is_named_with_its_fix(tmp_path: Path) -> None:
    path = packages(
        tmp_path,
        torchvision='raise RuntimeError("operator torchvision::nms does not exist")',
        vllm='raise ImportError("libcudart.so.13: cannot open shared object file: No such file")',
    )
    spec = tmp_path / "run.toml"
    spec.write_text("[run]\nname = 3\n")
    given = {"HF_HOME": "/proc/none", "OMP_NUM_THREADS": "many", "GLOO_SOCKET_IFNAME": "eth99"}
    done = drpo("doctor", spec, "--json", PYTHONPATH=path, **given)
    lines = found(done)
    bad = {check: line for check, line in lines.items() if line["status"] == "wrong"}
    assert done.returncode == 1
    assert set(bad) == {"import torchvision", "import vLLM", "hub cache", "all-reduce", "spec"}
    nms = bad["import torchvision"]
    assert "operator torchvision::nms does not exist" in nms["found"]
    assert nms["fix"].endswith("pip uninstall torchvision torchaudio torchcodec")
    assert "build for CUDA" in bad["import vLLM"]["found"]
    assert "rank 0: started, GLOO_SOCKET_IFNAME is eth99" in bad["all-reduce"]["found"]
    assert "unset GLOO_SOCKET_IFNAME" in bad["all-reduce"]["fix"]
    assert "run.toml" in bad["spec"]["found"] and "drpo check" in bad["spec"]["fix"]
    assert lines["CPU"]["status"] == "warning" and "many" in lines["CPU"]["found"]
    assert lines["import transformers"]["status"] == "ok"


def test_without_a_torch_that_imports_the_other_checks_still_run(tmp_path: Path) -> None:
    path = packages(tmp_path, torch='raise ImportError("torch.so: undefined symbol: _ZN3c10")')
    done = drpo("doctor", PYTHONPATH=path)
    lines = done.stdout.splitlines()
    torch = next(line for line in lines if "import torch " in line)
    assert torch.startswith("wrong") and "undefined symbol: _ZN3c10" in torch
    assert lines[lines.index(torch) + 1].split()[0] == "fix:"
    assert any(re.match(r"warning  all-reduce .*not tried", line) for line in lines)
    assert any(re.match(r"warning  devices .*torch does not import", line) for line in lines)
    assert any(re.match(r"ok       memory", line) for line in lines)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout and all(line == line.rstrip() for line in lines)


def test_the_matrix_is_what_the_tests_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pinned = {(r := Requirement(text)).name: r.specifier for text in wanted}
    pinned["python"] = SpecifierSet(project["requires-python"])
    for name, versions in MATRIX.items():
        assert SpecifierSet(versions.allowed) == pinned[name], name
    torch = re.search(r"TORCH_VERSION \?= ([\d.]+)", (ROOT / "Makefile").read_text())
    assert torch and MATRIX["torch"].tested == f"=={torch[1]}"
    assert {f.check: f.status for f in software.check_versions()}["torch"] == "ok"


@pytest.mark.parametrize(
    ("cores", "given", "status"),
    [
        (8, None, "ok"),
        (8, "8", "ok"),
        (8, "1", "warning"),
        (8, "16", "warning"),
        (8, "0", "warning"),
    ],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, given: str | None, status: str
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    (line,) = machine.check_threads(gpus=0)
    assert line.status == status and "8 cores" in line.found


def test_few_files_and_little_room(tmp_path: Path) -> None:
    code = (
        "import resource; from drpo_cli.tools.doctor.machine import check_limits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "(line,) = check_limits(0); print(line.status, line.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("warning ulimit -n 4096")
    (line,) = machine.check_folder("runs", tmp_path / "to" / "be", "run.folder", needed=2**60)
    assert line.status == "wrong" and "checkpoints of this spec take" in line.found
    (line,) = machine.check_folder("runs", tmp_path / "to" / "be", "run.folder")
    assert line.status == "ok" and not (tmp_path / "to").exists()
    (line,) = run_check("gone", lambda: machine.check_folder("x", Path("a" * 5000), "run.folder"))
    assert line.status == "warning" and "could not be checked" in line.found


def test_a_probe_that_takes_too_long_is_killed() -> None:
    answer = ask("add_up", seconds=0.2)
    assert answer.status is None
    (line,) = devices.check_all_reduce(answer)
    assert line.status == "warning" and "killed" in line.found


def test_without_bubblewrap_the_doctor_says_what_is_not_kept_from_code() -> None:
    bwrap = shutil.which("bwrap", path=os.defpath)
    if bwrap is None:
        hidden = [sys.executable]
    else:
        not_root = f"unshare --user --map-user=1000 {sys.executable}"
        hide = f'mount --bind /dev/null {os.path.realpath(bwrap)} && exec {not_root} "$@"'
        hidden = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", hide, "-"]
        if subprocess.run([*hidden, "-c", ""], check=False).returncode:
            pytest.skip("mounts cannot be hidden here")
    code = (
        "from drpo_cli.tools.doctor.machine import check_sandbox\n"
        "for needed in (None, 'bubblewrap', 'none'):\n"
        "    (line,) = check_sandbox(needed); print(line.status, line.found, line.fix)"
    )
    done = subprocess.run([*hidden, "-c", code], capture_output=True, text=True, check=True)
    free, asked, unused = done.stdout.splitlines()
    assert free.startswith("warning plain works")
    assert "`bwrap` is not installed" in free
    assert ("reading" in free) is (landlock.version() == 0)
    assert asked.startswith("wrong") and "apt-get install bubblewrap" in asked
    assert unused.startswith("ok")


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_nothing_is_lost_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    findings = [
        ok("torch", "2.13.0"),
        warning("CPU", "two cores", "unset OMP_NUM_THREADS"),
        wrong("runs", "/a/folder/that/has/a/name is not writable", "make it writable"),
    ]
    text = terminal(findings)
    assert "\x1b[32m" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= columns
    squeezed = re.sub(r"\s", "", plain)
    for each in findings:
        assert all(re.sub(r"\s", "", word) in squeezed for word in (each.found, each.fix))
    assert "1ok,1warning,1wrong" in squeezed


def terminal(findings: list[Finding]) -> str:
    """What is shown on a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        show(findings, stream)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # a closed terminal's end
        while some := screen.read(1 << 16):
            shown += some
    return shown.decode()
