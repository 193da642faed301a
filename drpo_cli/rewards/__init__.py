"""Rewards, one file each; `_grade` has them grade what is sampled and adds them up.

A reward has a docstring, optionally `class Config(RewardSettings)`, `EXAMPLES`, and `reward`: a
function, an async function, or a class whose `__init__` sets up and whose `__call__` scores. It
asks by name for what it wants: `prompt`, `completion`, `answer`, `metadata`, `truncated`, `tokens`
(the completion's token ids), `group` (all completions of the prompt), `config`. Annotated
`-> list[float]` it scores a whole group at once and asks for `completions`, `truncations` and
`tokens` (one each a completion) instead. `EXAMPLES` are (arguments, score) pairs.

    rollout → `_batch` → `_pool` → `_worker` (→ `_score`) → `_batch` → Scores

`_contract` reads what a reward asks for; `_score` calls it and holds it to the contract; `_worker`
is a process that does so, forked by `_forkserver`; `_crew` has one reward's processes, `_pool` all
of them; `_batch` is one step's way through; `_grade` holds it all.
"""
