import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS, Genotype, read_genotype
from mmnas.models.cost import MULTIPLY_ADDS, Cost, Sizes, block_costs, genotype_costs, operation_cost
from mmnas.models.operations import FAMILIES, build_operation
from tests.stand_in import ROOT

ARCHITECTURES = ROOT / "logs" / "ckpts" / "arch"
SMALL = {"hidden": 512, "relation_size": 64, "head_scale": 1}
LARGE = {"hidden": 1024, "relation_size": 64, "head_scale": 2}


def counted_flops(name, sizes):
    """Run one sample on the meta device; the plain form of attention is products that the counter knows."""
    hidden, positions, memory = sizes.hidden, sizes.positions, sizes.memory
    with torch.device("meta"):
        operation = build_operation(
            name,
            hidden=hidden,
            dropout=0.0,
            relation_size=sizes.relation_size,
            head_scale=sizes.head_scale,
        ).eval()
        x, source = torch.zeros(1, positions, hidden), torch.zeros(1, memory, hidden)
        masks = torch.ones(1, positions, dtype=torch.bool), torch.ones(1, memory, dtype=torch.bool)
        relation = torch.zeros(1, positions, positions, sizes.relation_size)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        operation(x, masks[0], source, masks[1], relation)
    return counter.get_total_flops()


def test_every_family_has_a_formula():
    assert set(MULTIPLY_ADDS) == set(FAMILIES)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_formula_agrees_with_what_runs(name, scale):
    sizes = Sizes(hidden=512, relation_size=24, head_scale=scale, positions=7, memory=5)
    assert 2 * operation_cost(name, sizes).multiply_adds == counted_flops(name, sizes)


def test_costs_worked_out_by_hand():
    sizes = Sizes(hidden=64, relation_size=8, head_scale=1, positions=3, memory=2)
    norm, square = 2 * 64, 64 * 64
    expected = {
        "skip_connect": Cost(0, 0),
        # four projections at 3 positions; 3 x 3 logits and 3 x 3 weights, each over 64
        "self_att_64": Cost(4 * square + norm, 3 * 4 * square + 2 * 9 * 64),
        # with Linear(8 -> 1 head) and its bias, at 9 pairs
        "rel_self_att_64": Cost(4 * square + norm + 9, 3 * 4 * square + 2 * 9 * 64 + 9 * 8),
        # query and merge at 3 positions, key and value at 2
        "guided_att_64": Cost(4 * square + norm, 2 * 3 * square + 2 * 2 * square + 2 * 6 * 64),
        "feed_forward": Cost(8 * square + 4 * 64 + 64 + norm, 3 * 8 * square),
        "gated_linear_2": Cost(4 * square + 256 + 4 * square + 128 + norm, 3 * 8 * square),
        "sep_conv_3": Cost(3 * 64 + 64 + square + 64 + norm, 3 * (3 * 64 + square)),
    }
    assert {name: operation_cost(name, sizes) for name in expected} == expected


@pytest.mark.parametrize(
    "file, sizes, millions",
    [
        ("train_vqa", SMALL, 46.2), ("train_vgd", SMALL, 43.1), ("train_itm", SMALL, 41.0),
        ("mcan", SMALL, 44.1), ("train_vqa", LARGE, 184.7),
    ],
)  # fmt: skip
def test_the_published_architectures_have_their_published_size(file, sizes, millions):
    genotype = read_genotype(ARCHITECTURES / f"{file}.json")
    encoder, decoder = genotype_costs(genotype, regions=100, tokens=14, **sizes)
    assert len(encoder) == 12 and len(decoder) == 18
    assert round(sum((*encoder, *decoder), Cost()).parameters / 1e6, 1) == millions


def test_streams_have_their_own_lengths():
    genotype = Genotype((("feed_forward",),), (("feed_forward",), ("guided_att_64",)))
    encoder, decoder = genotype_costs(genotype, regions=5, tokens=3, **SMALL)
    assert encoder[0].multiply_adds == 3 * 8 * 512**2
    assert decoder[0].multiply_adds == 5 * 8 * 512**2
    assert decoder[1].multiply_adds == 2 * (5 + 3) * 512**2 + 2 * 5 * 3 * 512


def test_a_row_costs_the_sum_of_its_operations():
    sizes = Sizes(**SMALL, positions=4)
    names = ["self_att_64", "feed_forward", "self_att_64"]
    together, *alone = block_costs([names, *([name] for name in names)], sizes)
    assert together == sum(alone, Cost())


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="self_att_256.* does not fit hidden size 128"):
        operation_cost("self_att_256", Sizes(hidden=128, relation_size=64, head_scale=1, positions=4))
