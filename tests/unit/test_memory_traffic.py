"""What ranks send each other in a step, and how long it takes at stated rates."""

import pytest

from drpo_cli.tools.memory.traffic import Flow, Layout, Links, Work, flows, training_seconds

WORK = Work(
    weights=1_000,
    trained=1_000,
    pushed=1_000,
    width=2,
    engine=2,
    passes=3,
    replays=1,
    updates=2,
    reductions=3,
    tokens=100,
)


def by_name(layout: Layout) -> dict[str, Flow]:
    return {flow.name: flow for flow in flows(WORK, layout)}


def test_one_device_sends_nothing() -> None:
    assert flows(WORK, Layout(world=1, shards=1, nodes=1)) == ()


def test_shards_in_one_node_send_nothing_between_nodes() -> None:
    found = by_name(Layout(world=4, shards=4, nodes=1))
    # 2 gathers per pass and 1 per replay, 2 bytes per weight, of which a rank has a quarter
    assert found["gather weights"] == Flow("gather weights", 7 * 2_000 * 3 // 4, 0)
    assert found["reduce gradients"] == Flow("reduce gradients", 3 * 4_000 * 3 // 4, 0)
    assert found["sync"] == Flow("sync", 2_000 * 3 // 4, 0)
    assert "equal copies" not in found


def test_shards_over_two_nodes_send_half_of_everything_into_each() -> None:
    found = by_name(Layout(world=8, shards=8, nodes=2))
    assert found["gather weights"].network == 7 * 2_000 // 2
    assert found["sync"].network == 1_000


def test_a_copy_per_node_sends_only_gradients_between_nodes() -> None:
    found = by_name(Layout(world=8, shards=4, nodes=2))
    assert found["gather weights"].network == found["sync"].network == 0
    # an all-reduce of a quarter of the gradients per device, between 2 copies, once per update
    assert found["equal copies"] == Flow("equal copies", 2 * 2 * 1_000 // 2, 2 * 2 * 1_000 * 4 // 2)


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (Links(), None),
        (Links(device=1.0), None),  # the network's rate is missing
        (Links(device=1.0, network=1.0), 4.0),
        (Links(device=0.25, network=1.0), 8.0),
    ],
)
def test_the_slower_link_decides(links: Links, expected: float | None) -> None:
    assert Flow("sync", int(2e9), int(4e9)).seconds(links) == expected


def test_training_takes_six_operations_per_weight_and_token() -> None:
    assert training_seconds(WORK, Links()) is None
    assert training_seconds(WORK, Links(tflops=1e-6)) == pytest.approx(0.6)
