"""What `width` means, for all networks."""


def scaled(width, *channels):
    """The published channel counts times `width`, rounded, at least one each."""
    return [max(1, round(width * c)) for c in channels]
