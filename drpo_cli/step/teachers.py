"""Sets up the teacher of a run, and checks before the run starts that its tokens are the policy's.

A teacher is loaded beside the policy, or asked behind an endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from drpo_cli import pretrained
from drpo_cli.errors import UserError
from drpo_cli.spec import Spec

if TYPE_CHECKING:
    from drpo_cli.dist import World
    from drpo_cli.settings import TrainSettings
    from drpo_cli.trainer.remote_teacher import RemoteTeacher
    from drpo_cli.trainer.terms import Teacher

UNREADABLE = "\ufffd"  # in the text of a token that is a part of a character


def load(
    spec: Spec, train: TrainSettings, attention: str, world: World
) -> Teacher | RemoteTeacher | None:
    """Loads the teacher, if the run has one, or connects to it."""
    from drpo_cli.trainer.loading import load_reference
    from drpo_cli.trainer.remote_teacher import RemoteTeacher
    from drpo_cli.trainer.terms import Teacher

    settings = spec.teacher
    if settings is None:
        return None
    if settings.path is None:
        return RemoteTeacher(settings)
    model = spec.model.model_copy(update={"path": settings.path})
    temperature, block = spec.rollout.config.temperature, train.logits_in_a_block
    how = (train.layout, train.float8, train.head_dtype, "teacher.path")
    return Teacher(load_reference(model, temperature, block, world, attention, *how), settings)


def check(spec: Spec, tokens: Any, context: int, rank: int) -> None:
    """Raises UserError where the teacher would read other tokens than the policy sampled.

    tokens   the policy's tokenizer
    context  the longest sequence, in tokens
    """
    if spec.teacher is not None and spec.teacher.path is not None:
        _compare_vocabularies(spec, spec.teacher.path, tokens)
    elif spec.teacher is not None:
        _ask(spec, tokens, context, rank)


def _compare_vocabularies(spec: Spec, path: str, tokens: Any) -> None:
    from transformers import AutoTokenizer

    code = spec.model.trust_remote_code
    tokenizer = pretrained.read(AutoTokenizer, path, "teacher.path", trust_remote_code=code)
    theirs, ours = tokenizer.get_vocab(), tokens.get_vocab()
    differ = sorted(word for word, id in ours.items() if theirs.get(word, id) != id)
    if not differ and not set(ours.values()) - set(theirs.values()):
        return
    where = f"the token {differ[0]!r} has another id" if differ else "it has fewer tokens"
    raise UserError(
        f"teacher.path: {path} has another tokenizer than {spec.model.path}: {where}",
        "name a teacher of the same family",
    )


def _ask(spec: Spec, tokens: Any, context: int, rank: int) -> None:
    """Sends a first request: the first rank's is as long as any row, and others' are short.

    So each rank has reached the endpoint, and its longest sequence is known to be enough.
    """
    from drpo_cli.trainer.remote_teacher import RemoteTeacher

    assert spec.teacher is not None
    ids = _spread(tokens, context)[: None if rank == 0 else 2]
    with closing(RemoteTeacher(spec.teacher)) as teacher:
        theirs = teacher.texts(ids)
    for id, text in zip(ids[1:], theirs, strict=True):
        ours, other = tokens.decode([id]).strip(), (text or "").strip()
        if ours and other and ours != other and UNREADABLE not in ours + other:
            raise UserError(
                f"teacher.url: {spec.teacher.model} has another tokenizer than {spec.model.path}: "
                f"the token {id} is {other!r} there, and {ours!r} here",
                "name a teacher of the same family",
            )


def _spread(tokens: Any, count: int) -> Sequence[int]:
    """So many ids of tokens: added ones, where families differ most, then others, evenly."""
    known = sorted(set(tokens.get_vocab().values()))
    step = max(1, len(known) // count)
    chosen = [*sorted(tokens.get_added_vocab().values())[: count // 2], *known[::step]]
    return [chosen[place % len(chosen)] for place in range(count)]
