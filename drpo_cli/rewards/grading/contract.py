"""Reads from a reward's signature what it asks for and how to call it."""

from __future__ import annotations

import inspect
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from drpo_cli import secrets
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, short_name
from drpo_cli.rewards.grading import hints as _hints
from drpo_cli.rewards.grading.conversation import conversation, sampled_ids
from drpo_cli.settings import RewardSettings
from drpo_cli.types import Prompt, Rollout

SHARED = ("prompt", "answer", "metadata", "messages", "tokens", "config")
SAMPLE_ARGUMENTS = (*SHARED, "completion", "truncated", "group")
GROUP_ARGUMENTS = (*SHARED, "completions", "truncations")


class Call(NamedTuple):
    """One call of a reward: its arguments except `config`, the samples it scores, and a seed."""

    arguments: dict[str, Any]
    samples: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Reward:
    """A reward that a spec selects.

    entry        the function, or the class whose instances are called
    asks         the arguments it takes
    whole_group  one call scores a whole group (it returns `list[float]`)
    """

    selected: Selected[RewardSettings]
    name: str
    entry: Callable[..., Any]
    config: RewardSettings
    asks: frozenset[str]
    whole_group: bool

    @property
    def counts(self) -> bool:
        """Whether the total depends on it; otherwise it is a metric."""
        return self.config.gate or self.config.weight != 0

    @property
    def waits_for_group(self) -> bool:
        """Whether it can only be called when all samples of a prompt are finished."""
        return self.whole_group or "group" in self.asks

    @cached_property
    def is_async(self) -> bool:
        """Whether calls are awaited."""
        function = _find_callable(self.entry)
        called = getattr(type(function), "__call__", None)  # of an instance  # noqa: B004
        return any(inspect.iscoroutinefunction(one) for one in (function, called))

    @cached_property
    def inline(self) -> bool:
        """Whether it runs in the caller's own process."""
        return self.selected.plugin.inline

    def scores(self, prompt: Prompt) -> bool:
        """Whether it scores this prompt: its source may have named others."""
        return prompt.rewards is None or self.name in prompt.rewards

    def set_up(self) -> Callable[..., Any]:
        """Returns the function itself, or a new instance of the class."""
        if not inspect.isclass(self.entry):
            return self.entry
        wanted = inspect.signature(self.entry).parameters
        made: Any = self.entry(**({"config": self.config} if "config" in wanted else {}))
        instance: Callable[..., Any] = made
        return instance

    def sample_call(
        self, prompt: Prompt, sample: int, rollout: Rollout, rollouts_G: Sequence[Rollout] = ()
    ) -> Call:
        """The call for one sample; `rollouts_G` is its group, where the reward waits for it."""
        own = {
            "completion": rollout.text,
            "truncated": rollout.truncated,
            "tokens": sampled_ids(rollout),
            "messages": conversation(prompt, rollout),
            "group": [other.text for other in rollouts_G],
        }
        return Call(self._arguments(prompt, own), (sample,), self._seed(prompt, rollout.text))

    def group_call(self, prompt: Prompt, rollouts_G: Sequence[Rollout]) -> Call:
        """The call for a whole group."""
        whole: dict[str, Any] = {
            "completions": [rollout.text for rollout in rollouts_G],
            "truncations": [rollout.truncated for rollout in rollouts_G],
            "tokens": [sampled_ids(rollout) for rollout in rollouts_G],
            "messages": [conversation(prompt, rollout) for rollout in rollouts_G],
        }
        seed = self._seed(prompt, *whole["completions"])
        return Call(self._arguments(prompt, whole), tuple(range(len(rollouts_G))), seed)

    def _seed(self, prompt: Prompt, *texts: str) -> int:
        return zlib.crc32(repr((self.name, prompt.id, texts)).encode())

    def _arguments(self, prompt: Prompt, own: dict[str, Any]) -> dict[str, Any]:
        shared = {"prompt": prompt.text, "answer": prompt.answer, "metadata": prompt.metadata}
        return {name: value for name, value in (shared | own).items() if name in self.asks}


def prepare_all(selected: Sequence[Selected[RewardSettings]]) -> list[Reward]:
    """Checks the rewards of a spec without calling them.

    Raises UserError for a reward that cannot be called, and for two rewards with one name.
    """
    rewards = [prepare(one) for one in selected]
    for name, count in Counter(reward.name for reward in rewards).items():
        if count > 1:
            raise UserError(f"{count} rewards are called {name!r}", "give each a `name` of its own")
    return rewards


def prepare(selected: Selected[RewardSettings]) -> Reward:
    """Reads a reward's signature; raises UserError for one that cannot be called."""
    config, entry = selected.config, selected.plugin.entry
    secrets.keep(config.needs_environment())  # a config that was pickled did not say so here
    name = config.name or short_name(selected.type)
    if not callable(entry) or not callable(_find_callable(entry)):
        raise UserError(f"reward {name!r}: {selected.type!r} is not a function", "name one")
    function = _find_callable(entry)
    signature = inspect.signature(function)
    # As text, which it already is under `from __future__ import annotations`.
    whole_group = str(signature.return_annotation).lower().endswith("list[float]")
    known = GROUP_ARGUMENTS if whole_group else SAMPLE_ARGUMENTS
    parameters = list(signature.parameters.values())[1 if inspect.isclass(entry) else 0 :]
    asks: set[str] = set()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            asks.update(known)
        elif parameter.name in known and parameter.kind is not parameter.POSITIONAL_ONLY:
            asks.add(parameter.name)
        elif parameter.default is parameter.empty:
            raise _unknown_argument(name, parameter.name, whole_group)
    if isinstance(entry, type):
        _require_set_up(name, entry)
    if wrong := _hints.problem(function, whole_group):
        raise UserError(f"reward {name!r}: {wrong}")
    return Reward(selected, name, entry, config, frozenset(asks), whole_group)


def _find_callable(entry: Any) -> Any:
    """The function that is called: the reward itself, or the `__call__` of a class, or None."""
    if not inspect.isclass(entry):
        return entry
    # Not getattr: every class has the `__call__` of its metaclass, which makes the instances.
    return next(
        (vars(base)["__call__"] for base in entry.__mro__ if "__call__" in vars(base)), None
    )


def _require_set_up(name: str, entry: type) -> None:
    parameters = inspect.signature(entry).parameters.values()
    fixed = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p.name for p in fixed if p.default is p.empty]
    if needed not in ([], ["config"]):
        raise UserError(
            f"reward {name!r}: its __init__ asks for {', '.join(needed)}",
            "write `def __init__(self, config)`, or `def __init__(self)`",
        )


def _unknown_argument(name: str, argument: str, whole_group: bool) -> UserError:
    if one := {"completions": "completion", "truncations": "truncated"}.get(argument):
        return UserError(
            f"reward {name!r} asks for {argument!r}, which only a reward of whole groups gets",
            f"annotate its return as `-> list[float]`, or ask for {one!r}",
        )
    kind, known = (
        ("rewards of whole groups (-> list[float])", GROUP_ARGUMENTS)
        if whole_group
        else ("rewards", SAMPLE_ARGUMENTS)
    )
    return UserError(
        f"reward {name!r} asks for {argument!r}; {kind} get: {', '.join(sorted(known))}"
    )
