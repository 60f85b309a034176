"""What `width` means, for all networks."""


def scaled(width: float, *channels: int) -> list[int]:
    """The published channel counts times `width`, rounded, at least one each; ValueError unless it is > 0."""
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return [max(1, round(width * c)) for c in channels]
