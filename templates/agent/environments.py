"""An environment: guess a secret number in a few questions."""

from random import Random

from drpo_cli.environments import EnvironmentSettings, Row, Step


class Guess:
    """Guess a number from 1 to `limit` in at most `questions`; each guess is answered by a hint.

    The reward is 1 for the right number and 0 if it is not found.
    """

    class Config(EnvironmentSettings):
        """Options of the game."""

        limit: int = 16
        """The largest number."""
        questions: int = 4
        """The guesses of a game."""

    def __init__(self, config: Config) -> None:
        """Begins a game; `config` has the options of `[[environment]]`."""
        self.config = config
        self.asked = 0

    def start(self, row: Row, rng: Random) -> str:
        """Draws the secret. `rng` is the same for all episodes of a group."""
        self.secret = rng.randint(1, self.config.limit)
        return f"guess 1-{self.config.limit}\n"

    async def step(self, action: str) -> Step:
        """Answers a guess: `action` is what the model wrote.

        It is async so that many games share a process: a game that needs long would be better off
        in a process of its own, without `async`.
        """
        self.asked += 1
        if action == str(self.secret):
            return Step(reward=1.0, done=True)
        if self.asked == self.config.questions:
            return Step(done=True)
        if not action.isdecimal():
            return Step("number?\n")
        return Step("higher\n" if int(action) < self.secret else "lower\n")
