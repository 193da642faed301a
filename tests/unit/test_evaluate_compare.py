"""Comparing evaluations of the same problems."""

import io
import json
import random
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from drpo_cli.errors import UserError
from drpo_cli.evaluate.compare import as_dict, compare_pairs, render
from drpo_cli.evaluate.metrics import Estimate, Evaluation, ProblemResult, summarise


def scored(chance_by_problem: list[float], seed: int, k: int = 4) -> Evaluation:
    draw = random.Random(seed)
    return summarise(
        [
            ProblemResult(f"p{i}", f"h{i}", tuple(map(float, rights)), tuple(map(str, rights)))
            for i, chance in enumerate(chance_by_problem)
            for rights in [[draw.random() < chance for _ in range(k)]]
        ]
    )


def interval(found: Estimate) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


def text_of(renderable: RenderableType, width: int = 120) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(renderable)
    return text.getvalue()


def test_difference_is_second_minus_first_over_the_same_problems() -> None:
    base, trained = scored([0.2] * 80, seed=1), scored([0.7] * 80, seed=2)
    (found,) = compare_pairs({"base": base, "trained": trained})
    expected = trained.summary["avg@4"].value - base.summary["avg@4"].value
    assert (found.first, found.second) == ("base", "trained")
    assert found.estimate.value == pytest.approx(expected)
    low, high = interval(found.estimate)
    assert 0 < low < expected < high < 1


def test_pairing_makes_the_interval_narrower_than_the_two_apart() -> None:
    chances = [0.1, 0.9] * 50
    base, trained = scored(chances, seed=1, k=8), scored(chances, seed=2, k=8)
    (found,) = compare_pairs({"base": base, "trained": trained})
    (low, high), (base_low, base_high) = map(interval, (found.estimate, base.summary["avg@8"]))
    assert high - low < 0.6 * (base_high - base_low)


def test_order_of_problems_does_not_matter() -> None:
    base, trained = scored([0.5] * 20, seed=1), scored([0.5] * 20, seed=2)
    shuffled = summarise(trained.problems[::-1])
    given = {"base": base, "trained": trained}
    assert compare_pairs(given) == compare_pairs(given | {"trained": shuffled})


def test_a_model_against_itself_has_no_difference_but_an_interval() -> None:
    base = scored([0.5] * 50, seed=1)
    (found,) = compare_pairs({"base": base, "again": base})
    assert found.estimate.value == 0
    low, high = interval(found.estimate)
    assert -0.1 < low < 0 < high < 0.1


def test_every_pair_once() -> None:
    three = {name: scored([0.5] * 10, seed) for seed, name in enumerate("abc")}
    assert [(d.first, d.second) for d in compare_pairs(three)] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]


def test_other_problems_are_refused_with_what_differs() -> None:
    base = scored([0.5] * 5, seed=1)
    changed = ProblemResult("p1", "another hash", (1.0,) * 4, ("x",) * 4)
    added = ProblemResult("p9", "h9", (1.0,) * 4, ("x",) * 4)
    other = summarise([base.problems[0], changed, added])
    with pytest.raises(UserError) as caught:
        compare_pairs({"base": base, "other": other})
    message = str(caught.value)
    assert "3 only in base (p2, p3, p4)" in message
    assert "1 only in other (p9)" in message
    assert "1 with the same id but another text (p1)" in message
    assert "--spec" in message


def test_another_threshold_is_refused() -> None:
    base = scored([0.5] * 5, seed=1)
    with pytest.raises(UserError, match=r"eval\.threshold"):
        compare_pairs({"base": base, "strict": summarise(base.problems, threshold=2.0)})


def test_tables_show_every_number_and_leave_brackets_alone() -> None:
    base, trained = scored([0.2] * 40, seed=1), scored([0.8] * 40, seed=2, k=8)
    shown = text_of(render({"runs/[base]": base, "trained": trained}))
    estimates = [base.summary[m] for m in ("avg@4", "pass@4", "pass^4", "maj@4")]
    estimates += [trained.summary[m] for m in ("avg@8", "pass@8", "pass^8", "maj@8")]
    for e in estimates:
        low, high = interval(e)
        assert f"{100 * e.value:.1f}" in shown
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in shown
    assert "trained − runs/[base]" in shown


def test_tables_fit_80_columns_with_the_names_of_targets() -> None:
    names = ("demo/model", "demo/runs/quickstart")
    shown = text_of(render({name: scored([0.5] * 40, seed) for seed, name in enumerate(names)}), 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(
        any(line.strip().startswith(f"{name} ") for line in shown.splitlines()) for name in names
    )


def test_a_difference_stands_beside_what_the_problems_can_show() -> None:
    both = {"base": scored([0.5] * 40, seed=1), "trained": scored([0.5] * 40, seed=2)}
    (found,) = compare_pairs(both)
    assert found.detectable is not None
    (line,) = (line for line in text_of(render(both)).splitlines() if "trained − base" in line)
    assert line.rstrip().endswith(f"{100 * found.detectable:.1f}")


def test_a_single_target_says_how_precise_it_is() -> None:
    base = scored([0.5] * 40, seed=1)
    low, high = interval(base.summary["avg@4"])
    assert f"± {50 * (high - low):.1f} points" in text_of(render({"base": base}))


def test_one_target_and_one_problem_need_no_second_table_and_no_interval() -> None:
    shown = text_of(render({"base": scored([1.0], seed=1)}))
    assert "100.0" in shown and "[" not in shown and "difference" not in shown
    assert "no interval" in shown


def test_remarks_stand_under_the_table_and_in_the_json() -> None:
    chosen = replace(scored([0.5] * 10, seed=1), chosen_of=5, unscored=2)
    both = {"base": scored([0.5] * 10, seed=2), "runs/a/checkpoints/step-000100": chosen}
    shown, remarks = text_of(render(both)), as_dict(both)["remarks"]
    assert "step-000100: chosen as the best of 5 evaluations on these same problems" in shown
    assert "step-000100: 2 responses count as wrong" in shown
    assert "base: " not in shown
    assert {name: len(texts) for name, texts in remarks.items()} == dict(
        zip(both, (0, 2), strict=True)
    )


def test_json_holds_everything() -> None:
    both = {"base": scored([0.2] * 10, seed=1), "trained": scored([0.8] * 10, seed=2)}
    read = json.loads(json.dumps(as_dict(both)))
    assert read == as_dict(both)
    assert Evaluation.from_json(json.dumps(read["targets"]["trained"])) == both["trained"]
    (difference,) = read["differences"]
    assert difference["estimate"]["value"] == compare_pairs(both)[0].estimate.value


def test_problems_of_several_sources_have_a_score_each() -> None:
    result = scored([1.0] * 20 + [0.0] * 30, seed=1)
    named = [
        replace(problem, id=f"eval:{'easy.jsonl' if i < 20 else 'hard'}/{i}")
        for i, problem in enumerate(result.problems)
    ]
    text = text_of(render({"base": summarise(named), "trained": summarise(named[::-1])}))
    assert "avg@k by source" in text
    cells = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert cells["easy.jsonl"] == ["100.0", "100.0"] and cells["hard"] == ["0.0", "0.0"]
    assert "by source" not in text_of(render({"base": result}))
