"""The tokens of an episode: the policy's as the engine gave them, observations tokenized once."""

from drpo_cli.environments.dialogue.chats import Chats as Chats
from drpo_cli.environments.dialogue.dialogue import Dialogue as Dialogue
