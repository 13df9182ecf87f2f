"""Sketches as pictures that scale."""

from vae_zoo import files
from vae_zoo.parts.strokes import framed, lines


def write_svg(sketches, path, size=100):
    """Sketches (rows, columns, n, 5) as lines of an SVG, each in a cell of its own; the path."""
    cells = []
    for i, row in enumerate(sketches):
        for j, sketch in enumerate(row):
            for part in framed(lines(sketch), size):
                points = " ".join(f"{a + size * j:.1f},{b + size * i:.1f}" for a, b in part)
                cells.append(f'<polyline points="{points}"/>')
    width, height = size * len(sketches[0]), size * len(sketches)
    style = 'fill="none" stroke="black" stroke-linecap="round" stroke-linejoin="round"'
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n<g {style}>\n'
    )
    files.write_bytes(path, f"{text}{chr(10).join(cells)}\n</g>\n</svg>\n".encode())
    return path
