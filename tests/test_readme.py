"""The README's table is the published one."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]


def test_the_readmes_table_is_that_of_the_published_results():
    readme = (ROOT / "README.md").read_text()
    summary = pd.read_csv(ROOT / "results/published/activation/summary.csv")
    assert len(summary) == 4
    for row, (_, cell) in enumerate(summary.iterrows()):
        words = [f"| {cell['cell']} | {cell['n']} | {cell['top1_mean']:.2f} | {cell['top1_sd']:.2f} |"]
        if row:
            words.append(f"{cell['delta']:+.2f} | [{cell['low']:+.2f}, {cell['high']:+.2f}]")
        line = next(line for line in readme.splitlines() if words[0] in line)
        assert all(word in line for word in words)
