"""Rules over the credit of turns: what `[advantage]` says about episodes of several turns."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.spec.model import Spec
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

CREDIT: KeyPath = ("advantage", "credit")
LEVEL: KeyPath = ("advantage", "level")
DISCOUNT: KeyPath = ("advantage", "turn_discount")


def _by_turn(spec: Spec) -> list[KeyPath]:
    """The keys that ask for credit per turn."""
    config = spec.advantage.config
    keys = [CREDIT] if config.credit == "turn" else []
    return [*keys, LEVEL] if getattr(config, "level", None) == "turn" else keys


def turns_need_an_environment(spec: Spec) -> Iterator[Problem]:
    for key in _by_turn(spec):
        if not spec.environment:
            yield Problem(
                key,
                "is 'turn', and without an [[environment]] a response is one turn; remove it",
                on_key=True,
            )


def credit_has_an_effect(spec: Spec) -> Iterator[Problem]:
    advantage = spec.advantage
    if advantage.config.credit != "turn":
        return
    if advantage.plugin.token_level:
        yield Problem(
            CREDIT,
            f"has no effect with advantage {advantage.type!r}, which takes the reward of every "
            "turn where it was given; remove it",
            also=(("advantage", "type"),),
            on_key=True,
        )
    elif advantage.plugin.sees_turns:
        yield Problem(
            CREDIT,
            f"has no effect with advantage {advantage.type!r}, which sees the turns and credits "
            "them itself; remove it",
            also=(("advantage", "type"),),
            on_key=True,
        )


def discount_has_an_effect(spec: Spec) -> Iterator[Problem]:
    advantage = spec.advantage
    if advantage.config.turn_discount == 1.0 or advantage.config.credit == "turn":
        return
    if advantage.plugin.sees_turns and not advantage.plugin.token_level:
        return  # it may read the option
    if advantage.type == "gae":
        instead = "remove it, or set advantage.discount, which is per turn with level 'turn'"
    else:
        instead = "remove it, or set advantage.credit to 'turn'"
    yield Problem(
        DISCOUNT,
        f"has no effect with advantage.credit 'episode'; {instead}",
        also=(CREDIT,),
        on_key=True,
    )


def equal_totals_teach_turns(spec: Spec) -> Iterator[Problem]:
    if spec.rollout.config.dynamic_sampling_rounds and spec.advantage.config.credit == "turn":
        yield Problem(
            ("rollout", "dynamic_sampling_rounds"),
            "drops groups whose totals are all equal, and their turns may differ, which "
            "advantage.credit 'turn' learns from; set it to 0",
            also=(CREDIT,),
        )


ERRORS = (
    turns_need_an_environment,
    credit_has_an_effect,
    discount_has_an_effect,
)
WARNINGS = (equal_totals_teach_turns,)
