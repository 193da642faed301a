"""docs/python.md: its code runs, block after block, in one process as in a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
CHECKS = """
assert (result.exit_code, result.exit_reason) == (0, "finished"), result
assert result.folder.name == "from-python" and result.message == "finished after step 2"
assert 0 <= result.final_score == run.final_score <= 1
assert (run.state, run.last_step) == ("finished", 2)
assert [record["step"] for record in run.metrics] == [0, 1, 2]
assert [score.step for score in run.held_out] == [0, 2]
assert len(list(run.samples())) == 2 * 4 * 4
assert list(frame.index) == [0, 1, 2] and frame["seconds.train"][1:].notna().all()
assert (smaller.run.name, smaller.objective.config.delta) == ("from-a-dict", 0.2)
assert smaller.model.path == str(run.folder.path.parents[1] / "model")
name, trained = list(scores.items())[1]
assert name == str(result.folder) and trained.k == 2 and len(trained.problems) == 4
assert trained.summary["avg@2"].value == result.final_score
assert len(of_suite["model"].problems) == 1 and list(Path("scores").rglob("responses.jsonl"))
"""
GSM8K = '{"question": "1 + 1?", "answer": "One more: 2\\n#### 2"}\n'


def test_the_page_runs(small: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    (small.parent / "gsm8k.jsonl").write_text(GSM8K)
    script = small.parent / "notebook.py"
    script.write_text("\n".join([*blocks, CHECKS]), encoding="utf-8")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=small.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
