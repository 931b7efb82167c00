"""Run folders: what they hold, reports of them, comparisons and studies of several."""
