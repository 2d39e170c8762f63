"""A QR code in a terminal: two modules of it in each cell, by half blocks."""

from __future__ import annotations

_LIGHT = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""By whether the upper and the lower module are light: drawn as light on dark, as most terminals are."""

_COLOURS = "\x1b[0;97;40m", "\x1b[0m"
"""White on black, whatever the terminal's own colours are."""

_BORDER = 2


def qr_code(text: str, *, colour: bool) -> str:
    """The lines of a QR code of `text`; capitals, digits and few signs take least room."""
    import segno

    code = segno.make(text, error="l", micro=False)
    light = [[not dark for dark in row] for row in code.matrix_iter(border=_BORDER)]
    if len(light) % 2:
        light.append([False] * len(light[0]))
    begin, end = _COLOURS if colour else ("", "")
    lines = []
    for upper, lower in zip(light[::2], light[1::2], strict=True):
        cells = "".join(_LIGHT[pair] for pair in zip(upper, lower, strict=True))
        lines.append(f"{begin}{cells}{end}")
    return "\n".join(lines)
