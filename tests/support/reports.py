"""Run folders as runs write them, whose rewards behave as a test needs; and a job for ranks."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.rewards.grading.grader import Usage
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import RewardUsage, StepMetrics
from drpo_cli.runs.records import Records
from drpo_cli.step.metrics import grading_metrics, rollout_metrics
from drpo_cli.types import Group, Prompt, Rollout, Scores

Mean = Callable[[float], float]
"""A reward's mean after a share of the run, from 0 to 1."""

WEIGHTS = {"exact_match": 1.0, "length_bonus": 0.5, "readable": 0.0}
HACKED: Mapping[str, Mean] = {
    "exact_match": lambda at: 0.6 - 0.3 * at,
    "length_bonus": lambda at: 0.1 + 1.4 * at,
    "readable": lambda at: 0.5,
}
CLEAN: Mapping[str, Mean] = {
    "exact_match": lambda at: 0.3 + 0.5 * at,
    "length_bonus": lambda at: 0.4 + 0.2 * at,
    "readable": lambda at: 0.5,
}


def run_folder(path: Path, weights: Mapping[str, float] | None = None) -> RunFolder:
    """A folder with a spec of these rewards, and no step yet."""
    tables = [{"type": name, "weight": weight} for name, weight in (weights or WEIGHTS).items()]
    run = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    run.spec.write_text(tomli_w.dumps({"run": {"name": "demo"}, "reward": tables}))
    run.versions.write_text('{"drpo": "0"}')
    return run


def write_steps(
    run: RunFolder, means: Mapping[str, Mean], steps: int, samples: int = 8, seed: int = 0
) -> None:
    """Metrics and samples of a run whose rewards have these means, each sample with noise."""
    rng = random.Random(seed)
    for step in range(1, steps + 1):
        at = (step - 1) / max(1, steps - 1)
        drawn = [
            {name: mean(at) + rng.gauss(0, 0.3) for name, mean in means.items()}
            for _ in range(samples)
        ]
        totals = [sum(WEIGHTS[name] * value for name, value in one.items()) for one in drawn]
        by_reward = {name: sum(one[name] for one in drawn) / samples for name in means}
        Records(run.metrics).append(metrics_line(step, sum(totals) / samples, by_reward))
        Records(run.samples).extend(
            sample_line(step, i, f"step {step} said {one}", total, one)
            for i, (one, total) in enumerate(zip(drawn, totals, strict=True))
        )


def whole_run(
    path: Path,
    steps: int = 60,
    samples: int = 4,
    seed: int = 0,
    chars: int = 120,
    better: float = 0,
) -> RunFolder:
    """A run with every metric, evaluated after every tenth of its steps; its entropy collapses.

    It has 20 held-out problems. `better` is added to the rate of right responses at the end.
    """
    run, rng = run_folder(path), random.Random(seed)
    Records(run.metrics).append({"step": 0, "held_out_set": "p20", **_held_out(run, 0, rng, 0.3)})
    metrics, lines = [], []
    for step in range(1, steps + 1):
        at = step / steps
        means = {name: mean(at) for name, mean in CLEAN.items()}
        total = sum(WEIGHTS[name] * value for name, value in means.items())
        line = metrics_line(step, total + rng.gauss(0, 0.02), means) | _whole(step, at, rng)
        if step % max(1, steps // 10) == 0:
            line |= _held_out(run, step, rng, 0.3 + (0.4 + better) * at)
        metrics.append(line)
        for i in range(samples):
            rewards = {name: mean + rng.gauss(0, 0.3) for name, mean in means.items()}
            text = f"step {step} sample {i}: " + "word " * (chars // 5)
            score = sum(WEIGHTS[name] * value for name, value in rewards.items())
            own = sample_line(step, i, text, score, rewards)
            prompt = f"prompt {(step * samples + i) % 30}"
            lines.append(own | {"prompt": prompt, "prompt_id": f"words/{prompt[7:]}"})
    Records(run.metrics).extend(metrics)
    Records(run.samples).extend(lines)
    return run


def _held_out(run: RunFolder, step: int, rng: random.Random, rate: float) -> dict[str, float]:
    rates = [min(1.0, max(0.0, round(rng.gauss(rate, 0.2) * 8) / 8)) for _ in range(20)]
    Records(run.held_out).append({"step": step, "rates": rates})
    mean = sum(rates) / len(rates)
    return {"held_out": mean, "held_out_low": mean - 0.05, "held_out_high": mean + 0.05}


def _whole(step: int, at: float, rng: random.Random) -> dict[str, Any]:
    spread = {"min": 0.0, "p01": 0.01, "p50": 0.4, "p90": 0.6, "p99": 0.9, "max": 1.5, "mean": 0.4}
    noise = 1 + rng.gauss(0, 0.05)
    seconds = {"rollout": 2.1, "reward": 0.2, "train": 3.0, "sync": 0.3, "log": 0.01}
    seconds = {phase: value * noise for phase, value in seconds.items()}
    shares = {"diverging": 0.4, "converging": 0.5, "corrective": 0.08, "masked": 0.02}
    return {
        **{f"shift_{q}": value * 0.1 * noise for q, value in spread.items()},
        **{f"ratio_{q}": math.exp((value - 0.4) * noise) for q, value in spread.items()},
        **{f"weight_{q}": 0.2 + value * noise for q, value in spread.items()},
        **{f"{kind}_share": value for kind, value in shares.items()},
        **{f"{kind}_mass": value for kind, value in list(shares.items())[:3]},
        "zero_advantage_groups": 0.1 + 0.3 * at,
        "response_length": 100 * noise,
        "truncated_share": 0.02,
        "reference_kl": 0.3 * at,
        "explained_variance": 0.5 * at,
        "value_loss": 0.1 * noise,
        "loss": rng.gauss(0, 0.01),
        "grad_norm": None if step % 17 == 0 else 0.6 * noise,
        "skipped_updates": float(step % 17 == 0),
        "learning_rate": 1e-4 * (1 - at),
        "entropy": 1.2 * math.exp(-6 * at) * noise,
        "effective_sample_size": 0.99,
        "trained_tokens": 50_000.0,
        "gap": 1e-6 * noise,
        "gap_floor": 2e-6,
        "tokens_per_second": {"rollout": 9000 * noise, "train": 6000 * noise},
        "seconds": {**seconds, "step": sum(seconds.values())},
        "peak_memory_gib": 20 + at,
    }


def metrics_line(step: int, total: float, rewards: Mapping[str, float]) -> StepMetrics:
    """A step of metrics.jsonl: its keys on rewards."""
    usage = RewardUsage(calls=8, seconds=0.8, slowest=0.2, failures={}, counts={})
    return {
        "step": step,
        "reward": total,
        "reward_std": 0.5,
        "rewards": dict(rewards),
        "skipped_samples": 0,
        "grading": dict.fromkeys(rewards, usage),
        "seconds": {"rollout": 2.0, "reward": 0.1, "train": 1.0, "step": 3.1},
    }


def sample_line(
    step: int, sample: int, text: str, total: float | None, rewards: Mapping[str, float | None]
) -> dict[str, Any]:
    """A line of samples.jsonl."""
    return {
        "step": step,
        "prompt_id": f"words/{sample}",
        "sample": sample,
        "prompt": f"prompt {sample}",
        "answer": "yes",
        "metadata": {},
        "completion": text,
        "truncated": False,
        "tokens": len(text),
        "reward": total,
        "rewards": dict(rewards),
    }


def group(texts: Sequence[str], truncated: bool = False, prompt: str = "12+34=") -> Group:
    """A group of these completions, with one token per character."""
    rollouts = tuple(
        Rollout((5,) * len(text), (0.0,) * len(text), text, truncated) for text in texts
    )
    return Group(Prompt("p", prompt, (1,), "1", {}), rollouts)


def uneven(world: World) -> dict[str, Any]:
    """Metrics where each rank has a reward that the other does not."""
    if world.rank == 0:
        scores = Scores((1.0, 0.0), {"right": (1.0, None), "gone": (None, None)}, frozenset({1}))
        usage = {"right": Usage(2, 1.0, 0.75, Counter(timeout=1), Counter(tokens=5))}
    else:
        scores = Scores((0.5, 0.5), {"tidy": (0.5, 0.0)})
        counted: Counter[str] = Counter()
        counted.update({"cost_usd": 0.5})
        usage = {
            "tidy": Usage(1, 0.25, 0.25, Counter(), counted),
            "right": Usage(1, 0.5, 0.5, Counter(timeout=1, crash=1), Counter(tokens=2)),
        }
    exp = Experience.of([group(("ab", "abcd"))], [scores])
    found = rollout_metrics(exp, [scores], world)
    return found | {"grading": grading_metrics(usage, world)}
