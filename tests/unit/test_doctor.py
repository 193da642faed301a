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
import tomli_w
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from drpo_cli.objectives import drpo as objective
from drpo_cli.runs.checkpoints import checkpoint_bytes
from drpo_cli.runs.versions import MATRIX
from drpo_cli.spec import load
from drpo_cli.tools.doctor import folders, needs, resources, selftests, show, software
from drpo_cli.tools.doctor.findings import Finding, looked, ok, warning, wrong
from drpo_cli.tools.doctor.probe import ask
from drpo_cli.tools.doctor.probes.training import loss_error
from support.command import drpo
from support.models import tiny_model

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


def test_this_machine_can_run_what_is_tested_on_it(tmp_path):
    spec = tmp_path / "run.toml"
    model = tiny_model(tmp_path / "model")
    spec.write_text(
        tomli_w.dumps(
            {
                "run": {"name": "here", "steps": 2},
                "model": {"path": str(model)},
                "data": [{"type": "arithmetic"}],
                "rollout": {"max_new_tokens": 8},
                "reward": [
                    {"type": "exact_match"},
                    {"type": "judge", "model": "m", "rubric": "r", "api_key_env": "NO_SUCH_KEY"},
                ],
            }
        )
    )
    done = drpo("doctor", spec, "--json")
    lines = found(done)
    for check in ("torch", "import vLLM", "DRPO loss", "all-reduce", "spec", "model", "run"):
        assert lines[check]["status"] == "ok", lines[check]
    assert {check for check, line in lines.items() if line["status"] == "wrong"} == {
        "rewards judge"
    }
    assert "NO_SUCH_KEY" in lines["rewards judge"]["found"] and done.returncode == 1
    weights = needs.weights_of(model)
    assert weights and needs.disk(load(spec)) == 5 * checkpoint_bytes(weights)


def test_each_thing_that_is_broken_is_named_with_its_fix(tmp_path):
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
    assert bad.keys() == {
        "import torchvision", "import vLLM", "hub cache", "network", "all-reduce", "spec"
    }  # fmt: skip
    nms = bad["import torchvision"]
    assert "operator torchvision::nms does not exist" in nms["found"]
    assert nms["fix"].endswith("pip uninstall torchvision torchaudio torchcodec")
    assert "build for CUDA" in bad["import vLLM"]["found"]
    assert "eth99" in bad["network"]["found"] and "eth99" in bad["all-reduce"]["found"]
    assert "rank 0: started" in bad["all-reduce"]["found"]
    assert "run.toml" in bad["spec"]["found"] and "drpo check" in bad["spec"]["fix"]
    assert lines["CPU"]["status"] == "warning" and "many" in lines["CPU"]["found"]
    assert lines["DRPO loss"]["status"] == lines["import transformers"]["status"] == "ok"


def test_a_torch_that_does_not_import_is_reported_and_the_rest_looked_at(tmp_path):
    path = packages(tmp_path, torch='raise ImportError("torch.so: undefined symbol: _ZN3c10")')
    done = drpo("doctor", PYTHONPATH=path)
    lines = done.stdout.splitlines()
    torch = next(line for line in lines if "import torch " in line)
    assert torch.startswith("wrong") and "undefined symbol: _ZN3c10" in torch
    assert lines[lines.index(torch) + 1].split()[0] == "fix:"
    for check in ("DRPO loss", "all-reduce"):
        assert any(re.match(rf"warning  {check} .*not tried", line) for line in lines)
    assert any(re.match(r"ok       memory", line) for line in lines)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout and all(line == line.rstrip() for line in lines)


def test_the_matrix_is_what_the_tests_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pinned = {(r := Requirement(text)).name: r.specifier for text in wanted}
    pinned["python"] = SpecifierSet(project["requires-python"])
    for name, versions in MATRIX.items():
        assert SpecifierSet(versions.allowed) == pinned[name], name
    torch = re.search(r"TORCH_VERSION \?= ([\d.]+)", (ROOT / "Makefile").read_text())
    assert torch and MATRIX["torch"].tested == f"=={torch[1]}"
    assert {f.check: f.status for f in software.python_and_packages()}["torch"] == "ok"


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
def test_threads(monkeypatch, cores, given, status):
    monkeypatch.setattr(resources, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    (line,) = resources.threads(gpus=0)
    assert line.status == status and "8 cores" in line.found


def test_few_files_and_little_room(tmp_path):
    code = (
        "import resource; from drpo_cli.tools.doctor.resources import limits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "(line,) = limits(0); print(line.status, line.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("warning ulimit -n 4096")
    (line,) = folders.folder("runs", tmp_path / "to" / "be", "run.folder", needs=2**60)
    assert line.status == "wrong" and "checkpoints take" in line.found
    (line,) = folders.folder("runs", tmp_path / "to" / "be", "run.folder")
    assert line.status == "ok" and not (tmp_path / "to").exists()
    (line,) = looked("gone", lambda: folders.folder("x", Path("a" * 5000), "run.folder"))
    assert line.status == "warning" and "could not be looked at" in line.found


def test_the_loss_is_held_to_its_formula(monkeypatch):
    assert loss_error("cpu") < 1e-12
    monkeypatch.setattr(objective, "_delta", lambda config, adv_T: adv_T.new_tensor(0.3))
    assert loss_error("cpu") > 0.01


def test_a_probe_that_hangs_is_ended():
    answer = ask("http.server", "0", "--bind", "127.0.0.1", seconds=1.0)
    assert answer.status is None and not answer.fine
    (line,) = selftests.all_reduce(selftests.ask_all_reduce(seconds=0.2))
    assert line.status == "warning" and "killed" in line.found


def test_without_bubblewrap_the_doctor_says_what_is_not_kept_from_code():
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
        "from drpo_cli.tools.doctor.sandbox import sandbox\n"
        "for needed in (None, 'bubblewrap', 'none'):\n"
        "    (line,) = sandbox(needed); print(line.status, line.found, line.fix)"
    )
    done = subprocess.run([*hidden, "-c", code], capture_output=True, text=True, check=True)
    free, asked, unused = done.stdout.splitlines()
    assert free.startswith("warning plain works")
    assert "reading" in free and "`bwrap` is not installed" in free
    assert asked.startswith("wrong") and "apt-get install bubblewrap" in asked
    assert unused.startswith("ok")


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_nothing_is_lost_on_a_narrow_terminal(monkeypatch, columns):
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
        show.show(findings, stream)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # a closed terminal's end
        while some := screen.read(1 << 16):
            shown += some
    return shown.decode()
