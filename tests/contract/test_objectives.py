"""What every objective must hold, built in or added later: drop a file in, it is tested."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.settings import ObjectiveSettings
from drpo_cli.types import TokenLoss, Tokens

NAMES = plugins.available("objectives")
PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"

objective = pytest.mark.parametrize("name", NAMES)


def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(0)
    logp_T, old_logp_T = -3 * torch.rand(2, 500, generator=generator, dtype=torch.float64)
    adv_T = torch.randn(500, generator=generator, dtype=torch.float64)
    return Tokens(logp_T.clone().requires_grad_(), old_logp_T, adv_T)


@objective
def test_it_says_what_it_computes_and_from_which_paper(name):
    doc = plugins.load("objectives", name).__doc__
    first, blank, *rest = doc.splitlines()
    assert first.endswith(".") and not blank
    assert "arXiv" in doc and any(line.startswith("    ") for line in rest)


@objective
def test_its_options_are_documented_closed_and_have_defaults(name):
    config = plugins.load("objectives", name).Config
    assert issubclass(config, ObjectiveSettings) and config.__doc__
    assert all(field.description for field in config.model_fields.values())
    config()
    with pytest.raises(ValidationError, match="no_such_option"):
        config(no_such_option=1)


@objective
def test_it_has_a_section_in_the_docs(name):
    assert f"\n## `{name}`" in PAGE.read_text()


@objective
def test_it_returns_one_finite_loss_a_token_and_detached_metrics(name):
    module, given = plugins.load("objectives", name), tokens()
    result = module.loss(module.Config(), given)
    assert isinstance(result, TokenLoss)
    assert result.per_token_T.shape == given.logp_T.shape
    assert result.per_token_T.requires_grad and result.per_token_T.isfinite().all()
    assert "weight" in result.metrics
    for values_T in result.metrics.values():
        assert values_T.shape == given.logp_T.shape
        assert not values_T.requires_grad and values_T.isfinite().all()


@objective
def test_its_weight_is_the_gradients(name):
    module, given = plugins.load("objectives", name), tokens()
    result = module.loss(module.Config(), given)
    (grad_T,) = torch.autograd.grad(result.per_token_T.sum(), given.logp_T)
    ratio_T = (given.logp_T - given.old_logp_T).detach().exp()
    expected_T = -given.adv_T * ratio_T * result.metrics["weight"]
    torch.testing.assert_close(grad_T, expected_T, rtol=1e-10, atol=1e-10)


@objective
def test_each_token_is_on_its_own(name):
    module, given = plugins.load("objectives", name), tokens()
    whole_T = module.loss(module.Config(), given).per_token_T
    part_T = module.loss(module.Config(), Tokens(*(c[100:200] for c in given))).per_token_T
    assert torch.equal(whole_T[100:200], part_T)


def test_loading_the_options_does_not_import_torch():
    code = (
        "import sys\nfrom drpo_cli import plugins\n"
        "for name in plugins.available('objectives'):\n"
        "    plugins.load('objectives', name).Config()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
