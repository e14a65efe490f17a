import copy

import pytest
import torch

from mmnas.engine.checkpoint import PublishedWeights, load_checkpoint
from mmnas.errors import CheckpointError
from mmnas.models.published import from_published, our_name
from tests.stand_in import (
    fixture,
    fixture_network,
    fixture_task,
    load_weights,
    published_checkpoint,
    published_state,
    shipped_genotype,
)

TASKS = ("vqa", "vgd", "itm")
FIXTURE = fixture("vqa")


@pytest.mark.parametrize("task", TASKS)
def test_renaming_is_one_to_one(task):
    names = fixture(task)["state_dict_shapes"]
    ours = [our_name(name) for name in names]
    assert len(set(ours)) == len(names) > 200
    assert not set(ours) & set(names)


@pytest.mark.parametrize("task", TASKS)
def test_no_word_of_the_published_names_is_left(task):
    ours = " ".join(our_name(name) for name in fixture(task)["state_dict_shapes"])
    for word in ("backnone", "mhatt", "linear_", "attflat", "attfc", "proj", "a_2", "b_2", ".fc", "imgfeat"):
        assert word not in ours


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("embedding.weight", "token_stem.embedding.weight"),
        ("lstm.bias_hh_l0", "token_stem.lstm.bias_hh_l0"),
        ("imgfeat_linear.bias", "region_stem.linear.bias"),
        ("bboxfeat_linear.weight", "region_stem.box_linear.weight"),
        ("linear_y_rel.weight", "relation.linear.weight"),
        ("backnone.cells_enc.0.dag.3.0.mhatt.linear_q.weight", "backbone.encoder.3.0.attention.query.weight"),
        ("backnone.cells_dec.0.dag.17.0.mhatt.linear_r.bias", "backbone.decoder.17.0.attention.relation.bias"),
        ("backnone.cells_dec.0.dag.2.1.mhatt.linear_merge.weight", "backbone.decoder.2.1.attention.merge.weight"),
        ("backnone.cells_dec.0.dag.2.0.mlp.fc.linear.bias", "backbone.decoder.2.0.mlp.hidden.bias"),
        ("backnone.cells_dec.0.dag.2.0.mlp.linear.bias", "backbone.decoder.2.0.mlp.output.bias"),
        ("backnone.cells_dec.0.dag.2.0.ln.a_2", "backbone.decoder.2.0.norm.gain"),
        ("attflat_x.mlp.fc.linear.weight", "head.language_pooling.mlp.hidden.weight"),
        ("attflat_y.linear_merge.bias", "head.region_pooling.merge.bias"),
        ("attfc_y.weight", "head.region_linear.weight"),
        ("proj_norm.b_2", "head.norm.shift"),
        ("proj_scores.bias", "head.score.bias"),
        ("proj_reg.weight", "head.box.weight"),
        ("proj.weight", "head.classifier.weight"),
    ],
)
def test_names_by_hand(published, ours):
    assert our_name(published) == ours


def test_vqa_names_are_those_of_the_network():
    names = {our_name(name): tuple(shape) for name, shape in FIXTURE["state_dict_shapes"].items()}
    assert names == {name: tuple(value.shape) for name, value in fixture_network(FIXTURE).state_dict().items()}


def test_prefix_is_removed_and_unused_parameters_are_left_out():
    state = {
        "module.proj.bias": 1,
        "module.linear_x_rel.weight": 2,
        "module.linear_x_rel.bias": 3,
        "module.backnone.cells_enc.0.dag.0.0.alpha_prob": 4,
        "module.backnone.cells_dec.0.dag.0.0.alpha_gate": 5,
        "module.linear_y_rel.weight": 6,
    }
    assert from_published(state) == {"head.classifier.bias": 1, "relation.linear.weight": 6}
    assert from_published(state, uses_relation=False) == {"head.classifier.bias": 1}


# Whole files


def with_genotype(figures, genotype):
    """Return the figures with the published names that another genotype's network has."""
    shapes = figures["state_dict_shapes"]
    templates = {}
    for key, stream in (("enc", "cells_enc"), ("dec", "cells_dec")):
        for number, (operation,) in enumerate(figures["genotype"][key]):
            prefix = f"backnone.{stream}.0.dag.{number}.0."
            parameters = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
            templates[operation] = parameters
    changed = copy.deepcopy(figures)
    changed["genotype"] = genotype.to_dict()
    kept = {name: shape for name, shape in shapes.items() if not name.startswith("backnone.")}
    changed["state_dict_shapes"] = kept
    for stream, rows in (("cells_enc", genotype.encoder), ("cells_dec", genotype.decoder)):
        for number, (operation,) in enumerate(rows):
            for parameter, shape in templates[operation].items():
                kept[f"backnone.{stream}.0.dag.{number}.0.{parameter}"] = shape
    return changed


def test_released_file_is_read_as_weights(tmp_path):
    source = load_checkpoint(published_checkpoint(tmp_path / "released.pkl", FIXTURE))
    assert isinstance(source, PublishedWeights)
    assert len(source.state) == len(FIXTURE["state_dict_shapes"])


def test_every_weight_arrives(tmp_path):
    path = published_checkpoint(tmp_path / "released.pkl", FIXTURE)
    network = fixture_network(FIXTURE)
    load_weights(network, load_checkpoint(path), path)
    weights = network.state_dict()
    for name, value in published_state(FIXTURE).items():
        assert torch.equal(weights[our_name(name)], value), name


def test_released_mcan_carries_a_relation_linear_and_loads_all_the_same(tmp_path):
    genotype = shipped_genotype("mcan")
    released = with_genotype(FIXTURE, genotype)
    assert "linear_y_rel.weight" in released["state_dict_shapes"]
    path = published_checkpoint(tmp_path / "mcan.pkl", released)
    network = fixture_network(released)
    load_weights(network, load_checkpoint(path), path)
    assert network.relation is None
    name = "backnone.cells_dec.0.dag.17.0.mlp.linear.weight"
    assert torch.equal(network.state_dict()[our_name(name)], published_state(released)[name])


def test_an_unused_linear_of_the_language_does_no_harm(tmp_path):
    changed = copy.deepcopy(FIXTURE)
    changed["state_dict_shapes"] |= {"linear_x_rel.weight": [16, 3], "linear_x_rel.bias": [16]}
    path = published_checkpoint(tmp_path / "released.pkl", changed)
    load_weights(fixture_network(FIXTURE), load_checkpoint(path), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shapes: shapes.pop("proj.weight"), "lacks head.classifier.weight .1 missing, 0 foreign"),
        (lambda shapes: shapes.update(extra=[3]), "has 'extra' .0 missing, 1 foreign"),
        (lambda shapes: shapes.update({"embedding.weight": [40, 20]}), "trained with 40 words, the data gives 31"),
        (lambda shapes: shapes.update({"proj.weight": [20, 256]}), "trained with 20 answers, the data gives 13"),
        (lambda shapes: shapes.update({"imgfeat_linear.bias": [64]}), r"linear.bias is \(64,\).*--MODEL"),
    ],
)
def test_what_does_not_fit_is_named_with_the_file(change, message, tmp_path):
    changed = copy.deepcopy(FIXTURE)
    change(changed["state_dict_shapes"])
    path = published_checkpoint(tmp_path / "released.pkl", changed)
    network = fixture_network(FIXTURE)
    before = network.state_dict()["token_stem.lstm.bias_hh_l0"].clone()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(network, load_checkpoint(path), path, fixture_task(FIXTURE).explain_misfit)
    assert str(path) in str(caught.value)
    assert torch.equal(network.state_dict()["token_stem.lstm.bias_hh_l0"], before)


def test_a_released_file_of_another_genotype_is_refused(tmp_path):
    path = published_checkpoint(tmp_path / "released.pkl", FIXTURE)
    with pytest.raises(CheckpointError, match="--GENO_PATH"):
        load_weights(fixture_network(FIXTURE, shipped_genotype("mcan")), load_checkpoint(path), path)
