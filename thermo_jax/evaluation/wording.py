"""The few phrases that every table, figure and report repeats word for word."""

DISCLAIMER = "research software, not a diagnostic device"

OPTIMISTIC = "optimistic: selected on test"  # printed beside the paper's protocol

SIDES_NOTE = (
    "Left and right are sides of the image: on an unmirrored frontal view, image left is the "
    "patient's right."
)


def class_title(name: str) -> str:
    """What a reader sees for a class name in files: "left_breast" -> "image-left breast"."""
    words = name.replace("_", " ")
    return f"image-{words}" if words.startswith(("left ", "right ")) else words
