"""How long responses and episodes may become, by a spec."""

from __future__ import annotations

from drpo_cli.settings import EnvironmentSettings
from drpo_cli.spec.model import Spec


def longest_sampled(spec: Spec) -> int:
    """Most tokens that the policy samples in one response, or in all turns of one episode."""
    turn = spec.rollout.config.max_new_tokens
    return max([turn, *(_sampled(one.config, turn) for one in spec.environment)])


def room_for_responses(spec: Spec) -> int:
    """Tokens of the context that a prompt must leave free: a response, or a whole episode.

    Of an episode without a limit of its own, these are the tokens of its first turn.
    """
    episodes = (one.config.max_tokens_per_episode or 0 for one in spec.environment)
    turns = (spec.rollout.config.max_new_tokens, spec.eval.max_new_tokens or 0)
    return max(*turns, *episodes)


def describe_longest(spec: Spec, context: int | None) -> str:
    """The longest sequence in words; `context` is None where the model's is not known yet."""
    new = f"{spec.rollout.config.max_new_tokens:,} new tokens"
    new += f" per turn, {longest_sampled(spec):,} per episode" if spec.environment else ""
    whole = f"{context:,}" if context else "the model's context"
    return f"{new} after the prompt, {whole} in all"


def _sampled(environment: EnvironmentSettings, turn: int) -> int:
    turns, limit = environment.max_turns * turn, environment.max_tokens_per_episode
    return turns if limit is None else min(turns, limit)
