"""Pictures and films of control runs: training curves from their metrics, and episodes of an agent to watch."""

from r2vpo.control.pictures.curves import PANELS, panel_figure, plot_runs, write_figures
from r2vpo.control.pictures.films import record_video

__all__ = ["PANELS", "panel_figure", "plot_runs", "record_video", "write_figures"]
