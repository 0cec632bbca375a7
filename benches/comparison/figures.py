"""Numbers as people read them."""


def spread(values):
    return f"{values[0]:,.0f}" if len(values) == 1 else f"{min(values):,.0f}…{max(values):,.0f}"


def micros(value):
    if value is None:
        return "–"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def mebibytes(value):
    return "–" if value is None else f"{value / (1 << 20):,.0f}"


def times(ours, theirs):
    return f"{ours / theirs:.2f}x" if theirs else "–"
