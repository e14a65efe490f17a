import json

import pytest

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS, Genotype, read_genotype, read_genotypes, write_genotypes
from tests.stand_in import SHIPPED_GENOTYPES, fixture, shipped_genotype

SMALL = {
    "enc": [["self_att_64"], ["feed_forward"]],
    "dec": [["guided_att_64", "skip_connect"], ["rel_self_att_64"]],
}
# The table of the paper: S self-attention, F feed-forward, G guided attention, R relational self-attention.
PAPER = {
    "train_vqa": ("SSSSFFFFSFFF", "GGFFGFRGFGRFRSFRGF"),
    "train_vgd": ("SFFSFFFFFFFS", "GGGGGGFGRRGFRGGRGR"),
    "train_itm": ("SSFFFSFSFFFF", "SGGRSGRGGGGFGGRSGR"),
    "mcan": ("SF" * 6, "SGF" * 6),
}
LETTERS = {"self_att_64": "S", "feed_forward": "F", "guided_att_64": "G", "rel_self_att_64": "R"}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHIPPED_GENOTYPES)
def test_shipped_genotypes_are_those_of_the_paper(name):
    genotype = shipped_genotype(name)
    streams = [genotype.encoder, genotype.decoder]
    assert tuple("".join(LETTERS[operation] for (operation,) in rows) for rows in streams) == PAPER[name]


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_shipped_genotypes_are_those_of_the_fixtures(task):
    assert shipped_genotype(f"train_{task}").to_dict() == fixture(task)["genotype"]


@pytest.mark.parametrize(("name", "uses"), [("train_vqa", True), ("mcan", False)])
def test_relations_are_used_where_a_block_reads_them(name, uses):
    assert shipped_genotype(name).uses_relation is uses


def test_dict_there_and_back():
    genotype = Genotype.from_dict(SMALL)
    assert genotype.decoder == (("guided_att_64", "skip_connect"), ("rel_self_att_64",))
    assert genotype.to_dict() == SMALL
    assert Genotype.from_dict(genotype.to_dict()) == genotype


def test_a_file_of_several_epochs(tmp_path):
    first, second = Genotype.from_dict(SMALL), Genotype.from_dict({**SMALL, "enc": [["gelu"]]})
    path = tmp_path / "search.json"
    write_genotypes(path, {0: first, 2: first, 10: second})
    assert read_genotypes(path) == {0: first, 2: first, 10: second}
    assert read_genotype(path) == second
    assert read_genotype(path, 2) == first


def test_epochs_are_ordered_as_numbers(tmp_path):
    other = {**SMALL, "enc": [["gelu"]]}
    path = write(tmp_path / "search.json", {"epoch10": other, "epoch9": SMALL})
    assert list(read_genotypes(path)) == [9, 10]
    assert read_genotype(path) == Genotype.from_dict(other)


def test_an_epoch_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = write(tmp_path / "search.json", {"epoch0": SMALL, "epoch7": SMALL})
    with pytest.raises(ConfigError, match=r"search\.json has no epoch3; --GENO_EPOCH may be one of 0, 7"):
        read_genotype(path, 3)


def test_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"genotype file not found: .*absent\.json"):
        read_genotype(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch0": {"enc": [["self', "not valid JSON"),
        ("[]", '"epoch0"'),
        ("{}", '"epoch0"'),
        ("null", '"epoch0"'),
        ({"0": SMALL}, "key '0' is not of the form epoch<N>"),
        ({"epoch-1": SMALL}, "not of the form"),
        ({"epoch0": [["self_att_64"]]}, "epoch0 must be a mapping"),
        ({"epoch0": {"enc": [["gelu"]]}}, r"key epoch0\.dec is missing"),
        ({"epoch0": {**SMALL, "extra": []}}, r"unknown key epoch0\.extra; valid ones: enc, dec"),
        ({"epoch0": {**SMALL, "enc": "self_att_64"}}, r"epoch0\.enc must be a list, not 'self_att_64'"),
        ({"epoch0": {**SMALL, "enc": ["self_att_64"]}}, r"epoch0\.enc\[0\] must be a list, not 'self_att_64'"),
        ({"epoch0": {**SMALL, "dec": [["gelu"], [3]]}}, r"epoch0\.dec\[1\]\[0\] must be text, not 3"),
        ({"epoch0": {**SMALL, "enc": []}}, r"epoch0\.enc has no blocks"),
        ({"epoch0": {**SMALL, "dec": [["gelu"], []]}}, r"epoch0\.dec\[1\] has no operation.*skip_connect"),
        ({"epoch0": SMALL, "epoch5": {**SMALL, "dec": [["gelu"], ["sefl_att_64"]]}},
         r"epoch5\.dec\[1\]: unknown operation 'sefl_att_64'; valid ones: none, .*self_att_64"),
        ({"epoch0": {**SMALL, "enc": [["guided_att_64"]]}}, r"enc\[0\]: 'guided_att_64' reads the memory"),
        ({"epoch0": {**SMALL, "enc": [["rel_self_att_64"]]}}, "'rel_self_att_64' reads the relation"),
        ({"epoch0": {**SMALL, "enc": [["uniimg_att_64"]]}}, "'uniimg_att_64' reads the memory"),
    ],
)  # fmt: skip
def test_every_fault_is_one_line_that_names_file_and_place(content, message, tmp_path):
    path = write(tmp_path / "broken.json", content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_genotypes(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_names_of_a_search_space():
    for family in ("self_att", "rel_self_att", "guided_att"):
        for suffix in ("16", "32", "64", "128", "256", "64_2"):
            assert f"{family}_{suffix}" in OPERATIONS
    expansions = {name: spec.size for name, spec in OPERATIONS.items() if spec.family == "feed_forward"}
    assert expansions == {
        "feed_forward": 4, "feed_forward_2": 2, "feed_forward_8": 8, "feed_forward_16": 16, "feed_forward_32": 32,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ({"enc": [["gelu"]] * 1001, "dec": [["gelu"]]}, "enc has 1001 blocks; it may have 1 to 1000"),
        ({"enc": [["gelu"]], "dec": [["gelu"] * 1001]}, r"dec\[0\] has 1001 operations; it may have 1 to"),
    ],
)
def test_a_genotype_has_a_size_that_can_be_built(genotype, message):
    with pytest.raises(ConfigError, match=message):
        Genotype.from_dict(genotype)
