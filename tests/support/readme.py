"""What the README shows of a terminal, for tests that run it."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def story(section: str, prompt: str = "$ ") -> list[tuple[str, str]]:
    """(command, what it prints) of a section of the README, behind this prompt."""
    text = README.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(rf"^{re.escape(prompt)}", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


def replaced(text: str, known: dict[str, str]) -> str:
    """With what is there in place of what the README shows."""
    for shown, meant in known.items():
        text = text.replace(shown, meant)
    return text
