"""The tokenizer of questions and captions (paper section 4.1, as in MCAN and openvqa).

RefCOCO expressions are distributed as tokens and do not pass through here.
"""

_DELETED = b".,'!?\"()*#:;"
_SPACED = bytes.maketrans(b"-/", b"  ")


def tokenize(text: str) -> list[str]:
    """Return the lower-case words of `text`, in order.

    `. , ' ! ? " ( ) * # : ;` are deleted ("don't" -> "dont"); `-` and `/` separate words like white space.
    """
    content = text.lower().encode("utf-8", "surrogatepass")  # bytes are translated three times as fast
    return content.translate(_SPACED, _DELETED).decode("utf-8", "surrogatepass").split()
