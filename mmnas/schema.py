"""Plain values, such as JSON and YAML give, checked against types by msgspec."""

import msgspec


def describe_misfit(exception: msgspec.ValidationError) -> str:
    """Return msgspec's message with the path first: "questions[3].image_id: expected int, got str"."""
    text, _, path = str(exception).partition(" - at `")
    text = text.replace("`", "")
    path = path.rstrip("`").removeprefix("$").lstrip(".")
    return f"{path}: {text[:1].lower()}{text[1:]}" if path else text
