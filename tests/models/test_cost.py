import pytest

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS, Genotype, read_genotype
from mmnas.models.cost import Cost, block_costs, genotype_costs, operation_cost
from mmnas.models.operations import Sizes
from tests.stand_in import ROOT

ARCHITECTURES = ROOT / "logs" / "ckpts" / "arch"
SMALL, LARGE = Sizes(512, relation_size=64), Sizes(1024, relation_size=64, head_scale=2)


def test_costs_worked_out_by_hand():
    sizes = Sizes(64, relation_size=8)
    norm, square = 2 * 64, 64 * 64
    expected = {
        "skip_connect": Cost(0, 0),
        # four projections at 3 positions; 3 x 3 logits and 3 x 3 weights, each over 64
        "self_att_64": Cost(4 * square + norm, 3 * 4 * square + 2 * 9 * 64),
        # with Linear(8 -> 1 head) and its bias, at 9 pairs
        "rel_self_att_64": Cost(4 * square + norm + 9, 3 * 4 * square + 2 * 9 * 64 + 9 * 8),
        # the same of heads twice as wide in all: 2 heads
        "rel_self_att_64_2": Cost(8 * square + norm + 18, 3 * 8 * square + 2 * 9 * 128 + 9 * 8 * 2),
        # query and merge at 3 positions, key and value at 2
        "guided_att_64": Cost(4 * square + norm, 2 * 3 * square + 2 * 2 * square + 2 * 6 * 64),
        # query and merge at 3 positions, key and value at 3 + 2
        "uniimg_att_64": Cost(4 * square + norm, 2 * 3 * square + 2 * 5 * square + 2 * 15 * 64),
        "feed_forward": Cost(8 * square + 4 * 64 + 64 + norm, 3 * 8 * square),
        "gated_linear_2": Cost(4 * square + 256 + 4 * square + 128 + norm, 3 * 8 * square),
        "feed_forward_deep": Cost(8 * square + 5 * 64 + norm, 3 * 8 * square),
        "gated_linear_1": Cost(2 * square + 128 + norm, 3 * 2 * square),
        "std_conv_5": Cost(5 * square + 64 + norm, 3 * 5 * square),
        "none": Cost(0, 0),
        "gelu": Cost(0, 0),
        "sep_conv_3": Cost(3 * 64 + 64 + square + 64 + norm, 3 * (3 * 64 + square)),
    }
    assert {name: operation_cost(name, sizes, positions=3, memory=2) for name in expected} == expected


@pytest.mark.parametrize(
    "file, sizes, millions",
    [
        ("train_vqa", SMALL, 46.2), ("train_vgd", SMALL, 43.1), ("train_itm", SMALL, 41.0),
        ("mcan", SMALL, 44.1), ("train_vqa", LARGE, 184.7),
    ],
)  # fmt: skip
def test_the_published_architectures_have_their_published_size(file, sizes, millions):
    genotype = read_genotype(ARCHITECTURES / f"{file}.json")
    encoder, decoder = genotype_costs(genotype, sizes, regions=100, tokens=14)
    assert len(encoder) == 12 and len(decoder) == 18
    assert round(sum((*encoder, *decoder), Cost()).parameters / 1e6, 1) == millions


def test_streams_have_their_own_lengths():
    genotype = Genotype((("feed_forward",),), (("feed_forward",), ("guided_att_64",)))
    encoder, decoder = genotype_costs(genotype, SMALL, regions=5, tokens=3)
    assert encoder[0].multiply_adds == 3 * 8 * 512**2
    assert decoder[0].multiply_adds == 5 * 8 * 512**2
    assert decoder[1].multiply_adds == 2 * (5 + 3) * 512**2 + 2 * 5 * 3 * 512


@pytest.mark.parametrize("name", OPERATIONS)
def test_cost_grows_with_positions_where_it_has_parameters(name):
    short, long = (operation_cost(name, SMALL, positions, memory=3) for positions in (4, 8))
    assert short.parameters == long.parameters
    assert (long.multiply_adds > short.multiply_adds) == (long.parameters > 0)


def test_a_row_costs_the_sum_of_its_operations():
    names = ["self_att_64", "feed_forward", "self_att_64"]
    together, *alone = block_costs([names, *([name] for name in names)], SMALL, positions=4)
    assert together == sum(alone, Cost())


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="self_att_256.* does not fit hidden size 128"):
        operation_cost("self_att_256", Sizes(128, relation_size=64), positions=4)
