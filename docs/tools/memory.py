"""Draws docs/memory.svg from the figures of `zerokit estimate`:

python -m zerokit estimate model=llama_8b data.seq_len=2048 precision=bf16 checkpointing=selective batch.global=8 \
  zero=stage3 estimate.world=[8] estimate.json=figures.json
python docs/tools/memory.py figures.json > docs/memory.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLORS = {
    "weights": "#2a78d6",
    "master": "#1baf7a",
    "gradients": "#eda100",
    "optimizer": "#7a5cc2",
    "buffers": "#8a8f98",
    "activations": "#c9ced6",
}
KINDS = {
    "weights": ("weights",),
    "master": ("master",),
    "gradients": ("gradients",),
    "optimizer": ("optimizer",),
    "buffers": ("gather buffers", "reduce buffers", "temporary"),
    "activations": ("activations", "logits and loss"),
}
"""What is drawn as one, by the kinds of a prediction."""
NAMES = {"master": "rest of fp32 masters", "optimizer": "optimizer states"}
GIB = 2**30
WIDTH, LEFT, TOP, ROW = 860, 84, 74, 40
SCALE = (WIDTH - LEFT - 110) / 125
"""Pixels for one GiB."""


def draw(predictions: list[dict], title: str) -> str:
    """The picture of the predictions of stages 0 to 3 on as many ranks, as SVG that follows dark mode."""
    rows = [_row(prediction, TOP + number * ROW) for number, prediction in enumerate(predictions)]
    height = TOP + len(predictions) * ROW + 8
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" \
font-family="system-ui, sans-serif" font-size="15">
<title>{title}</title>
<style>text {{ fill: #1d2733 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e6e9ee }} }}</style>
<text x="0" y="18" font-weight="600">{title}</text>
{_legend()}
{"".join(rows)}</svg>
"""


def _legend() -> str:
    parts, place = [], 0
    for kind, color in COLORS.items():
        name = NAMES.get(kind, kind)
        parts.append(f'<rect x="{place}" y="36" width="13" height="13" rx="2" fill="{color}"/>')
        parts.append(f'<text x="{place + 19}" y="48">{name}</text>')
        place += 42 + 8 * len(name)
    return "".join(parts)


def _row(prediction: dict, top: int) -> str:
    place, parts = float(LEFT), []
    for kind, members in KINDS.items():
        width = sum(prediction["memory"][member] for member in members) / GIB * SCALE
        parts.append(f'<rect x="{place:.1f}" y="{top}" width="{width:.1f}" height="26" fill="{COLORS[kind]}"/>')
        place += width
    peak = f"{prediction['peak'] / GIB:.1f} GiB"
    return (
        f'<text x="0" y="{top + 18}">stage {prediction["stage"]}</text>{"".join(parts)}'
        f'<text x="{place + 8:.1f}" y="{top + 18}">{peak}</text>\n'
    )


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["predictions"]
    chosen = [p for p in found if p["checkpointing"] == "selective" and p["world"] == 8]
    stages = sorted({p["stage"]: p for p in chosen}.items())
    print(draw([p for _, p in stages], "Predicted GiB per GPU: Llama 8B in bf16 with AdamW on 8 GPUs"), end="")
