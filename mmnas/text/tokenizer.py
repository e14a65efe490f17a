"""The tokeniser of questions and captions (paper section 4.1, as in MCAN and openvqa).

RefCOCO expressions come already tokenised and do not pass through here.
"""

_DELETED_AND_SPACED = str.maketrans("-/", "  ", ".,'!?\"()*#:;")


def tokenize(text: str) -> list[str]:
    """Return the lower-case words of `text`, in order.

    `. , ' ! ? " ( ) * # : ;` are deleted ("don't" -> "dont"); `-` and `/` separate words as white space does.
    """
    return text.lower().translate(_DELETED_AND_SPACED).split()
