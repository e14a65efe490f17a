import math

import numpy as np
import pytest
import torch
from torch import nn

from mmnas.models.folding import attend_folded, fold, folding_pays
from mmnas.models.layers import MASKED_LOGIT, MLP, AttentionPooling, LayerNorm, MultiHeadAttention, mask_to_bias
from mmnas.models.relation import Relation
from tests.forms import all_forms, cpu, plain

# LayerNorm


def paper_norm(x, gain, shift):
    """The formula of the paper as it stands there: unbiased std, epsilon outside of the root."""
    mean = x.mean(-1, keepdim=True)
    return gain * (x - mean) / (x.std(-1, unbiased=True, keepdim=True) + 1e-6) + shift


def scattered_norm(size):
    norm = LayerNorm(size)
    with torch.no_grad():
        norm.gain.normal_(1, 0.2)
        norm.shift.normal_(0, 0.2)
    return norm


@pytest.mark.parametrize("size", [2, 8, 128, 512, 2048])
def test_norm_is_the_papers(size):
    torch.manual_seed(size)
    norm, x = scattered_norm(size), torch.randn(64, size) * 3 + 1
    if size == 2:
        x[:, 1] = x[:, 0] + 2 + x[:, 1].abs()  # two numbers that are close have an std near the epsilon
    torch.testing.assert_close(norm(x), paper_norm(x, norm.gain, norm.shift), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3, 1e6, 1e12])
def test_norm_is_the_papers_at_every_scale(scale):
    torch.manual_seed(0)
    norm, x = scattered_norm(512), torch.randn(64, 512) * scale
    torch.testing.assert_close(norm(x), paper_norm(x, norm.gain, norm.shift), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1, 0.5])
def test_norm_of_small_rows_leaves_out_the_epsilon(scale):
    """The paper's form shrinks a row by std / (std + 1e-6); the fused one does not."""
    torch.manual_seed(0)
    norm, x = scattered_norm(512), torch.randn(64, 512) * scale
    std = x.std(-1, keepdim=True)
    shrunk = (norm(x) - norm.shift) * std / (std + 1e-6) + norm.shift
    torch.testing.assert_close(shrunk, paper_norm(x, norm.gain, norm.shift), atol=1e-5, rtol=0)


def test_norm_by_hand():
    # mean 2, deviations -1 0 1, unbiased std 1 (the biased one would be 0.8165)
    output = LayerNorm(3)(torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(output, torch.tensor([[-1.0, 0.0, 1.0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e4])
def test_constant_rows_stay_finite_and_so_do_their_gradients(value):
    norm = LayerNorm(16)
    x = torch.full((2, 16), value, requires_grad=True)
    output = norm(x)
    torch.testing.assert_close(output, torch.zeros(2, 16))
    (output * torch.arange(16.0)).sum().backward()
    for tensor in (x, norm.gain, norm.shift):
        assert torch.isfinite(tensor.grad).all()


def test_norm_gradients_are_the_papers():
    torch.manual_seed(0)
    norm, weight = scattered_norm(32).double(), torch.randn(4, 32, dtype=torch.float64)
    x = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    tensors = (x, norm.gain, norm.shift)
    ours = torch.autograd.grad((norm(x) * weight).sum(), tensors)
    papers = torch.autograd.grad((paper_norm(x, norm.gain, norm.shift) * weight).sum(), tensors)
    for found, expected in zip(ours, papers, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# Masks


def test_masks_become_finite_biases():
    bias = mask_to_bias(torch.tensor([[True, False]]))
    assert bias.tolist() == [[0.0, MASKED_LOGIT]]
    assert bias.dtype == torch.float32
    assert math.isfinite(MASKED_LOGIT)


# Attention


def attention(form=plain, **options):
    torch.manual_seed(0)
    return form(MultiHeadAttention(**{"hidden": 8, "inner": 8, "head_width": 4, "dropout": 0.0, **options}))


def related(embedding):
    """The relation that hands out what readers make of an embedding (B, Q, K, R)."""
    return None if embedding is None else Relation(lambda reader: reader(embedding))


def plain_attention(layer, x, source, mask, relation):
    """Attention written out per sample, head, query and key, in float64."""
    layer = layer.double()
    query, key, value = (linear(given) for linear, given in
                         ((layer.query, x), (layer.key, source), (layer.value, source)))  # fmt: skip
    width = layer.head_width
    output = torch.zeros(x.shape[0], x.shape[1], query.shape[-1], dtype=torch.float64)
    for sample in range(x.shape[0]):
        for head in range(query.shape[-1] // width):
            part = slice(head * width, (head + 1) * width)
            for i in range(x.shape[1]):
                logits = []
                for j in range(source.shape[1]):
                    logit = query[sample, i, part] @ key[sample, j, part] / math.sqrt(width)
                    if relation is not None:
                        read = relation[sample, i, j] @ layer.relation.weight[head] + layer.relation.bias[head]
                        logit = logit + read.relu().clamp(min=1e-6).log()
                    logits.append(logit if mask[sample, j] else torch.tensor(-math.inf, dtype=torch.float64))
                shares = torch.stack(logits).softmax(0)
                output[sample, i, part] = shares @ value[sample, :, part]
    return layer.merge(output)


@all_forms
@pytest.mark.parametrize("relational", [False, True])
def test_attention_agrees_with_its_definition(relational, form):
    layer = attention(form, relation_size=3 if relational else 0)
    x, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    relation = torch.rand(2, 3, 5, 3) * 4 - 1 if relational else None
    found = layer(x, source, mask, related(relation))
    expected = plain_attention(
        layer, x.double(), source.double(), mask, None if relation is None else relation.double()
    )
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_projections_have_no_bias_and_the_relation_has_one():
    names = {name for name, _ in attention(relation_size=3).named_parameters()}
    weights = {f"{part}.weight" for part in ("value", "key", "query", "relation", "merge")}
    assert names == weights | {"relation.bias"}


@all_forms
@pytest.mark.parametrize("relational", [False, True])
def test_a_row_without_any_valid_key_is_finite(relational, form):
    layer = attention(form, relation_size=3 if relational else 0)
    x = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4])
    output = layer(x, x, mask, related(torch.rand(2, 4, 4, 3) if relational else None))
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(x.grad).all()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@all_forms
@pytest.mark.parametrize("relational", [False, True])
def test_masked_keys_have_no_influence(relational, form):
    layer = attention(form, relation_size=3 if relational else 0)
    x, source = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    relation = torch.rand(2, 4, 4, 3) if relational else None
    disturbed = torch.where(mask[..., None], source, 1e3)
    other = None if relation is None else torch.where(mask[:, None, :, None], relation, 1e3)
    found, expected = layer(x, disturbed, mask, related(other)), layer(x, source, mask, related(relation))
    torch.testing.assert_close(found, expected)


@all_forms
def test_one_valid_key_gives_its_value_whatever_is_asked(form):
    layer = attention(form)
    x, source = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[False, True, False, False]])
    expected = layer.merge(layer.value(source[:, 1:2])).expand(1, 3, 8)
    torch.testing.assert_close(layer(x, source, mask, None), expected)


@all_forms
def test_attention_without_a_mask_reads_everything(form):
    layer, x = attention(form), torch.randn(1, 4, 8)
    torch.testing.assert_close(layer(x, x, None, None), layer(x, x, torch.ones(1, 4, dtype=torch.bool), None))


@all_forms
def test_attention_drops_out_in_training_only(form):
    layer, x = attention(form, dropout=0.5), torch.randn(1, 4, 8)
    assert not torch.equal(layer(x, x, None, None), layer(x, x, None, None))
    layer.eval()
    assert torch.equal(layer(x, x, None, None), layer(x, x, None, None))


@pytest.mark.parametrize("relational", [False, True])
def test_attention_written_out_for_training_is_the_fused_one(relational):
    layer = attention(cpu, relation_size=3 if relational else 0, dropout=1e-9)  # rounds to dropping nothing
    x, mask = torch.randn(2, 4, 8), torch.tensor([[True] * 4, [True, True, False, False]])
    relation = torch.rand(2, 4, 4, 3) * 4 - 1 if relational else None
    written_out = layer.train()(x, x, mask, related(relation))
    torch.testing.assert_close(written_out, layer.eval()(x, x, mask, related(relation)))


@pytest.mark.parametrize("masked", [False, True])
def test_folded_attention_is_the_plain_one_with_its_gradients(masked):
    layer = attention()
    x, source = torch.randn(2, 6, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[True] * 3, [True, False, False]]) if masked else None
    plain = layer(x, source, mask, None)
    folded = attend_folded(layer, x, fold(layer, source), mask)
    torch.testing.assert_close(folded, plain)
    given, weight = [x, source, *layer.parameters()], torch.randn_like(plain)
    gradients = (torch.autograd.grad((output * weight).sum(), given) for output in (folded, plain))
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


def test_folding_pays_where_many_queries_meet_few_keys():
    layer = attention(hidden=512, inner=512, head_width=64)
    assert folding_pays(layer, queries=100, keys=7)
    assert not folding_pays(layer, queries=37, keys=11)
    assert not folding_pays(layer, queries=10, keys=14)


@all_forms
def test_attention_runs_in_bf16(form):
    layer, x = attention(form, relation_size=3), torch.randn(2, 4, 8)
    mask = torch.tensor([[True] * 4, [False] * 4])
    relation = torch.rand(2, 4, 4, 3)
    full = layer(x, x, mask, related(relation))
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, x, mask, related(relation))
    assert torch.isfinite(half).all()
    torch.testing.assert_close(half[0].float(), full[0], atol=0.05, rtol=0.05)


def test_widths_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="inner width 8 is not a multiple of the head width 3"):
        attention(head_width=3)


# MLP and pooling


def fill(linear: nn.Linear, weight, bias):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


@all_forms
def test_mlp_by_hand(form):
    mlp = form(MLP(size=2, inner=2, out=1, dropout=0.0))
    fill(mlp.hidden, [[1.0, 0.0], [0.0, 1.0]], [0.0, -1.0])
    fill(mlp.output, [[2.0, 3.0]], [0.5])
    # hidden (3, 1): 2 * 3 + 3 * 1 + 0.5; hidden (-1, 0) becomes (0, 0) by the ReLU
    assert mlp(torch.tensor([[3.0, 2.0], [-1.0, 1.0]])).tolist() == [[9.5], [0.5]]


def pooling(glimpses):
    """Glimpse 0 looks at the first feature, glimpse 1 at the second; the merge passes everything on."""
    layer = AttentionPooling(hidden=2, inner=2, glimpses=glimpses, out=2 * glimpses, dropout=0.0)
    fill(layer.mlp.hidden, np.eye(2).tolist(), [0.0, 0.0])
    fill(layer.mlp.output, np.eye(2)[:glimpses].tolist(), [0.0] * glimpses)
    fill(layer.merge, np.eye(2 * glimpses).tolist(), [0.0] * 2 * glimpses)
    return layer


def test_pooling_by_hand():
    # logits 0, log 3 and one that is masked: shares 1/4 and 3/4
    x = torch.tensor([[[0.0, 8.0], [math.log(3), 4.0], [9.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = torch.tensor([[0.75 * math.log(3), 0.25 * 8 + 0.75 * 4]])
    torch.testing.assert_close(pooling(1)(x, mask), expected)


def test_glimpses_stand_one_after_the_other():
    # glimpse 0: shares 1/4, 3/4 as above; glimpse 1 by the second feature: logits 0 and log 4, shares 1/5, 4/5
    x = torch.tensor([[[0.0, 0.0], [math.log(3), math.log(4)]]])
    shares = torch.tensor([0.75, 0.75, 0.8, 0.8])
    features = torch.tensor([math.log(3), math.log(4)] * 2)
    torch.testing.assert_close(pooling(2)(x, torch.ones(1, 2, dtype=torch.bool)), (shares * features)[None])


def test_pooling_without_any_valid_position_is_finite():
    layer, x = pooling(1), torch.randn(1, 3, 2, requires_grad=True)
    output = layer(x, torch.zeros(1, 3, dtype=torch.bool))
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(x.grad).all()
