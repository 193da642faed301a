"""What every objective must satisfy, built in or added later: every file in the room is tested."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.settings.meanings import meanings
from drpo_cli.types import TokenLoss, Tokens

NAMES = plugins.available("objectives")
PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"

objective = pytest.mark.parametrize("name", NAMES)


def tokens() -> Tokens:
    """500 tokens of 10 responses, each with one advantage; every other one is nearly on-policy."""
    generator = torch.Generator().manual_seed(0)
    logp_T, old_logp_T = -3 * torch.rand(2, 500, generator=generator, dtype=torch.float64)
    response_T = torch.arange(500) // 50
    old_logp_T = old_logp_T.lerp(logp_T, 0.99 * (response_T % 2).double())
    adv_T = torch.randn(10, generator=generator, dtype=torch.float64)[response_T]
    return Tokens(logp_T.clone().requires_grad_(), old_logp_T, adv_T, response_T)


def part(given: Tokens, first: int, last: int) -> Tokens:
    """Tokens `first` to `last`, their responses numbered from 0 again."""
    assert given.response_T is not None
    response_T = given.response_T[first:last] - given.response_T[first]
    logp_T, old_logp_T, adv_T = (column[first:last] for column in given[:3])
    return Tokens(logp_T, old_logp_T, adv_T, response_T)


@objective
def test_it_says_what_it_computes_and_from_which_paper(name: str) -> None:
    doc = plugins.load("objectives", name).doc
    first, blank, *rest = doc.splitlines()
    assert first.endswith(".") and not blank
    assert "arXiv" in doc and any(line.startswith("    ") for line in rest)


@objective
def test_its_options_are_documented_closed_and_have_defaults(name: str) -> None:
    config = plugins.load("objectives", name).Config
    assert issubclass(config, ObjectiveSettings) and config.__doc__
    assert meanings(config).keys() == config.model_fields.keys()
    config()
    with pytest.raises(ValidationError, match="no_such_option"):
        config.model_validate({"no_such_option": 1})


@objective
def test_it_has_a_section_in_the_docs(name: str) -> None:
    assert f"\n## `{name}`" in PAGE.read_text()


@objective
def test_it_returns_a_finite_loss_per_token_and_detached_metrics(name: str) -> None:
    plugin, given = plugins.load("objectives", name), tokens()
    result = plugin.entry(plugin.Config(), given)
    assert isinstance(result, TokenLoss)
    assert result.per_token_T.shape == given.logp_T.shape
    assert result.per_token_T.requires_grad and result.per_token_T.isfinite().all()
    assert "weight" in result.metrics
    for values_T in result.metrics.values():
        assert values_T.shape == given.logp_T.shape
        assert not values_T.requires_grad and values_T.isfinite().all()


@objective
def test_its_weight_is_that_of_the_gradient(name: str) -> None:
    plugin, given = plugins.load("objectives", name), tokens()
    result = plugin.entry(plugin.Config(), given)
    (grad_T,) = torch.autograd.grad(result.per_token_T.sum(), given.logp_T)
    ratio_T = (given.logp_T - given.old_logp_T).detach().exp()
    expected_T = -given.adv_T * ratio_T * result.metrics["weight"]
    torch.testing.assert_close(grad_T, expected_T, rtol=1e-10, atol=1e-10)


@objective
def test_tokens_or_whole_responses_are_independent(name: str) -> None:
    """Tokens are; with `SEQUENCE_LEVEL` responses are, and tokens 100 to 200 are two of them."""
    plugin, given = plugins.load("objectives", name), tokens()
    first, last = (100, 200) if plugin.sequence_level else (110, 190)
    whole, alone = (plugin.entry(plugin.Config(), t) for t in (given, part(given, first, last)))
    torch.testing.assert_close(whole.per_token_T[first:last], alone.per_token_T, rtol=1e-12, atol=0)
    for key, values_T in alone.metrics.items():
        torch.testing.assert_close(whole.metrics[key][first:last], values_T, rtol=1e-12, atol=0)


@objective
def test_only_a_sequence_level_one_looks_at_the_responses(name: str) -> None:
    plugin, given = plugins.load("objectives", name), tokens()
    named, unnamed = (
        plugin.entry(plugin.Config(), given._replace(response_T=response_T)).per_token_T
        for response_T in (given.response_T, None)
    )
    assert torch.equal(named, unnamed) != plugin.sequence_level


@objective
@pytest.mark.parametrize("response_T", [None, torch.empty(0, dtype=torch.int64)])
def test_without_tokens_the_loss_is_empty(name: str, response_T: torch.Tensor | None) -> None:
    plugin = plugins.load("objectives", name)
    logp_T, old_logp_T, adv_T = torch.empty(3, 0)
    given = Tokens(logp_T.requires_grad_(), old_logp_T, adv_T, response_T)
    result = plugin.entry(plugin.Config(), given)
    assert result.per_token_T.shape == (0,)
    assert all(values_T.shape == (0,) for values_T in result.metrics.values())
    total = result.per_token_T.sum()
    (grad_T,) = torch.autograd.grad(total, logp_T)
    assert total == 0 and grad_T.shape == (0,)


def test_loading_the_options_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom drpo_cli import plugins\n"
        "for name in plugins.available('objectives'):\n"
        "    plugins.load('objectives', name).Config()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
