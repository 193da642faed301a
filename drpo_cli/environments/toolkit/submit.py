"""The tool `submit`: ends the episode with the final answer."""

from drpo_cli.environments.toolkit.answers import Submit


def submit(answer: str) -> Submit:
    """Submits the final answer and ends the conversation.

    Args:
        answer: The final answer alone, without explanations.
    """
    return Submit(answer)
