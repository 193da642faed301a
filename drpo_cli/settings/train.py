"""The options of training: `[train]`, `[reference]`, `[teacher]` and `[critic]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.settings.base import Count, Decay, HeadDtype, Settings
from drpo_cli.settings.remote import Attempts, Url


class TrainSettings(Settings):
    """The loss, the optimizer and the batches of training."""

    updates_per_rollout: Count = 4
    """Optimizer updates per step, each on its own mini-batch of the samples."""
    minibatches: Literal["spread", "groups"] = "spread"
    """How samples are divided into mini-batches: `spread` gives each the same number of every
    group; `groups` keeps groups whole where equal mini-batches allow it, so that a prompt is
    computed once per step instead of once per update."""
    tokens_per_microbatch: Count = 16384
    """Most tokens in one forward and backward pass, per device; those of padding count."""
    layout: Literal["auto", "packed", "padded"] = "auto"
    """How sequences become a micro-batch. `packed`: end to end in one row, and a prompt is computed
    once for several responses; for models with attention as their only mixing of tokens. `padded`:
    side by side, each padded to the longest, with the model's own attention; for every causal
    model. `auto` packs where the model allows it."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-6
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its peak to `final_learning_rate` during the run."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate of the last update, for the linear and cosine schedules."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates in which the learning rate rises linearly from zero to its peak: the first, or those
    after `critic.warmup_steps`."""
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
    checkpointing_keeps: Literal["inputs", "offloaded_inputs", "products"] = "inputs"
    """What `gradient_checkpointing` keeps of each layer: its `inputs`; `offloaded_inputs`, which
    wait in pinned main memory, for very long sequences; or `products`, the results of matrix
    products and attention, so that only cheap operations run again: more memory, less time."""
    attention: Literal["varlen", "buckets"] | None = None
    """How attention over packed rows is computed; by device if not set. `varlen`: by the kernel of
    FlashAttention for sequences of any lengths, for bfloat16 on GPUs since Ampere. `buckets`: in
    padded batches of similar lengths, on any device; the default on a CPU and for float32."""
    float8: Literal["tensorwise", "rowwise"] | None = None
    """Compute the products of the decoder layers in FP8, forward and backward, with a scale per
    tensor, or per token and channel, so that log π of a token does not depend on the others of its
    batch. For bfloat16 on GPUs since Ada, with the extra `drpo[float8]`; a CPU rounds the same way
    and is slower. Experts, routers, head and critic stay in bfloat16."""
    reduce_gradients: Literal["per_microbatch", "per_update"] = "per_microbatch"
    """When gradients are reduced over the devices: after every micro-batch, so that a device keeps
    only its shard of their sum; or once per update, which moves less data and keeps 4 bytes per
    weight of the whole model on every device meanwhile. With several devices the order of the sum
    differs, and so do its last bits."""
    offload: Literal["none", "optimizer"] = "none"
    """What is kept in main memory, pinned, while there are no updates: with `optimizer`, the
    moments of AdamW, 8 bytes per weight, divided by the number of devices. The rollout engine can
    have their room on the device; to move them there and back takes time in every step."""
    logits_mib: Count | None = None
    """Size of one block of float32 logits, in MiB; by device if not set: 8 on a CPU, 512 on a GPU.
    Two or three blocks exist at a time, never the whole array `[tokens, vocabulary]`."""
    head_dtype: HeadDtype = "float32"
    """How the head computes logits from hidden states and weights in `model.dtype`: in `float32`;
    or as the `model` does, which rounds them to its dtype before log-probs are computed. For the
    policy and its reference. The gradients of logits are in `model.dtype` either way."""
    router_replay: bool = False
    """For a mixture of experts: send each token to the experts that the engine chose when it
    sampled, prompts included, instead of those that the trainer's routers would choose. Routers
    still learn, from the scores of these experts. Rounding makes the two choose differently for a
    few tokens, and each gap of that kind is a large one."""
    router_dtype: Literal["model", "float32"] = "model"
    """How the routers of a mixture of experts compute their scores: as the architecture does, which
    is in `model.dtype` for most and in float32 for some; or `float32` for all. Their weights are
    rounded to `model.dtype`, as the engine's are."""
    freeze_routers: bool = False
    """Train a mixture of experts without its routers, whose weights then never change."""
    reduction: Literal["token_mean", "sequence_mean", "fixed_horizon"] = "token_mean"
    """How the losses of tokens are reduced to one: `token_mean` is the mean over all tokens of an
    update; `sequence_mean` the mean over responses of the mean over their tokens; `fixed_horizon`
    the mean over responses of the sum over their tokens divided by `horizon`. An episode of several
    turns is one response: its tokens are those that were sampled in it."""
    horizon: Count | None = None
    """The divisor of `fixed_horizon`, in tokens; if not set, `rollout.max_new_tokens`, or the most
    that the policy can sample in an episode."""
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
    reaches the last `overlong_buffer` tokens, linearly up to 1. An episode of several turns is
    judged by its longest turn."""
    overlong_buffer: Count | None = None
    """Tokens over which the penalty of `overlong = "soft"` grows; a fifth of `max_new_tokens` if
    not set."""

    @property
    def checkpointing(self) -> str | None:
        """What is kept of each layer for the backward pass; None for everything."""
        return self.checkpointing_keeps if self.gradient_checkpointing else None

    @property
    def logits_in_a_block(self) -> int:
        """Number of float32 values in a block of `logits_mib`, which `devices.resolve` sets."""
        assert self.logits_mib is not None
        return self.logits_mib * 2**20 // 4


class ReferenceSettings(Settings):
    """A frozen policy; a KL(π ‖ π_ref) term keeps the trained policy near it."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the reference; `model.path` if not set."""
    kl: Literal["k1", "k2", "k3"] = "k2"
    """Estimator of the divergence. `k1`: the divergence of each episode is subtracted from its
    reward, before a baseline. `k2`: a term of the loss with the gradient of KL(π ‖ π_ref). `k3`:
    the term of GRPO, whose gradient is that of KL(π_ref ‖ π)."""
    coefficient: Annotated[float, Field(gt=0)] = 0.001
    """Factor β of the divergence term."""


class _Taught(Settings):
    """Where a teacher is, and how strongly the policy learns from it."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the teacher, with the policy's tokenizer: it is loaded beside the
    policy. Give this or `url`."""
    url: Url | None = None
    """Address of an endpoint that serves the teacher, to which `/completions` is added: a vLLM
    server, since the log-probs of prompts are its extension. The options of requests to it are
    refused with `path`."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Name of the teacher at the `url`."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable that holds the key of the `url`; no key if not set."""
    concurrency: Count = 32
    """Requests to the `url` at the same time, per rank."""
    coefficient: Annotated[float, Field(gt=0)] = 1.0
    """Factor β of log π_teacher − log π, in units of the reward per nat."""
    rewards: bool = True
    """Learn from the rewards as well. If not, they are only measured, and the advantages are the
    teacher's alone."""


class TeacherSettings(Attempts, _Taught):
    """On-policy distillation: log π_teacher − log π is added to each token's advantage."""


class CriticSettings(Settings):
    """A separate value model V(s), for advantages that need one (`gae`)."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Model folder or hub id of the decoder that it starts from; `model.path` if not set."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Learning rate of its AdamW; the other options of the optimizer are those of `[train]`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps, in which only the critic is trained and not the policy, whose warm-up and
    schedule begin after them."""
    value_clip: Annotated[float, Field(ge=0)] = 0.2
    """Largest change of a value in one step, in units of the reward: beyond it, the value gets no
    gradient that increases the change; 0 is off."""
    whiten: bool = True
    """Shift and scale the token advantages of a step to mean 0 and standard deviation 1."""
