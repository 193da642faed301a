"""The options of every section of a spec, and the base options of every kind of plugin.

This package imports nothing heavy, because `drpo check` and `drpo --help` read it.
The docstring under a field is its documentation: docs/spec.md is generated from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import to_jsonable_python

from drpo_cli.settings.advantage import AdvantageSettings as AdvantageSettings
from drpo_cli.settings.base import PLAIN_PATH as PLAIN_PATH
from drpo_cli.settings.base import AbsentKeyError as AbsentKeyError
from drpo_cli.settings.base import Count as Count
from drpo_cli.settings.base import Decay as Decay
from drpo_cli.settings.base import FolderName as FolderName
from drpo_cli.settings.base import Fraction as Fraction
from drpo_cli.settings.base import HeadDtype as HeadDtype
from drpo_cli.settings.base import Settings as Settings
from drpo_cli.settings.base import SpecPath as SpecPath
from drpo_cli.settings.environment import EnvironmentSettings as EnvironmentSettings
from drpo_cli.settings.evaluation import SUITE_FILES as SUITE_FILES
from drpo_cli.settings.evaluation import EvalSettings as EvalSettings
from drpo_cli.settings.evaluation import EvalSuiteSettings as EvalSuiteSettings
from drpo_cli.settings.lora import LoraSettings as LoraSettings
from drpo_cli.settings.parallel import ParallelSettings as ParallelSettings
from drpo_cli.settings.remote import Attempts as Attempts
from drpo_cli.settings.remote import Url as Url
from drpo_cli.settings.sft import SftSettings as SftSettings
from drpo_cli.settings.train import CriticSettings as CriticSettings
from drpo_cli.settings.train import ReferenceSettings as ReferenceSettings
from drpo_cli.settings.train import TeacherSettings as TeacherSettings
from drpo_cli.settings.train import TrainSettings as TrainSettings


class RunSettings(Settings):
    """The name and the length of the run."""

    name: FolderName
    """Name of the run; its folder is `<folder>/<name>`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything that is random, such as sampling and the order of the data."""
    steps: Annotated[int, Field(ge=0)]
    """Number of steps, each a rollout and its training. 0 takes the warm-up of `[sft]` alone."""
    folder: SpecPath = Path("runs")
    """Folder in which the folder of the run is created."""
    report_every: Annotated[int, Field(ge=0)] = 50
    """Steps between updates of report.html during the run; 0 writes it only at the end."""
    recorded_prompts: Count | None = None
    """Prompts per step whose samples are written to samples.jsonl; all if not set."""
    hang_s: Annotated[float, Field(ge=0)] = 1800.0
    """Seconds without progress of any process after which the run is ended, with the stack of every
    process in its log. A call of a reward, or of a teacher behind an endpoint, may take its
    `timeout_s` in addition. 0 never ends it."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """How often the run is started again from its last checkpoint after a process crashed, was
    killed or hung. Not after a mistake that you can fix, nor when you stop the run."""


class ModelSettings(Settings):
    """The policy to train: a Hugging Face causal language model."""

    path: Annotated[str, Field(min_length=1)]
    """A model folder (a relative path counts from the folder of the spec) or a hub id. Of a
    multimodal model (Gemma 3 and 4, Qwen3.5, Ministral 3, …) the text model is trained."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute dtype of training and rollout; master weights are always float32."""
    prepare: SpecPath | None = None
    """A Python script that makes the model folder: `python SCRIPT FOLDER` is run if it does not
    exist."""
    trust_remote_code: bool = False
    """Allow modelling code that comes with the model folder or hub repository to run."""


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
    """What to do with a prompt that leaves too little of the context for `max_new_tokens`, or for
    an environment's `max_tokens_per_episode`."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of this source in every step, relative to the weights of the other sources. Without any
    weight, rows are drawn uniformly from all sources; give every source a weight, or none."""
    sampling: Literal["uniform", "difficulty"] = "uniform"
    """`uniform` serves all rows equally often; `difficulty` serves a row less often after a group
    whose responses were all right or all wrong (by `eval.threshold`), which gives no signal."""
    rewards: tuple[str, ...] | None = Field(default=None, strict=False)
    """Names of the rewards that score the prompts of this source; all rewards if not set."""
    environment: str | None = None
    """Name of the environment that the episodes of this source take place in; the first if not
    set."""

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
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Texts that end a response, in addition to the end-of-sequence tokens of the model. The text
    of a special token, such as `"<|im_end|>"`, stands for the token."""
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), strict=False)
    """Ids of tokens that end a response, in addition to the end-of-sequence tokens of the model."""
    context_length: Count | None = None
    """Most tokens of a prompt and its response together; the limit of the model if not set."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of the engine; `model.dtype` if not set."""
    head_dtype: HeadDtype = "float32"
    """How the engine's head computes logits: in `float32`, or as the `model` does, which rounds
    them to the engine's dtype before log μ is taken. Should be as `train.head_dtype`."""
    weight_rounding: Literal["int8", "fp8"] | None = None
    """Round every weight matrix, per output channel, to the values that a weight-only quantised
    engine would hold. It saves neither time nor memory; use it to study how such an engine changes
    μ."""
    in_rounds: bool = False
    """Sample the turns of episodes in rounds: the next begins when every environment has answered.
    A run can then be repeated, and continued, bit for bit, also with vLLM; but it waits for the
    slowest environment of each round. Without it, each turn joins those that are being sampled, and
    what is sampled together depends on time, which changes rounding."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0)] = 0
    """Most additional batches of prompts that a step samples to replace groups with equal rewards,
    which give no signal (DAPO, arXiv 2503.14476); 0 is off."""

    def describe(self) -> str:
        """What an engine chooses by the device, in words; empty if nothing."""
        return ""

    def pools_device_memory(self) -> bool:
        """Whether the engine takes device memory from a pool of its own, apart from torch's."""
        return False

    def pushes_adapters(self, cuda: bool) -> bool:
        """Whether the engine wants adapters of `[lora]` alone on such a device, not merged."""
        return False

    def quantised_to(self) -> Literal["int8", "fp8"] | None:
        """The format to which the engine itself quantises weights; None if it does not."""
        return None


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


class ParserSettings(RewardSettings):
    """Options of rewards that parse what a model wrote."""

    on_error: Literal["stop", "zero", "skip_sample"] = "zero"
    """What a failed call does: end the run; count as 0 in the total; or leave its samples out of
    advantages and losses. A model can write what no parser can handle, so the default here is 0.
    Every failure is counted, and a reward that always fails still ends the run."""


class ObjectiveSettings(Settings):
    """The loss per token, from π, μ and the advantage."""


class CheckpointSettings(Settings):
    """How often the run is saved, and how many checkpoints are kept."""

    every: Annotated[int, Field(ge=0)] = 50
    """Steps between checkpoints; 0 saves only after the last step."""
    keep: Count = 3
    """Number of newest checkpoints to keep, in addition to the best one by held-out score."""
    asynchronous: bool | None = None
    """Whether the run goes on while a checkpoint is written, from a copy of weights and moments in
    main memory (12 bytes per weight). If not set: yes where the trainer is on a GPU, no on a CPU,
    where writing takes the cores that training needs."""


class TrackerSettings(Settings):
    """Where metrics are sent, besides metrics.jsonl. Without a tracker nothing leaves the machine.

    Every tracker has these options, and may add its own.
    """

    name: FolderName | None = None
    """Name of its log, and of its folder in the run folder; derived from the type if not set."""
    finish_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest time that a finished run waits for it, in seconds; then it is killed."""


NAMED = (EnvironmentSettings, RewardSettings, TrackerSettings)
"""Options of plugins that have a name, which is derived from their type if not set."""
