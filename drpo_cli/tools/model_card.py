"""A card for an exported model, as the hub shows it, and its upload."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.model_folder import ADAPTER_CONFIG
from drpo_cli.runs import checkpoints
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.runs.saved import HeldOutScore, SavedRun, open_run
from drpo_cli.step import choice
from drpo_cli.tools.evaluate import is_of_hub

CARD = "README.md"
_FOLDER = re.compile(r'(?<=")/[^"\n]*/(?=[^"\n/]+")')
"""The folder in front of the name of an absolute path."""


def write_card(target: Path, folder: Path) -> None:
    """Writes the card of a model that was exported from a run or one of its checkpoints.

    It says what was trained on what, by which rewards and method, and the held-out scores, and it
    has the whole spec. A checkpoint outside a run has no card.
    """
    if (target / ADAPTER_CONFIG).is_file():
        return
    checkpoint = checkpoints.latest(target).resolve()
    run_folder = RunFolder(checkpoint.parent.parent)
    if run_folder.exists():
        run = open_run(run_folder.path)
        text = f"---\n{_metadata(run, folder)}\n---\n\n{_body(run, checkpoint)}"
        write_whole(folder / CARD, text)


def _metadata(run: SavedRun, folder: Path) -> str:
    from huggingface_hub import ModelCardData

    base = str(run.spec.get("model", {}).get("path", ""))
    sources = [str(source.get("path", "")) for source in _tables(run, "data")]
    data = ModelCardData(
        base_model=base if is_of_hub(base) else None,
        datasets=sorted({path for path in sources if is_of_hub(path)}) or None,
        library_name="peft" if (folder / ADAPTER_CONFIG).is_file() else "transformers",
        pipeline_tag="text-generation",
        tags=["drpo", "reinforcement-learning"],
    )
    return data.to_yaml()


def _training(run: SavedRun, step: int) -> str:
    """How the weights of a step came to be."""
    supervised = "supervised learning of answers"
    if step == 0:
        return supervised
    objective = run.spec.get("objective", {}).get("type", "drpo")
    steps = "an unknown number" if run.steps is None else run.steps
    how = f"reinforcement learning with the objective `{objective}`, step {step} of {steps}"
    return f"{how}, after {supervised}" if "sft" in run.spec else how


def _body(run: SavedRun, checkpoint: Path) -> str:
    step = checkpoints.step_of(checkpoint)
    version = run.versions.get("packages", {}).get("drpo", "")
    parts = [
        f"# {run.spec.get('run', {}).get('name', checkpoint.name)}",
        f"{_name(run.spec.get('model', {}).get('path', ''))}, trained by {_training(run, step)}, "
        f"with drpo {version}.".replace(" .", "."),
        "## Held-out score\n",
        *_scores(run, checkpoint, step),
        "## Data and rewards\n",
        "\n".join(
            f"- {kind}: `{_name(one.get('path', one['type']) if kind == 'data' else one['type'])}`"
            for kind in ("data", "reward", "environment")
            for one in _tables(run, kind)
        ),
        "This card states no licence: those of the base model and of the data hold.",
        "## The spec\n\nFolders of the machine that it was trained on are left out.\n\n"
        f"```toml\n{_FOLDER.sub('', run.spec_text.strip())}\n```",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _scores(run: SavedRun, checkpoint: Path, step: int) -> Iterator[str]:
    measured = [score for score in run.held_out if score.step in (0, step)]
    if not measured:
        yield "It was not measured at this step."
        return
    first = "before the first step" if "sft" in run.spec else "the base model"
    rows = "\n".join(
        f"| {f'step {score.step}' if score.step else first} | {_percent(score)} |"
        for score in measured
    )
    yield f"| weights | right responses, % (95 % interval over problems) |\n|---|---|\n{rows}"
    if (found := choice.of_checkpoint(checkpoint)) is not None:
        yield (
            f"This checkpoint was chosen as the best of {found.evaluations} evaluations on these "
            "same problems, so its score is optimistic."
        )


def _percent(score: HeldOutScore) -> str:
    value = f"{100 * score.score:.1f}"
    if score.low is None or score.high is None:
        return value
    return f"{value} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _tables(run: SavedRun, name: str) -> list[dict[str, Any]]:
    found = run.spec.get(name, [])
    return [one for one in found if isinstance(one, dict) and "type" in one]


def _name(path: str) -> str:
    """The name of a hub's model or data set, or the last part of a path of this machine."""
    return path if is_of_hub(path) else Path(path).name


def push(folder: Path, name: str) -> str:
    """Uploads the folder as a private model of the hub, and returns its address.

    Raises UserError where the hub refuses, or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = HfApi()
    try:
        address = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload with drpo")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = f"log in with `hf auth login`, then: hf upload {name} {folder}"
        raise UserError(f"--push {name}: {what}", fix) from error
    return str(address)
