"""Parameter names of the released checkpoints, and ours for the same tensors.

A released model is a `.pkl` with `state_dict`, `net_optim` and `epoch`; its names are prefixed `module.`. It holds
the same tensors in the same shapes, so that importing it is renaming.
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
# Parts inside an operation or a pooling; the first pattern that is found is replaced.
_PARTS = (
    (r"\bmhatt\.linear_v\.", "attention.value."),
    (r"\bmhatt\.linear_k\.", "attention.key."),
    (r"\bmhatt\.linear_q\.", "attention.query."),
    (r"\bmhatt\.linear_r\.", "attention.relation."),
    (r"\bmhatt\.linear_merge\.", "attention.merge."),
    (r"\blinear_merge\.", "merge."),
    (r"\bmlp\.fc\.linear\.", "mlp.hidden."),
    (r"\bmlp\.linear\.", "mlp.output."),
    (r"\bfc\.linear\.", "first."),
    (r"\bunit\.linear\.", "units.0."),
    (r"\bunit_(\d)\.linear\.", r"units.\1."),
    (r"\bdepthwise_conv\.", "conv."),
    (r"\bpointwise_conv\.", "pointwise."),
    (r"\b(ln|norm)\.a_2", "norm.gain"),
    (r"\b(ln|norm)\.b_2", "norm.shift"),
)
# In a supernet, the candidates of a block's one row; ours are the row.
_CANDIDATE = re.compile(r"\.0\.candidate_ops\.(\d+)\.")
# Linears that the released training built and no output depends on.
_UNUSED = re.compile(r"linear_x_rel\.|backnone\..*\.alpha_(prob|gate)$")


def our_name(published: str) -> str:
    """Return our name of the parameter that the released code calls `published` (without `module.`)."""
    name = _CANDIDATE.sub(r".\1.", published)
    theirs, ours = next((pair for pair in _STREAMS if name.startswith(pair[0])), ("", ""))
    name = ours + name.removeprefix(theirs)
    found = (re.subn(pattern, part, name) for pattern, part in _PARTS)
    return next((renamed for renamed, count in found if count), name)


def from_published(state: Mapping[str, Value], uses_relation: bool = True) -> dict[str, Value]:
    """Rename a released state dict; parameters that no output depends on are left out.

    `uses_relation` false leaves out the relation linear too: released models without a relational
    attention contain it all the same.
    """
    unused = _UNUSED if uses_relation else re.compile(f"{_UNUSED.pattern}|linear_y_rel\\.")
    names = {name: name.removeprefix("module.") for name in state}
    return {our_name(name): state[given] for given, name in names.items() if not unused.match(name)}
