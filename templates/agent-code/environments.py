"""An environment: write Python, see the test that fails, and repair the code."""

from random import Random

from drpo_cli.environments import EnvironmentSettings, Message, Row, Step
from drpo_cli.rewards import python_tests
from drpo_cli.sandbox.run import Limits, run_program


class Repair:
    """Runs the tests of a problem on the code, which can be repaired while turns are left.

    The code runs in the sandbox of docs/sandbox.md. The verdict is that of the reward
    `python_tests`, which the code cannot forge; what the model reads about a failure is only text.
    """

    class Config(EnvironmentSettings):
        """Options of the repair."""

        repaired: float = 0.7
        """The reward of code that passes after a repair; at the first try it is 1."""
        seconds: float = 10.0
        """Longest time of the tests of a try."""

    def __init__(self, config: Config) -> None:
        """Begins with a problem; `config` has the options of `[[environment]]`."""
        self.config = config
        self.tests = python_tests.Config(seconds=config.seconds)
        self.tries = 0

    def start(self, row: Row, rng: Random) -> list[Message]:
        """Shows the problem; its tests stay here."""
        self.row = row
        return list(row.messages)

    def step(self, action: str) -> Step:
        """Runs the tests on what the model wrote."""
        self.tries += 1
        if python_tests.reward(action, self.row.answer, self.row.metadata, self.tests):
            return Step(reward=1.0 if self.tries == 1 else self.config.repaired, done=True)
        return Step(f"{self.explain(action)}\nCorrect the code, and write all of it again.")

    def explain(self, action: str) -> str:
        """The first test that fails, and the last line of its error."""
        code = python_tests.find_code(action)
        if not code.strip():
            return "There is no block of Python in your answer."
        for test in self.row.metadata["tests"]:
            limits = Limits(wall_s=self.config.seconds, cpu_s=self.config.seconds)
            if isinstance(test, str):
                result = run_program(f"{code}\n{test}\n", "", limits)
                if result.reason != "ok":
                    error = result.stderr.strip().splitlines()[-1:] or [result.reason]
                    return f"This test fails: {test}\n{error[0]}"
            else:
                result = run_program(code, test["input"], limits)
                if result.stdout.split() != test["output"].split():
                    error = result.stderr.strip().splitlines()[-1:]
                    wrote = error[0] if error else f"it printed {result.stdout[:200]!r}"
                    return f"For the input {test['input']!r}: {wrote}"
        return "A test fails."
