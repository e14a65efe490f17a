"""Parameter names of the released checkpoints, and ours for the same tensors.

The released models (SPEC of the checkpoint form: a `.pkl` with `state_dict`, `net_optim`, `epoch`, names
prefixed `module.`) hold the same tensors in the same shapes, so that importing one is renaming.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

# (published, ours): whole leading parts of a name, of which the first that fits is taken.
_STREAMS = (
    ("embedding.", "token_stem.embedding."),
    ("lstm.", "token_stem.lstm."),
    ("imgfeat_linear.", "region_stem.linear."),
    ("bboxfeat_linear.", "region_stem.box_linear."),
    ("linear_y_rel.", "relation.linear."),
    ("backnone.cells_enc.0.dag.", "backbone.encoder."),
    ("backnone.cells_dec.0.dag.", "backbone.decoder."),
    ("attflat_x.", "head.language_pooling."),
    ("attflat_y.", "head.region_pooling."),
    ("attfc_y.", "head.region_linear."),
    ("proj_norm.", "head.norm."),
    ("proj_scores.", "head.score."),
    ("proj_reg.", "head.box."),
    ("proj.", "head.classifier."),
)
# Parts inside an operation or a pooling, in the order in which they are replaced.
_PARTS = (
    ("mhatt.linear_v.", "attention.value."),
    ("mhatt.linear_k.", "attention.key."),
    ("mhatt.linear_q.", "attention.query."),
    ("mhatt.linear_r.", "attention.relation."),
    ("mhatt.linear_merge.", "attention.merge."),
    ("linear_merge.", "merge."),
    ("mlp.fc.linear.", "mlp.hidden."),
    ("mlp.linear.", "mlp.output."),
    ("fc.linear.", "first."),
    ("unit.linear.", "units.0."),
    ("unit_0.linear.", "units.0."),
    ("unit_1.linear.", "units.1."),
    ("depthwise_conv.", "conv."),
    ("pointwise_conv.", "pointwise."),
    ("ln.a_2", "norm.gain"),
    ("ln.b_2", "norm.shift"),
    ("norm.a_2", "norm.gain"),
    ("norm.b_2", "norm.shift"),
)
# In a supernet, the candidates of a block's one row; ours are the row.
_CANDIDATE = re.compile(r"\.0\.candidate_ops\.(\d+)\.")
# Linears that the released training built and no output depends on.
_UNUSED = re.compile(r"linear_x_rel\.|backnone\..*\.alpha_(prob|gate)$")


def our_name(published: str) -> str:
    """Return our name of the parameter that the released code calls `published` (without `module.`)."""
    name = _CANDIDATE.sub(r".\1.", published)
    for theirs, ours in _STREAMS:
        if name.startswith(theirs):
            name = ours + name[len(theirs) :]
            break
    for theirs, ours in _PARTS:
        if theirs in name and not re.search(rf"[a-z_0-9]{re.escape(theirs)}", name):
            name = name.replace(theirs, ours)
            break
    return name


def from_published(state: Mapping[str, Value], uses_relation: bool = True) -> dict[str, Value]:
    """Rename a released state dict; parameters that no output depends on are left out.

    `uses_relation` false leaves out the relation linear too: released models without a relational
    attention carry it all the same.
    """
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if _UNUSED.match(name) or (name.startswith("linear_y_rel.") and not uses_relation):
            continue
        renamed[our_name(name)] = value
    return renamed
