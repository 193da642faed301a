"""Rewards, one file each; `_score` calls them and adds them up.

A reward has a docstring, optionally `class Config(RewardSettings)`, `EXAMPLES`, and `reward(…)`,
which asks by name for what it wants: `prompt`, `completion`, `answer`, `metadata`, `truncated`,
`tokens` (the completion's token ids), `group` (all completions of the prompt), `config`. It may be
async. Annotated `-> list[float]` it scores a whole group at once and asks for `completions`,
`truncations` and `tokens` (one each a completion) instead. `EXAMPLES` are (arguments, score) pairs.
"""
