"""Every section of a spec that is not a plugin, and what each kind of plugin's options start from.

Import-light on purpose: `drpo check` and `drpo --help` read this and nothing heavier.
A docstring under a field is its documentation: docs/spec.md is generated from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


def _relative_to_spec(value: object, info: ValidationInfo) -> object:
    folder = (info.context or {}).get("folder")
    if isinstance(value, str):
        value = Path(value).expanduser()
        return folder / value if folder is not None else value
    return value


SpecPath = Annotated[Path, BeforeValidator(_relative_to_spec)]
"""A path in a spec; a relative one counts from the spec's own folder."""

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that a file or folder can have on any system."""

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class AbsentKeyError(AttributeError):
    """A key has no value, because it is wrong in the spec that is being checked."""


class Settings(BaseModel):
    """Options: strict (a string is not a number), closed (no unknown keys) and immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def needs_environment(self) -> tuple[str, ...]:
        """Environment variables that must be set for a plugin with these options."""
        return ()

    if not TYPE_CHECKING:  # for mypy, every field is there

        def __getattr__(self, name):
            if name in type(self).model_fields:
                raise AbsentKeyError(name)
            return super().__getattr__(name)


class RunSettings(Settings):
    """What the run is called, and how long it goes on."""

    name: FolderName
    """Name of the run; its folder is `<folder>/<name>`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of sampling, data order and everything else that is random."""
    steps: Count
    """Rollout-and-train rounds."""
    folder: SpecPath = Path("runs")
    """Where run folders go."""
    report_every: Annotated[int, Field(ge=0)] = 50
    """Steps between rewrites of report.html while the run goes on; 0 writes it only at the end."""
    recorded_prompts: Count | None = None
    """Prompts of each step whose samples are written to samples.jsonl; all when not set."""


class ModelSettings(Settings):
    """The policy to train: a Hugging Face causal language model."""

    path: Annotated[str, Field(min_length=1)]
    """A model folder (relative paths count from the spec's folder) or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute dtype of training and rollout; master weights are always float32."""
    prepare: SpecPath | None = None
    """A Python script run once as `python SCRIPT FOLDER` when the model folder does not exist."""
    trust_remote_code: bool = False
    """Let a model folder or hub repository run its own modelling code."""


class TrainSettings(Settings):
    """The optimizer's part of a step."""

    updates_per_rollout: Count = 4
    """Optimizer updates per rollout, over disjoint mini-batches of its samples."""
    minibatches: Literal["spread", "groups"] = "spread"
    """Which samples serve an update: of every group as many; or whole groups, as far as equal
    mini-batches allow, so that a prompt is computed once a step and not once an update."""
    tokens_per_microbatch: Count = 16384
    """Token budget of one packed forward and backward pass, per device."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes from its peak to `final_learning_rate` over the run."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the last update, for the linear and cosine schedules."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates over which the learning rate rises linearly from zero."""
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), strict=False)
    """AdamW's decay rates of the gradient's first and second moments."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's denominator offset."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logits_mib: Count = 8
    """Size of a block of float32 logits, MiB; two or three exist at once, and never all of
    `[tokens, vocabulary]`."""
    reduction: Literal["token_mean", "sequence_mean", "fixed_horizon"] = "token_mean"
    """How token losses become one: the mean of all tokens of an update; the mean over responses of
    each one's mean; or the sum of a response's tokens / `horizon`, averaged over responses."""
    horizon: Count | None = None
    """The constant of `fixed_horizon`, in tokens; `rollout.max_new_tokens` when not set."""
    anchor: Literal["engine", "trainer"] = "engine"
    """Whose log-probs the ratio starts from: the engine's μ, or the trainer's own, recomputed at
    the start of each step, which leaves the gap between the two out of the trust region."""
    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """Truncated importance sampling for `anchor = "trainer"`: each token's loss is multiplied by
    min(π_old / μ, this); off when not set."""
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of the policy's entropy (nats) in the loss, which raises it."""
    overlong: Literal["keep", "zero", "soft", "mask"] = "keep"
    """Truncated responses: scored like others; given a reward of 0; all responses punished linearly
    over the last `overlong_buffer` tokens, down to −1; or left out of the loss."""
    overlong_buffer: Count | None = None
    """Tokens over which `overlong = "soft"` punishes; a fifth of `max_new_tokens` when not set."""

    @property
    def logits_in_a_block(self) -> int:
        """How many float32 numbers `logits_mib` holds."""
        return self.logits_mib * 2**20 // 4


class ReferenceSettings(Settings):
    """A frozen policy that the trained one is kept near, by an estimate of KL(π ‖ π_ref)."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the reference; the model the run starts from when not set."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the divergence: k2 and k3 are added to the loss, k1 is taken off the advantage
    (as a loss, its gradient would be zero on average)."""
    coefficient: Annotated[float, Field(gt=0)] = 0.001
    """Factor β of the divergence."""


class CriticSettings(Settings):
    """A value model V(s) of its own, for advantages that need one (`gae`)."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id whose decoder it starts from; `model.path` when not set."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Learning rate of its AdamW; the rest of the optimizer is `[train]`'s."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which only the critic learns, before the policy does."""
    value_clip: Annotated[float, Field(ge=0)] = 0.2
    """A value that moved further than this from where it began the step has no gradient that moves
    it on, in units of the reward; 0 is off."""
    whiten: bool = True
    """Shift and scale the token advantages of a step to mean 0 and standard deviation 1."""


class Shot(Settings):
    """A worked example of few-shot prompting."""

    prompt: str
    """The example's prompt."""
    answer: str
    """What a good response to it is."""


class SourceSettings(Settings):
    """Where prompts come from. Every source takes these options; its own come on top."""

    chat: bool = False
    """Wrap string prompts as one user message and apply the tokenizer's chat template."""
    system: str | None = None
    """System message put in front of chat prompts."""
    template: str = "{{ prompt }}"
    """Text around every string prompt, a sandboxed Jinja template: `{{ prompt }}` stands for the
    row's prompt, and every other column for itself."""
    few_shot: tuple[Shot, ...] = Field(default=(), strict=False)
    """Worked examples put in front of every prompt, as `[{ prompt = "…", answer = "…" }, …]`:
    turns of a chat, or text through the same template with the answer behind it."""
    min_prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """Shorter prompts are skipped, counted as the model sees them."""
    max_prompt_tokens: Count | None = None
    """Longer prompts are skipped, counted as the model sees them."""
    too_long: Literal["stop", "skip"] = "stop"
    """What to do with a prompt that leaves no room for `max_new_tokens` in the context."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this source in every step, relative to the other sources'. When no source has one,
    rows are drawn alike from all; when some have, give every source its own."""
    sampling: Literal["uniform", "difficulty"] = "uniform"
    """Serve all rows alike; or those less often whose last group was all right or all wrong (by
    `eval.threshold`), which taught nothing."""
    rewards: tuple[str, ...] | None = Field(default=None, strict=False)
    """Names of the rewards that score this source's prompts; all of the run's when not set."""


class RolloutSettings(Settings):
    """How responses are sampled. Every engine takes these options; its own come on top."""

    prompts_per_step: Count = 64
    """Prompts sampled in one step, over all devices."""
    samples_per_prompt: Count = 8
    """Responses sampled for each prompt: the group size."""
    max_new_tokens: Count = 1024
    """Longest response, in tokens; a longer one is truncated and marked so."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Sampling temperature; training replays log-probs at the same one."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling. Must stay 1 in training: truncation corrupts μ."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Top-k sampling, 0 is off. Must stay 0 in training: truncation corrupts μ."""
    min_p: Fraction = 0.0
    """Min-p sampling, 0 is off. Must stay 0 in training: truncation corrupts μ."""
    stop: tuple[str, ...] = Field(default=(), strict=False)
    """Strings that end a response, besides the model's own end-of-sequence tokens."""
    context_length: Count | None = None
    """Longest prompt plus response, in tokens; the model's own limit when not set."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of the engine; `model.dtype` when not set."""
    weight_rounding: Literal["int8", "fp8"] | None = None
    """Round every weight matrix, output channel by output channel, to what a weight-only quantised
    engine would hold. It costs as much as before: for studying what such an engine does to μ."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0)] = 0
    """Further batches of prompts a step may sample to replace groups whose rewards are all equal,
    which teach nothing (DAPO, arXiv 2503.14476); 0 is off."""


class RewardSettings(Settings):
    """What is good. Every reward takes these options; its own come on top."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """Name in metrics and samples; the type when not set."""
    weight: float = 1.0
    """Factor of this reward in the total; 0 only logs it."""
    gate: bool = False
    """Multiply the sum of the other rewards by this one instead of adding it."""
    every: Count = 1
    """Steps from one use to the next; above 1 only for a reward of weight 0, which is a metric."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time for one call, in seconds; then it is killed with its process, and has failed."""
    workers: Count = 2
    """Processes that run it, on each rank."""
    concurrency: Count = 16
    """Calls that run at the same time in each process, when the reward is async."""
    tries: Count = 2
    """How often a call that raises is made before it has failed; a time-out is not tried again."""
    on_error: Literal["stop", "zero", "skip_sample"] = "stop"
    """What a failed call does: end the run; count as 0 in the total; or leave its samples out of
    advantages and losses. All are counted, and recorded whole in quarantine.jsonl."""


class AdvantageSettings(Settings):
    """How much better than expected each response was."""


class ObjectiveSettings(Settings):
    """The loss of a token, from π, μ and the advantage."""


class EvalSettings(Settings):
    """Held-out evaluation, during training and by `drpo eval`."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between evaluations; 0 evaluates only before the first and after the last step."""
    problems: Count = 200
    """Held-out problems. Without `[[eval.data]]` they are taken out of the training data."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """What to do with training rows that ask the same as a problem of `[[eval.data]]`: stop, or
    leave them out of training."""
    samples_per_prompt: Count = 8
    """Responses sampled for each held-out problem: the k of avg@k."""
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    """Sampling temperature of evaluation; the rollout's when not set."""
    max_new_tokens: Count | None = None
    """Longest response in evaluation; the rollout's when not set."""
    threshold: float = 1.0
    """A response counts as right when its total reward is at least this."""


class CheckpointSettings(Settings):
    """What is saved, and how long it is kept."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between checkpoints; 0 saves only after the last step."""
    keep: Count = 3
    """Newest checkpoints kept; the best by held-out score is kept besides."""


class TrackerSettings(Settings):
    """Where metrics are sent besides metrics.jsonl. Without a table nothing leaves the machine.

    Every tracker takes these options; its own come on top.
    """

    name: FolderName | None = None
    """Name of its log and of its folder in the run's; the type when not set."""
    finish_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time a run that has ended waits for it, in seconds; then it is killed."""
