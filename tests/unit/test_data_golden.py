"""Which prompts a run sees, row by row, as recorded at commit 0bd533e.

Published runs can be repeated, and their scores compared, only while these lists stay the same.
"""

import hashlib
from pathlib import Path

import pytest

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.stream import Batching, Data, open_data
from drpo_cli.settings import RolloutSettings
from drpo_cli.spec import load
from support.data import PLAIN, endless, ids, open_stream, rows_of, steps

QUICKSTART = Path(__file__).parents[2] / "templates" / "quickstart" / "run.toml"
FIRST = {
    0: "3577 8925 1634 485 4753 726 9505 3650 4703 9428 "
    "3939 2286 3492 9022 5562 6464 1547 2888 9483 9685",
    1: "6053 9294 2081 4462 7436 3502 3490 8134 5291 4297 "
    "5995 1816 8891 6160 6016 9964 746 487 6401 4815",
}
STEP_400 = {0: "40323073b893f4dd", 1: "40b0228a5bb1305a"}
"""Hash of the ids of the 401st step, in the third epoch."""


def open_quickstart(seed: int) -> Data:
    spec = load(QUICKSTART)
    assert isinstance(spec.rollout.config, RolloutSettings)
    batching = Batching(spec.rollout.config.prompts_per_step, seed)
    return open_data(spec.data, spec.eval_data, spec.eval, Prompts(PLAIN, 24), batching)


def digest(names: list[str]) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_quickstart_trains_on_these_prompts(seed: int) -> None:
    data = open_quickstart(seed)
    served = [*ids(steps(data, 401))]
    assert served[:20] == [f"arithmetic/{row}" for row in FIRST[seed].split()]
    assert digest(served[-64:]) == STEP_400[seed]


def test_the_quickstart_holds_out_these_problems() -> None:
    held_out = [prompt.id for prompt in open_quickstart(0).held_out]
    first = [3148, 6010, 5226, 8414, 5111, 9357, 9603, 2933, 2138, 7541]
    assert held_out[:10] == [f"arithmetic/{row}" for row in first]
    assert (len(held_out), digest(held_out)) == (200, "6313a87460008fc0")


def test_a_weighted_mixture_with_a_curriculum_serves_these_prompts(tmp_path: Path) -> None:
    hard = rows_of(
        tmp_path / "a.jsonl", *(f"a{i}" for i in range(30)), weight=0.7, sampling="difficulty"
    )
    plain = rows_of(tmp_path / "b.jsonl", *(f"b{i}" for i in range(20)), weight=0.2)
    data = open_stream(hard, plain, endless(tmp_path, "n", weight=0.1), n=10, seed=3, problems=5)
    assert [p.id for p in data.held_out] == [
        *("jsonl/21", "jsonl#2/8", "n.py/0", "jsonl/2", "jsonl#2/18")
    ]
    for _ in range(20):
        step = data.stream.next()
        data.stream.observe({p.id: float(int(p.id.rpartition("/")[2]) % 3 == 0) for p in step})
    assert [prompt.id for prompt in step] == [
        *("jsonl/16", "jsonl/23", "jsonl#2/2", "jsonl/7", "jsonl/6"),
        *("n.py/20", "jsonl/10", "jsonl/13", "jsonl#2/9", "jsonl/26"),
    ]
    state = data.stream.state_dict()
    assert len(state.pop("pass_rates")) == 28
    assert state == {
        "sources": [["jsonl", 30, 0.7], ["jsonl#2", 20, 0.2], ["n.py", 2**31 - 1, 0.1]],
        "cursors": [[19, 14], [2, 4], [0, 21]],
        "turns": [140, 40, 20],
        "skipped": {},
    }
