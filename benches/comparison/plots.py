"""The results as SVG: for each group of rows one picture, for each row one panel of bars."""

from .errors import Failure
from .figures import micros
from .rows import CAIRN
from .servers import BY_NAME

# A light card of its own, so that it reads the same on a light page and on a dark one.
CARD, INK, FAINT = "#fbfbf9", "#22262a", "#d9dbd6"
OURS, PEER, YARDSTICK = "#c2541b", "#5b7a99", "#b9bfc4"

WIDTH, BAR, PANEL, MARGIN = 7.6, 0.25, 0.62, 0.42  # inches

GROUPS = [
    ("disk-random", "ext4: random requests of 4 KiB", ["disk-read", "disk-read-hot", "disk-write", "disk-write-snapshot"], "rate"),
    ("disk-flush", "ext4: writes of 4 KiB, each flushed", ["disk-flush", "disk-flush-8"], "rate"),
    ("disk-streams", "ext4: streams of 1 MiB", ["disk-stream-write", "disk-stream-read", "disk-stream-read-hot"], "rate"),
    ("memory-latency", "tmpfs: mean latency of 4 KiB at depth 1, less is better", ["memory-read-latency", "memory-write-latency"], "mean_us"),
    ("memory-random", "tmpfs: random requests of 4 KiB", ["memory-read", "memory-write"], "rate"),
    ("memory-streams", "tmpfs: streams of 1 MiB", ["memory-stream-write", "memory-stream-read"], "rate"),
    ("cpu", "CPU time of the server for one request of 4 KiB at depth 32, less is better",
     ["disk-read", "disk-read-hot", "disk-write", "memory-read", "memory-write"], "cpu_us"),
]


def pyplot():
    """matplotlib's module of that name, set up for our pictures."""
    try:
        import matplotlib
        from matplotlib import pyplot as module
    except ImportError as error:
        raise Failure("the plots need matplotlib: apt-get install python3-matplotlib, or pip install matplotlib") from error
    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cairn", "font.family": "sans-serif",
                                "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
                                "ytick.color": INK})
    return module


def check():
    """Fails early where drawing would fail later."""
    pyplot()


def draw(results, folder):
    """Writes the pictures; gives for each its file name, its title and its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row.id: row for row in results.rows()}
    drawn = []
    for name, title, wanted, figure in GROUPS:
        panels = [(rows[i], _bars(results, rows[i], figure)) for i in wanted if i in rows]
        panels = [(row, bars) for row, bars in panels if bars]
        if panels:
            _picture(folder / f"{name}.svg", title, panels, figure)
            drawn.append((f"{name}.svg", title, [row.id for row, _ in panels]))
    return drawn


def _bars(results, row, figure):
    """(server, median, least, most) of all that have the figure."""
    bars = []
    for server in results.servers(row):
        median = results.median(row, server, figure)
        if median is not None:
            values = results.values(row, server, figure)
            bars.append((server, median, min(values), max(values)))
    return bars


def _picture(path, title, panels, figure):
    heights = [len(bars) * BAR for _, bars in panels]
    height = 0.55 + sum(heights) + len(panels) * PANEL
    picture = pyplot().figure(figsize=(WIDTH, height), facecolor=CARD)
    picture.text(0.02, 1 - 0.28 / height, title, fontsize=12, fontweight="bold", va="center")
    top = height - 0.55
    for (row, bars), tall in zip(panels, heights):
        top -= MARGIN
        axes = picture.add_axes((0.19, (top - tall) / height, 0.66, tall / height), facecolor=CARD)
        _panel(axes, row, bars, figure, several_file_systems=figure == "cpu_us")
        top -= tall + PANEL - MARGIN
    save(picture, path, title)


def save(picture, path, title):
    """Writes a picture as SVG and closes it."""
    picture.savefig(path, format="svg", facecolor=CARD, metadata={"Date": None, "Creator": None, "Title": title})
    pyplot().close(picture)
    # matplotlib leaves blanks at the ends of lines, which git complains about.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _panel(axes, row, bars, figure, several_file_systems):
    unit = row.unit if figure == "rate" else "µs"
    where = f"{row.file_system}: " if several_file_systems else ""
    axes.set_title(f"{where}{row.title}, {unit}", loc="left", fontsize=9.5, pad=5, x=-0.255)
    positions = list(range(len(bars)))[::-1]
    most = max(high for *_, high in bars)
    for at, (server, median, low, high) in zip(positions, bars):
        color = OURS if server == CAIRN else YARDSTICK if BY_NAME[server].yardstick else PEER
        axes.barh(at, median, height=0.7, color=color)
        if high > low:
            axes.plot([low, high], [at, at], color=INK, linewidth=1, solid_capstyle="butt")
        text = f"{median:,.0f}" if figure == "rate" else micros(median)
        axes.annotate(text, (max(high, median), at), xytext=(4, 0), textcoords="offset points", va="center",
                      fontweight="bold" if server == CAIRN else "normal")
    axes.set_yticks(positions, [server for server, *_ in bars])
    axes.set_xlim(0, most * 1.02)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(FAINT)
