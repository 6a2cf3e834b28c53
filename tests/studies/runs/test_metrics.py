"""What a run writes while it trains."""

import pandas as pd

from mnet.studies.runs.metrics import MetricsFile


def test_a_metrics_file_is_a_table_before_anything_is_logged(tmp_path):
    """A run may write a checkpoint before its first row, and be killed after it."""
    metrics = MetricsFile(tmp_path)
    metrics.save()
    assert list(pd.read_csv(metrics.path)) == ["epoch", "step"]
    metrics.log_metrics({"epoch": 0, "train/loss": 2.5}, step=7)
    metrics.save()
    assert pd.read_csv(metrics.path).to_dict("records") == [{"epoch": 0, "step": 7, "train/loss": 2.5}]
