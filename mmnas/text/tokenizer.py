"""The tokenizer of questions and captions (paper section 4.1, as in MCAN and openvqa).

RefCOCO expressions are distributed as tokens and do not pass through here.
"""

_DELETED_AND_SPACED = str.maketrans("-/", "  ", ".,'!?\"()*#:;")


def tokenize(text: str) -> list[str]:
    """Return the lower-case words of `text`, in order.

    `. , ' ! ? " ( ) * # : ;` are deleted ("don't" -> "dont"); `-` and `/` separate words like white space.
    """
    return text.lower().translate(_DELETED_AND_SPACED).split()
