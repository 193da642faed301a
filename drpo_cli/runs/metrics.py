"""The records that a run writes, as types: a step's metrics, samples, held-out scores, events."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Required, TypedDict

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number, as large as a float can count."""

Time = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since 1970, up to the year 5138."""

Share = Annotated[float, Meta(ge=0, le=1)]

State = Literal["starting", "running", "finished", "stopped", "failed"]


class Stepped(TypedDict):
    """What every record but an event has."""

    step: Count


class RewardUsage(TypedDict, total=False):
    """What one reward did in a step, summed over all ranks.

    calls     calls made
    seconds   time spent in them, over all processes, in seconds
    slowest   the slowest call, in seconds
    failures  failed calls by kind (timeout, crash, exception, …)
    counts    what the reward counts itself, such as tokens or cost
    """

    calls: Count
    seconds: float | None
    slowest: float | None
    failures: dict[str, Count]
    counts: dict[str, float | None]


class EnvironmentUsage(TypedDict, total=False):
    """What happened in one environment in a step, over all sampled episodes of all ranks.

    A mean or a share is null (None) where there is nothing to take it of.

    episodes          how many there were
    turns, turns_max  actions per episode: mean, and the most
    ends              share of the episodes by why they ended
    failures          episodes that failed, by kind
    tool_calls        mean per episode, without those that could not be parsed
    unparsed_share    share of the turns with a call whose call could not be parsed
    tool_errors       share of the calls that were answered by an error
    answers           answers of the environment or of tools
    answer_s          mean seconds of one; `slowest_s` of the slowest, `seconds` of all
    sampled_tokens    mean per episode
    observed_tokens   mean per episode of those behind its first prompt that were not sampled
    split_share       share of the episodes that are trained as several rows
    counts            what was counted in the answers, summed: tool_calls, printed_bytes, …
    """

    episodes: Count
    turns: float | None
    turns_max: Count
    ends: dict[str, float | None]
    failures: dict[str, Count]
    tool_calls: float | None
    unparsed_share: float | None
    tool_errors: float | None
    answers: Count
    answer_s: float | None
    slowest_s: float | None
    seconds: float | None
    sampled_tokens: float | None
    observed_tokens: float | None
    split_share: float | None
    counts: dict[str, float | None]


class SuiteScore(TypedDict, total=False):
    """The score of a suite.

    score, low, high  avg@k in [0, 1] and its 95 % interval
    truncated_share   share of responses that ran out of tokens
    unscored          responses counted as wrong because a reward failed on them
    """

    score: float | None
    low: float | None
    high: float | None
    truncated_share: float | None
    unscored: Count


class StepMetrics(TypedDict, total=False):
    """One line of metrics.jsonl. Step 0 is the evaluation of the untrained model.

    Only `step` is in every line. A number is null (None) where it has no finite value. Quantities
    over responses and tokens are over all ranks; `seconds` are rank 0's.

    step                          the step, from 1; 0 for the untrained model
    held_out_set                  hash of what held-out scores depend on; in step 0
    held_out, _low, _high         avg@k in [0, 1] and its 95 % interval; on evaluated steps
    held_out_unscored             responses counted as wrong because a reward failed on them
    held_out_by_source            avg@k of each source's problems, where they are of several
    suites                        scores of `[[eval.suite]]`, on steps on which one is due
    reward, reward_std            mean and standard deviation of the total over responses
    rewards                       mean of each reward, before its weight
    skipped_samples               responses left out because a reward failed on them
    grading                       what each reward did
    zero_advantage_groups         share of groups in which all totals are equal, in [0, 1]
    response_length               mean, in tokens
    truncated_share               share of responses cut off by rollout.max_new_tokens
    turns                         mean actions per episode, where there are environments
    environments                  what happened in each environment
    idle_share                    share of the rollout's time in which nothing was sampled
    sampling_rounds               dynamic sampling: batches of prompts sampled
    dropped_groups                dynamic sampling: groups sampled and not trained on
    missing_groups                dynamic sampling: groups without a signal that were trained on
    skipped_prompts               rows skipped so far for their length, by the option responsible
    rows_by_rate                  difficulty sampling: rows by how often they were right
    reference_kl                  KL(π ‖ reference), in nats per token
    teacher_kl                    KL(π ‖ teacher), in nats per token
    teacher_retries               requests to the teacher's endpoint that were repeated
    teacher_wait_s                seconds in which training waited for it, on the slowest rank
    explained_variance            of the critic, 1 at best
    router_disagreement           share of the engine's choices of experts that π does not make
    value_loss                    of the critic, in reward²
    loss                          mean over the step's updates
    grad_norm                     global norm before clipping, mean over the step's updates
    skipped_updates               updates that were not applied
    tokens_without_mu             sampled tokens left out because their μ is 0
    learning_rate                 of the next update
    ratio_*                       r = π/μ over response tokens
    shift_*                       |π − μ| over response tokens, a probability
    weight_*                      gradient weight w over response tokens
    entropy                       mean entropy of π, in nats per token
    diverging_share, _mass        share of tokens with A (r − 1) > 0, and of the gradient's mass
    converging_share, _mass       share of tokens with A (r − 1) < 0, and of the gradient's mass
    corrective_share, _mass       share of tokens with w < 0, and of the gradient's mass
    masked_share                  share of tokens with w = 0
    effective_sample_size         (Σ r)² / (n Σ r²), in [0, 1]
    by_mu                         shares and shifts of the tokens of each range of μ
    trained_tokens                response tokens of all updates
    gap, gap_floor                mean |log π − log μ| after the sync, and its noise floor, in nats
    gap_noise                     what rounding gives on the step's text, where it was measured
    tokens_per_second             `rollout` and `train`, in tokens per second
    seconds                       each phase of the step, and `step`, their sum
    peak_memory_gib               highest of any rank since the start, in GiB
    """

    step: Required[Count]
    held_out_set: str
    held_out: float | None
    held_out_low: float | None
    held_out_high: float | None
    held_out_unscored: Count
    held_out_by_source: dict[str, float | None]
    suites: dict[str, SuiteScore]
    reward: float | None
    reward_std: float | None
    rewards: dict[str, float | None]
    skipped_samples: Count
    grading: dict[str, RewardUsage]
    zero_advantage_groups: float | None
    response_length: float | None
    truncated_share: float | None
    turns: float | None
    environments: dict[str, EnvironmentUsage]
    idle_share: float | None
    sampling_rounds: float | None
    dropped_groups: float | None
    missing_groups: float | None
    skipped_prompts: dict[str, Count]
    rows_by_rate: dict[str, Count]
    reference_kl: float | None
    teacher_kl: float | None
    teacher_retries: float | None
    teacher_wait_s: float | None
    explained_variance: float | None
    router_disagreement: float | None
    value_loss: float | None
    loss: float | None
    grad_norm: float | None
    skipped_updates: float | None
    tokens_without_mu: float | None
    learning_rate: float | None
    ratio_mean: float | None
    ratio_min: float | None
    ratio_p01: float | None
    ratio_p50: float | None
    ratio_p90: float | None
    ratio_p99: float | None
    ratio_max: float | None
    shift_mean: float | None
    shift_min: float | None
    shift_p01: float | None
    shift_p50: float | None
    shift_p90: float | None
    shift_p99: float | None
    shift_max: float | None
    weight_mean: float | None
    weight_min: float | None
    weight_p01: float | None
    weight_p50: float | None
    weight_p90: float | None
    weight_p99: float | None
    weight_max: float | None
    entropy: float | None
    diverging_share: float | None
    diverging_mass: float | None
    converging_share: float | None
    converging_mass: float | None
    corrective_share: float | None
    corrective_mass: float | None
    masked_share: float | None
    effective_sample_size: float | None
    by_mu: dict[str, dict[str, float | None]]
    trained_tokens: float | None
    gap: float | None
    gap_floor: float | None
    gap_noise: float | None
    tokens_per_second: dict[str, float | None]
    seconds: dict[str, float | None]
    peak_memory_gib: float | None


class SampleCall(TypedDict, total=False):
    """A call of a tool that the model wrote; `id` is empty where its format has none.

    error  what went wrong, with its place in the tool's code; only where something did
    """

    name: Required[str]
    arguments: dict[str, Any]
    id: str
    error: str


class SampleTurn(TypedDict, total=False):
    """One action of an episode, and the answer to it.

    row, first, end  its tokens: `rows[row]["token_ids"][first:end]`
    reward           the environment's
    calls            the tools that were called
    problem          why a call could not be parsed; None where none was wrong
    sampling_s       seconds from the request to the last token
    answer_s         seconds until environment or tools answered
    """

    row: Count
    first: Count
    end: Count
    reward: float | None
    calls: list[SampleCall]
    problem: str | None
    sampling_s: float | None
    answer_s: float | None


class SampleFailure(TypedDict):
    """Why an environment failed: the kind, and the message with its traceback."""

    kind: str
    message: str


class SamplePart(TypedDict):
    """A stretch of a row's text that the policy sampled, or did not."""

    sampled: Literal[0, 1]
    text: str


class SampleRow(TypedDict, total=False):
    """One training row of an episode, id for id as the model saw it.

    sampled  for each of `token_ids` whether the policy sampled it
    parts    the same as text: the prompt, and then in turn what was sampled and what was not
    """

    prompt_ids: Required[list[Count]]
    token_ids: Required[list[Count]]
    sampled: Required[list[Literal[0, 1]]]
    parts: list[SamplePart]


class SampleRecord(TypedDict, total=False):
    """One line of samples.jsonl: a response with its prompt and what it scored.

    sample     number of the response among those to its prompt, from 0
    metadata   the prompt's row of the data set
    tokens     length of the completion, sampled tokens only
    reward     total; None for a skipped sample
    rewards    value of each reward; None where it failed

    And of an episode in an environment:
    environment  its name
    messages     the whole conversation
    turns        the policy's actions, in order
    end          why it ended: done, a limit, or failed
    failure      None where the environment did not fail
    info         what the environment said with its last step
    counts       what was counted in its answers
    rows         its rows in training: one, or more where the chat template rewrites history
    """

    step: Required[Count]
    prompt_id: str
    sample: Count
    prompt: Required[str]
    answer: Any
    metadata: dict[str, Any]
    completion: Required[str]
    truncated: bool
    tokens: Count
    reward: float | None
    rewards: dict[str, float | None]
    environment: str
    messages: list[dict[str, Any]]
    turns: list[SampleTurn]
    end: str | None
    failure: SampleFailure | None
    info: dict[str, Any]
    counts: dict[str, float | None]
    rows: list[SampleRow]


class HeldOutRecord(TypedDict):
    """One line of held_out.jsonl: the share of right responses to each problem, in their order."""

    step: Count
    rates: list[Share]


class WarmUpRecord(Stepped):
    """One line of warm_up.jsonl: a supervised update before the first step, counted by `step`."""

    loss: float | None


class QuarantineRecord(TypedDict, total=False):
    """One line of quarantine.jsonl: a call of a reward, or an episode, that failed.

    reward      its name, or that of the environment
    completion  the text, or those of all samples that the call was about; of an episode, its last

    And of an episode:
    environment  its name
    turn         actions so far
    messages     the conversation so far
    """

    step: Count
    reward: Required[str]
    reason: Required[str]
    detail: str
    prompt_id: str
    prompt: str
    completion: str | list[str]
    sample: Count | None
    seconds: float | None
    environment: str
    turn: Count
    messages: list[dict[str, Any]]


class EventRecord(TypedDict, total=False):
    """One line of events.jsonl.

    time     unix seconds
    state    the state of the run from here on; absent where it does not change
    resumed  the step after which the run continues
    rank     the rank that failed
    """

    time: Required[Time]
    text: Required[str]
    state: State
    resumed: Count
    rank: Count


def failed_calls(metrics: StepMetrics) -> Counter[tuple[str, str]]:
    """Counts the failed calls in a step's metrics by (reward, kind)."""
    failures = {name: own.get("failures", {}) for name, own in metrics.get("grading", {}).items()}
    return Counter({(name, kind): n for name, own in failures.items() for kind, n in own.items()})
