"""Samples completions of training prompts, in a process of its own.

An engine does not give everything back when it closes, prints what it likes, and should not be
there when the rewards' processes are forked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drpo_cli.errors import EXIT_USER_ERROR, UserError
from drpo_cli.plan import make_plan
from drpo_cli.rollout.engine.protocol import sample_groups
from drpo_cli.spec import load
from drpo_cli.step import build as assemble
from drpo_cli.step.sample import train_sampling
from drpo_cli.tools.preview.samples import as_line
from drpo_cli.types import Group


def generate(spec_path: Path, overrides: Sequence[str], prompts: int) -> list[Group]:
    """A group of each of the first prompts that a run of this spec would train on.

    They are sampled as in the run's first step, from the model that it starts from.
    """
    spec = load(spec_path, overrides)
    plan = make_plan(spec, world=1)
    stream = assemble.data(plan, assemble.tokenizer(spec.model), rank=0).stream
    prompts_P = stream.next()
    while len(prompts_P) < prompts:
        prompts_P += stream.next()
    engine = assemble.engine(plan)
    groups_P = sample_groups(engine, prompts_P[:prompts], train_sampling(spec, 1))
    engine.close()
    return groups_P


def generate_apart(spec_path: Path, overrides: Sequence[str], prompts: int, out: Path) -> None:
    """The same in another process, which `subprocess.run` ends when this one is interrupted.

    `out` gets the samples, one JSON object a line. Raises UserError for a user's mistake in there.
    """
    own = [spec_path, out, prompts, *overrides]
    command = [sys.executable, "-m", __name__, *map(str, own)]
    with tempfile.NamedTemporaryFile(prefix="drpo-generate-", suffix=".log", delete=False) as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    if done.returncode == EXIT_USER_ERROR:
        raise UserError(out.read_text())
    if done.returncode:
        raise RuntimeError(f"sampling ended with code {done.returncode}; its log is {log.name}")
    Path(log.name).unlink()


def _main(spec_path: str, out: str, prompts: str, *overrides: str) -> int:
    try:
        groups_P = generate(Path(spec_path), overrides, int(prompts))
    except UserError as error:
        Path(out).write_text(str(error))
        return EXIT_USER_ERROR
    lines = [
        {"group": at, **as_line(group, i)}  # a short source asks the same more than once
        for at, group in enumerate(groups_P)
        for i in range(len(group.rollouts_G))
    ]
    Path(out).write_text("".join(json.dumps(line, default=str) + "\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
