"""Saved view of MLflow's run page: large charts in a stated order, a logarithmic error axis.

The web page stores a view as the experiment tag ``mlflow.sharedViewState.KEY`` and opens it by
``viewStateShareKey=KEY`` in the link. The format has no documentation: it was read from the page's
source and looked at in a browser with the releases of :data:`TESTED`. With other releases no view
is stored, and the link opens MLflow's own choice of charts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

TESTED = ("3.17",)
"""Releases of MLflow whose page was looked at with such a view."""
VIEW_KEY = "comparison"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
MOST_RUNS = 20
"""Most runs that one chart shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart of one metric, with a line or a bar for each run."""

    metric: str
    """Name of the metric, which is the heading of the chart."""
    is_line: bool
    """True for a line over the metric's steps, False for a bar of its last value."""

    def fields(self, section: str) -> dict[str, Any]:
        """Return the chart as the page stores it.

        Args:
            section: id of the section of the page.
        """
        shared = {
            "uuid": self.metric,
            "type": "LINE" if self.is_line else "BAR",
            "runsCountToCompare": MOST_RUNS,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": True,
            "metricKey": self.metric,
        }
        return shared | (LINE | {"selectedMetricKeys": [self.metric]} if self.is_line else {})


LINE = {
    "lineSmoothness": 0,
    "scaleType": "log",
    "xAxisScaleType": "linear",
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "useGlobalXaxisKey": False,
    "useGlobalLineSmoothing": True,
    "displayPoints": True,
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "range": {},
}
"""Settings of a line chart: the error on a logarithmic axis, the steps on a linear one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Charts below one heading."""

    heading: str
    charts: tuple[Chart, ...]
    columns: int
    """Charts beside each other."""
    height: int
    """Height of a chart in pixels."""

    def fields(self) -> dict[str, Any]:
        """Return the section as the page stores it."""
        return {
            "uuid": self.heading,
            "name": self.heading,
            "display": True,
            "isReordered": True,
            "deleted": False,
            "isGenerated": False,
            "columns": self.columns,
            "cardHeight": self.height,
        }


def saved_view(sections: Sequence[Section]) -> str:
    """Return the tag's value: all active runs by their time of creation, below the sections."""
    filters = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }
    charts = [chart.fields(one.heading) for one in sections for chart in one.charts]
    page = {
        "compareRunsMode": "CHART",
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "runListHidden": False,
        "isAccordionReordered": True,
        "compareRunSections": [one.fields() for one in sections],
        "compareRunCharts": charts,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
    return json.dumps(filters | page)


def has_tested_page() -> bool:
    """Return True if the page of the installed MLflow was looked at with such a view."""
    return ".".join(version("mlflow").split(".")[:2]) in TESTED
