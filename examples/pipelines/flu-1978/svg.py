"""The little of SVG that the figures need: a page, text, lines, and panels with linear scales."""

from html import escape

STYLE = (
    "text{font-family:Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;fill:#222}"
    ".title{font-size:15px;font-weight:bold}.label{font-size:13px}.tick{font-size:12px;fill:#444}"
    ".note{font-size:12px;fill:#444}.small{font-size:11px;fill:#444}"
)
INK = "#555"


def page(width, height, parts):
    """Return a whole document with a white background."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *parts,
        "</svg>\n",
    ])


def text(x, y, content, kind="tick", anchor="start", extra=""):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(str(content))}</text>'


def turned(x, y, content, kind="label"):
    """Return text that reads upwards, centred at (x, y)."""
    return f'<text class="{kind}" text-anchor="middle" transform="translate({x:.1f} {y:.1f}) rotate(-90)">{escape(content)}</text>'


def line(x1, y1, x2, y2, colour=INK, width=1.0, extra=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" {extra}/>'


def rect(x, y, width, height, fill, extra=""):
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}" {extra}/>'


def circle(x, y, radius, fill, extra=""):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" {extra}/>'


class Panel:
    """A plotting area: where it stands on the page, and how data become pixels."""

    def __init__(self, left, top, width, height, x_range, y_range):
        self.left, self.top, self.width, self.height = left, top, width, height
        self.right, self.bottom = left + width, top + height
        self.x_range, self.y_range = x_range, y_range

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * self.width

    def y(self, value):
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * self.height

    def path(self, points):
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)

    def band(self, xs, low, high, fill):
        outline = list(zip(xs, high)) + list(zip(xs, low))[::-1]
        return f'<path d="{self.path(outline)}Z" fill="{fill}"/>'

    def curve(self, xs, ys, colour, width=2.0):
        return f'<path d="{self.path(zip(xs, ys))}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'

    def x_axis(self, ticks, label):
        """Draw the lower axis; ticks are (value, text)."""
        parts = [line(self.left, self.bottom, self.right, self.bottom)]
        for value, content in ticks:
            parts.append(line(self.x(value), self.bottom, self.x(value), self.bottom + 5))
            parts.append(text(self.x(value), self.bottom + 19, content, "tick", "middle"))
        parts.append(text((self.left + self.right) / 2, self.bottom + 40, label, "label", "middle"))
        return parts

    def y_axis(self, ticks, label, grid=False):
        """Draw the left axis; ticks are (value, text). A grid goes across the whole panel."""
        parts = [line(self.left, self.y(v), self.right, self.y(v), "#e6e6e6") for v, _ in ticks if grid]
        parts.append(line(self.left, self.top, self.left, self.bottom))
        for value, content in ticks:
            parts.append(line(self.left - 5, self.y(value), self.left, self.y(value)))
            parts.append(text(self.left - 9, self.y(value) + 4, content, "tick", "end"))
        if label:
            parts.append(turned(self.left - 48, (self.top + self.bottom) / 2, label))
        return parts


def round_ticks(low, high, most=7):
    """Return whole numbers from low to high at a round distance, at most about `most` of them."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step * most >= high - low or step == 1000)
    return list(range(-(-low // step) * step, high + 1, step))
