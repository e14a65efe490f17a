import inspect

import numpy as np
import pytest
import torch

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS
from mmnas.models import operations
from mmnas.models.operations import FAMILIES, Memory, ParallelOperations, Sizes, build_blocks, build_operation
from mmnas.models.published import from_published
from mmnas.models.relation import Relation
from tests.forms import all_forms
from tests.stand_in import fixture, stand_in_uniform, stand_in_weight

FIXTURE = fixture("ops")
BATCH, REGIONS, TOKENS = FIXTURE["batch"], FIXTURE["regions"], FIXTURE["tokens"]
WITHOUT_PARAMETERS = ("none", "skip_connect", "gelu")


def build(name, hidden=128, **options):
    return build_operation(name, Sizes(hidden, FIXTURE["relation_size"], **options))


def build_alive(name, hidden):
    """Build with seeded weights, those of the relation positive: its ReLU is dead on half of all seeds."""
    torch.manual_seed(0)
    operation = build(name, hidden)
    if "rel_self_att" in name:
        torch.nn.init.uniform_(operation.attention.relation.weight)
    return operation


def inputs(hidden=128, change=lambda memory, relation: (memory, relation)):
    """What operations are given; `change` may alter the memory's states and the relation's embedding."""

    def uniform(tag, *shape, low=-1.0):
        return torch.from_numpy(stand_in_uniform(f"ops/{tag}", shape, low, 1).astype(np.float32))

    states, embedding = change(
        uniform("y", BATCH, TOKENS, hidden),
        uniform("relation", BATCH, REGIONS, REGIONS, FIXTURE["relation_size"], low=0.0),
    )
    return {
        "x": uniform("x", BATCH, REGIONS, hidden),
        "mask": ~torch.tensor(FIXTURE["region_padding"], dtype=torch.bool),
        "memory": Memory(states, ~torch.tensor(FIXTURE["token_padding"], dtype=torch.bool)),
        "relation": Relation(lambda reader: reader(embedding)),
    }


def fitting_width(name):
    """256-wide heads need H 256; all others fit 128."""
    return max(128, OPERATIONS[name].size if OPERATIONS[name].family.endswith("att") else 0)


def test_the_fixture_holds_all_36_published_operations():
    assert len(FIXTURE["ops"]) == 36
    assert set(FIXTURE["ops"]) <= set(OPERATIONS)


@all_forms
@pytest.mark.parametrize("name", FIXTURE["ops"])
def test_operation_agrees_with_the_published_one(name, form):
    figures = FIXTURE["ops"][name]
    weights = {
        parameter: torch.from_numpy(stand_in_weight(f"{name}.{parameter}", tuple(shape)))
        for parameter, shape in figures["parameters"].items()
    }
    operation = form(build(name))
    operation.load_state_dict(from_published(weights))
    with torch.no_grad():
        output = operation(**inputs())
    assert output.shape == (BATCH, REGIONS, 128)
    np.testing.assert_allclose(output[..., :4], figures["output_head"], atol=1e-5)
    np.testing.assert_allclose(output.sum(-1), figures["output_row_sums"], atol=1e-4)


@all_forms
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_parameter_gets_a_gradient(name, form):
    hidden = fitting_width(name)
    operation, given = form(build_alive(name, hidden)), inputs(hidden)
    given["x"].requires_grad_()
    output = operation(**given)
    (output * torch.randn_like(output)).sum().backward()
    assert torch.isfinite(given["x"].grad).all()
    assert bool(list(operation.parameters())) == (name not in WITHOUT_PARAMETERS)
    for parameter, value in operation.named_parameters():
        assert torch.isfinite(value.grad).all(), parameter
        assert value.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", [name for name, spec in OPERATIONS.items() if not spec.reads])
def test_what_an_encoder_may_hold_needs_neither_memory_nor_relation(name):
    hidden = fitting_width(name)
    given = inputs(hidden)
    output = build(name, hidden)(given["x"], given["mask"], None, None)
    assert output.shape == given["x"].shape


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_reads_what_its_name_is_listed_with(name):
    hidden = fitting_width(name)
    operation, given = build_alive(name, hidden), inputs(hidden)
    before = operation(**given)
    changes = {
        "memory": lambda memory, relation: (memory.flip(1), relation),
        "relation": lambda memory, relation: (memory, relation.flip(1)),
    }
    for argument, change in changes.items():
        unchanged = torch.equal(operation(**inputs(hidden, change)), before)
        assert unchanged == (OPERATIONS[name].reads != argument)


@all_forms
def test_dropout_is_applied_in_training_only(form):
    torch.manual_seed(0)
    operation, given = form(build("feed_forward", dropout=0.5)), inputs()
    assert not torch.equal(operation(**given), operation(**given))
    operation.eval()
    assert torch.equal(operation(**given), operation(**given))


def test_parallel_operations_add_up():
    torch.manual_seed(0)
    row = ParallelOperations([build("self_att_64"), build("feed_forward"), build("skip_connect")]).eval()
    given = inputs()
    expected = row[0](**given) + row[1](**given) + given["x"]
    torch.testing.assert_close(row(**given), expected)


def test_blocks_are_built_row_by_row():
    blocks = build_blocks([["self_att_64"], ["none", "feed_forward_2"]], Sizes(128, relation_size=16))
    kinds = [[type(operation).__name__ for operation in block] for block in blocks]
    assert kinds == [["SelfAttention"], ["Zero", "FeedForward"]]


@pytest.mark.parametrize(
    ("name", "hidden", "scale"),
    [("self_att_64", 96, 1), ("self_att_64", 192, 2), ("guided_att_256", 128, 1), ("rel_self_att_16", 40, 1)],
)
def test_a_hidden_size_that_heads_do_not_fit_is_named(name, hidden, scale):
    with pytest.raises(ConfigError, match=rf"'{name}' does not fit hidden size {hidden}") as caught:
        build(name, hidden, head_scale=scale)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("scale", "heads"), [(1, 4), (2, 2)])
def test_head_scale_widens_heads(scale, heads):
    attention = build("rel_self_att_64", 256, head_scale=scale).attention
    assert attention.relation.out_features == heads
    assert attention.query.out_features == 256


def test_a_doubled_inner_width_doubles_the_heads():
    attention = build("rel_self_att_64_2", 128).attention
    assert attention.query.out_features == 256
    assert attention.relation.out_features == 4


def test_every_family_has_a_class_and_every_class_a_family():
    assert {spec.family for spec in OPERATIONS.values()} == set(FAMILIES)


def test_all_operations_share_one_signature():
    base = list(inspect.signature(operations.Operation.forward).parameters)
    assert base == ["self", "x", "mask", "memory", "relation"]
    for kind in vars(operations).values():
        if isinstance(kind, type) and issubclass(kind, (operations.Operation, ParallelOperations)):
            assert list(inspect.signature(kind.forward).parameters) == base, kind


def test_none_passes_nothing_and_stays_in_the_graph():
    given = inputs()
    given["x"].requires_grad_()
    output = build("none")(**given)
    assert not output.any()
    output.sum().backward()
    assert not given["x"].grad.any()
