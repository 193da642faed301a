"""The options of every section of a spec, and the base options of every kind of plugin.

This module imports nothing heavy, because `drpo check` and `drpo --help` read it.
The docstring under a field is its documentation: docs/spec.md is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import to_jsonable_python


def _relative_to_spec(value: object, info: ValidationInfo) -> object:
    folder = (info.context or {}).get("folder")
    if isinstance(value, str):
        value = Path(value).expanduser()
        return folder / value if folder is not None else value
    return value


SpecPath = Annotated[Path, BeforeValidator(_relative_to_spec)]
"""A path in a spec; a relative one counts from the folder of the spec."""

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that is valid for a file or a folder on every system."""

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
        """Environment variables that must be set: those that options `*_env` name."""
        named = (value for name, value in self if name.endswith("_env"))
        return tuple(one for value in named for one in _texts(value))

    if not TYPE_CHECKING:  # for mypy, every field is there

        def __getattr__(self, name):
            if name in type(self).model_fields:
                raise AbsentKeyError(name)
            return super().__getattr__(name)


def _texts(value: object) -> Iterable[str]:
    """The texts of a value: itself, or those in it."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return (one for one in value if isinstance(one, str)) if isinstance(value, Iterable) else ()


class RunSettings(Settings):
    """The name and the length of the run."""

    name: FolderName
    """Name of the run; its folder is `<folder>/<name>`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything that is random, such as sampling and the order of the data."""
    steps: Count
    """Number of steps, each a rollout and its training."""
    folder: SpecPath = Path("runs")
    """Folder in which the folder of the run is created."""
    report_every: Annotated[int, Field(ge=0)] = 50
    """Steps between updates of report.html during the run; 0 writes it only at the end."""
    recorded_prompts: Count | None = None
    """Prompts per step whose samples are written to samples.jsonl; all if not set."""


class ModelSettings(Settings):
    """The policy to train: a Hugging Face causal language model."""

    path: Annotated[str, Field(min_length=1)]
    """A model folder (a relative path counts from the folder of the spec) or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute dtype of training and rollout; master weights are always float32."""
    prepare: SpecPath | None = None
    """A Python script that makes the model folder: `python SCRIPT FOLDER` is run if it does not
    exist."""
    trust_remote_code: bool = False
    """Allow modelling code that comes with the model folder or hub repository to run."""


class TrainSettings(Settings):
    """The loss, the optimizer and the batches of training."""

    updates_per_rollout: Count = 4
    """Optimizer updates per step, each on its own mini-batch of the samples."""
    minibatches: Literal["spread", "groups"] = "spread"
    """How samples are divided into mini-batches: `spread` gives each the same number of every
    group; `groups` keeps groups whole where equal mini-batches allow it, so that a prompt is
    computed once per step instead of once per update."""
    tokens_per_microbatch: Count = 16384
    """Most tokens in one packed forward and backward pass, per device."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its peak to `final_learning_rate` during the run."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate of the last update, for the linear and cosine schedules."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates in which the learning rate rises linearly from zero to its peak."""
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), strict=False)
    """AdamW's decay rates of the first and second moments of the gradient."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's offset in the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest global norm of the gradient; a larger gradient is scaled down to it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logits_mib: Count = 8
    """Size of one block of float32 logits, in MiB. Two or three blocks exist at a time, never the
    whole array `[tokens, vocabulary]`."""
    reduction: Literal["token_mean", "sequence_mean", "fixed_horizon"] = "token_mean"
    """How the losses of tokens are reduced to one: `token_mean` is the mean over all tokens of an
    update; `sequence_mean` the mean over responses of the mean over their tokens; `fixed_horizon`
    the mean over responses of the sum over their tokens divided by `horizon`."""
    horizon: Count | None = None
    """The divisor of `fixed_horizon`, in tokens; `rollout.max_new_tokens` if not set."""
    anchor: Literal["engine", "trainer"] = "engine"
    """Whose log-probs are the denominator of the ratio: `engine` takes μ of the engine; `trainer`
    recomputes them at the start of each step, so that the gap between engine and trainer does not
    count in the trust region."""
    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """Truncated importance sampling for `anchor = "trainer"`: the loss of each token is multiplied
    by min(π_old / μ, this value); off if not set."""
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of an entropy term (nats) in the loss; it raises the entropy of the policy."""
    overlong: Literal["keep", "zero", "soft", "mask"] = "keep"
    """What to do with truncated responses: `keep` scores them like others; `zero` gives them the
    score 0; `mask` leaves them out of the loss; `soft` takes a penalty off every response that
    reaches the last `overlong_buffer` tokens, linearly up to 1."""
    overlong_buffer: Count | None = None
    """Tokens over which the penalty of `overlong = "soft"` grows; a fifth of `max_new_tokens` if
    not set."""

    @property
    def logits_in_a_block(self) -> int:
        """Number of float32 values in a block of `logits_mib`."""
        return self.logits_mib * 2**20 // 4


class ReferenceSettings(Settings):
    """A frozen policy; a KL(π ‖ π_ref) term keeps the trained policy near it."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the reference; `model.path` if not set."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the divergence: `k2` and `k3` are added to the loss; `k1` is subtracted from the
    advantage (in the loss, its gradient would be zero on average)."""
    coefficient: Annotated[float, Field(gt=0)] = 0.001
    """Factor β of the divergence term."""


class CriticSettings(Settings):
    """A separate value model V(s), for advantages that need one (`gae`)."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the decoder that it starts from; `model.path` if not set."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Learning rate of its AdamW; the other options of the optimizer are those of `[train]`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps, in which only the critic is trained and not the policy."""
    value_clip: Annotated[float, Field(ge=0)] = 0.2
    """Largest change of a value in one step, in units of the reward: beyond it, the value gets no
    gradient that increases the change; 0 is off."""
    whiten: bool = True
    """Shift and scale the token advantages of a step to mean 0 and standard deviation 1."""


class Shot(Settings):
    """An example for few-shot prompting."""

    prompt: str
    """The prompt of the example."""
    answer: str
    """A good response to it."""


RESERVED = frozenset(
    {"messages", "conversation", "add_generation_prompt", "continue_final_message", "tokenize"}
    | {"chat_template", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs"}
)
"""Variables of a chat template, and arguments of its call, that `template_options` cannot set."""


class SourceSettings(Settings):
    """Where prompts come from. Every source has these options, and may add its own."""

    chat: bool = False
    """Send a string prompt as one user message, in the chat template of the tokenizer."""
    system: str | None = None
    """System message at the start of chat prompts."""
    template: str = "{{ prompt }}"
    """A sandboxed Jinja template for every string prompt: `{{ prompt }}` is the prompt of the row,
    and any other column is available under its name."""
    template_options: dict[str, Any] = Field(default={})
    """Variables of the chat template, as `{ enable_thinking = false, date = "{{ day }}" }`. A text
    is a Jinja template over the columns of the row."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """The chat template: the name of one that the tokenizer has, or a file that ends with `.jinja`
    (a relative path counts from the spec's folder); the tokenizer's default if not set."""
    add_special_tokens: bool | None = None
    """Add the tokenizer's special tokens, such as a beginning of sequence, to the text of a prompt.
    If not set, they are added to plain text, and not to chats, whose template writes them."""
    continue_final_message: bool = False
    """Let the model continue the last message of a chat that ends with one of the assistant; such
    chats are refused otherwise."""
    invalid_unicode: Literal["refuse", "replace"] = "refuse"
    """What to do with text that is not valid Unicode: `refuse` names the row, and `replace` puts
    U+FFFD in place of every lone surrogate or invalid byte."""
    few_shot: tuple[Shot, ...] = Field(default=(), strict=False)
    """Examples in front of every prompt, as `[{ prompt = "…", answer = "…" }, …]`. They become
    turns of a chat, or texts in the same template, each followed by its answer."""
    min_prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompts of fewer tokens, template included, are skipped."""
    max_prompt_tokens: Count | None = None
    """Prompts of more tokens, template included, are skipped."""
    too_long: Literal["stop", "skip"] = "stop"
    """What to do with a prompt that leaves too little of the context for `max_new_tokens`."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this source in every step, relative to the weights of the other sources. Without any
    weight, rows are drawn uniformly from all sources; give every source a weight, or none."""
    sampling: Literal["uniform", "difficulty"] = "uniform"
    """`uniform` serves all rows equally often; `difficulty` serves a row less often after a group
    whose responses were all right or all wrong (by `eval.threshold`), which gives no signal."""
    rewards: tuple[str, ...] | None = Field(default=None, strict=False)
    """Names of the rewards that score the prompts of this source; all rewards if not set."""

    @field_validator("template_options")
    @classmethod
    def _check_names(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(options.keys() & RESERVED):
            raise ValueError(f"{', '.join(taken)} is set by drpo itself; remove it")
        plain: dict[str, Any] = to_jsonable_python(options)  # dates as text
        return plain

    @field_validator("chat_template")
    @classmethod
    def _find_file(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or not ("/" in name or name.endswith(".jinja")):
            return name
        path = Path(name).expanduser()
        path = ((info.context or {}).get("folder") or Path()) / path
        if not path.is_file():
            raise ValueError(f"there is no file {path}; name a file with a Jinja template")
        return str(path)


class RolloutSettings(Settings):
    """How responses are sampled. Every engine has these options, and may add its own."""

    prompts_per_step: Count = 64
    """Prompts per step, over all devices."""
    samples_per_prompt: Count = 8
    """Responses per prompt: the group size."""
    max_new_tokens: Count = 1024
    """Most tokens of a response; a longer response is truncated, and marked as truncated."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Sampling temperature; training computes log-probs at the same temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; 1 is off. It must stay 1 in training, because truncation corrupts μ."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Top-k sampling; 0 is off. It must stay 0 in training, because truncation corrupts μ."""
    min_p: Fraction = 0.0
    """Min-p sampling; 0 is off. It must stay 0 in training, because truncation corrupts μ."""
    stop: tuple[str, ...] = Field(default=(), strict=False)
    """Texts that end a response, in addition to the end-of-sequence tokens of the model. The text
    of a special token, such as `"<|im_end|>"`, stands for the token."""
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), strict=False)
    """Ids of tokens that end a response, in addition to the end-of-sequence tokens of the model."""
    context_length: Count | None = None
    """Most tokens of a prompt and its response together; the limit of the model if not set."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of the engine; `model.dtype` if not set."""
    weight_rounding: Literal["int8", "fp8"] | None = None
    """Round every weight matrix, per output channel, to the values that a weight-only quantised
    engine would hold. It saves neither time nor memory; use it to study how such an engine changes
    μ."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0)] = 0
    """Most additional batches of prompts that a step samples to replace groups with equal rewards,
    which give no signal (DAPO, arXiv 2503.14476); 0 is off."""


class RewardSettings(Settings):
    """How responses are scored. Every reward has these options, and may add its own."""

    name: Annotated[str, Field(min_length=1)] | None = None
    """Name in metrics and samples; derived from the type if not set."""
    weight: float = 1.0
    """Factor of this reward in the total; 0 makes it a metric that is only recorded."""
    gate: bool = False
    """Multiply the sum of the other rewards by this one, instead of adding it."""
    every: Count = 1
    """Interval, in steps, at which it is computed; above 1 only for a metric (weight 0)."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time of one call, in seconds; after it, the call has failed and its process is
    killed."""
    workers: Count = 2
    """Processes that run it, per rank."""
    concurrency: Count = 16
    """Calls that run at the same time in each process, for an async reward."""
    tries: Count = 2
    """The number of attempts for a call that raises, until it counts as failed; a timeout is not
    retried."""
    on_error: Literal["stop", "zero", "skip_sample"] = "stop"
    """What a failed call does: `stop` ends the run; `zero` counts as 0 in the total; `skip_sample`
    leaves its samples out of advantages and losses. Every failure is counted, and recorded in full
    in quarantine.jsonl."""


class AdvantageSettings(Settings):
    """How much better than expected a response was."""


class ObjectiveSettings(Settings):
    """The loss per token, from π, μ and the advantage."""


class EvalSettings(Settings):
    """Evaluation on held-out problems, during training and by `drpo eval`."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between evaluations; 0 evaluates only before the first and after the last step."""
    problems: Count = 200
    """Number of held-out problems; they come from `[[eval.data]]`, else from the training data."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """What to do with training rows that have the same prompt as a problem of `[[eval.data]]`:
    refuse to train, or drop them from training."""
    samples_per_prompt: Count = 8
    """Responses per held-out problem: the k of avg@k."""
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    """Sampling temperature of evaluation; `rollout.temperature` if not set."""
    max_new_tokens: Count | None = None
    """Most tokens of a response in evaluation; `rollout.max_new_tokens` if not set."""
    threshold: float = 1.0
    """A response counts as right if its total reward is at least this value."""


class CheckpointSettings(Settings):
    """How often the run is saved, and how many checkpoints are kept."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between checkpoints; 0 saves only after the last step."""
    keep: Count = 3
    """Number of newest checkpoints to keep, in addition to the best one by held-out score."""


class TrackerSettings(Settings):
    """Where metrics are sent, besides metrics.jsonl. Without a tracker nothing leaves the machine.

    Every tracker has these options, and may add its own.
    """

    name: FolderName | None = None
    """Name of its log, and of its folder in the run folder; derived from the type if not set."""
    finish_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time that a finished run waits for it, in seconds; then it is killed."""
