"""Rewards, one file each; `grading` calls them on sampled responses and adds their scores up.

A reward has a docstring, optionally `class Config(RewardSettings)`, `EXAMPLES`, and `reward`: a
function, an async function, or a class whose `__init__` sets up and whose `__call__` scores. It
asks by name for what it wants: `prompt`, `completion`, `answer`, `metadata`, `truncated`, `tokens`
(the completion's token ids), `group` (all completions of the prompt), `config`. Annotated
`-> list[float]` it scores a whole group at once and asks for `completions`, `truncations` and
`tokens` (one tuple per completion) instead. `EXAMPLES` are (arguments, score) pairs.
"""
