"""Rules about the teacher of on-policy distillation: `[teacher]`."""

from __future__ import annotations

from collections.abc import Iterator

from drpo_cli.settings import Attempts, TeacherSettings
from drpo_cli.spec.model import Spec
from drpo_cli.spec.problems import Problem

OF_URL = ("model", "api_key_env", "concurrency", *Attempts.model_fields)
"""Options of a teacher behind an endpoint."""


def is_in_one_place(spec: Spec) -> Iterator[Problem]:
    teacher = spec.teacher
    if teacher is None:
        return
    if teacher.path is None and teacher.url is None:
        what = "names no model; give path, to load it beside the policy, or url and model"
        yield Problem(("teacher",), what)
    elif teacher.path is not None and teacher.url is not None:
        yield Problem(
            ("teacher", "url"),
            "is given, and so is path; remove path to ask the endpoint, or url to load the teacher "
            "beside the policy",
            also=(("teacher", "path"),),
            on_key=True,
        )


def endpoint_has_a_model(spec: Spec) -> Iterator[Problem]:
    if spec.teacher is not None and spec.teacher.url is not None and spec.teacher.model is None:
        yield Problem(("teacher", "model"), "is missing; name the teacher as its endpoint does")


def options_of_an_endpoint(spec: Spec) -> Iterator[Problem]:
    teacher = spec.teacher
    if teacher is None or teacher.path is None or teacher.url is not None:
        return
    for name in OF_URL:
        if getattr(teacher, name) != TeacherSettings.model_fields[name].default:
            yield Problem(
                ("teacher", name),
                "has no effect with teacher.path, a teacher that is loaded beside the policy; "
                "remove it, or give url in place of path",
                also=(("teacher", "path"),),
                on_key=True,
            )


def endpoint_has_no_temperature(spec: Spec) -> Iterator[Problem]:
    temperature = spec.rollout.config.temperature
    if spec.teacher is not None and spec.teacher.url is not None and temperature != 1:
        yield Problem(
            ("rollout", "temperature"),
            f"is {temperature:g}, and an endpoint gives the teacher's log-probs at temperature 1, "
            "which do not compare with those of the policy; set it to 1, or load the teacher with "
            "teacher.path",
            also=(("teacher", "url"),),
        )


def one_advantage_per_response(spec: Spec) -> Iterator[Problem]:
    objective = spec.objective
    if objective.plugin.sequence_level and spec.teacher is not None:
        yield Problem(
            ("objective", "type"),
            f"is {objective.type!r}, which works on whole responses, and a [teacher] gives every "
            "token its own advantage; choose another objective, or remove the teacher",
            also=(("teacher",),),
        )


def only_a_teacher_teaches(spec: Spec) -> Iterator[Problem]:
    if spec.teacher is None or spec.teacher.rewards:
        return
    also = (("teacher", "rewards"),)
    if spec.rollout.config.dynamic_sampling_rounds:
        what = "drops groups whose rewards are all equal, and the teacher teaches on those too"
        key = ("rollout", "dynamic_sampling_rounds")
        yield Problem(key, f"{what}; set it to 0, or teacher.rewards to true", also=also)
    if spec.reference is not None and spec.reference.kl == "k1":
        what = "takes the divergence off the rewards, and teacher.rewards = false learns from none"
        yield Problem(("reference", "kl"), f"{what}; choose 'k2', or set that to true", also=also)
    if spec.critic is not None:
        what = "predicts rewards, and teacher.rewards = false learns from none"
        yield Problem(("critic",), f"{what}; remove it, or set that to true", also=also)


ERRORS = (
    is_in_one_place,
    endpoint_has_a_model,
    options_of_an_endpoint,
    endpoint_has_no_temperature,
    one_advantage_per_response,
)
WARNINGS = (only_a_teacher_teaches,)
