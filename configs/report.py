r"""What a report shows; `--mode=report` takes this file where no --config is given.

  python main.py --mode=report --workdir=runs/quickstart
  python main.py --mode=report --workdir=runs/a,runs/b \
      --config.report.baseline=adamw_cosine --config.report.smooth=0.3

Cost: about ten seconds for a thousand runs. It reads the tables of the working
directories, trains nothing, and writes report/index.html into the first of them.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """The choices of a report."""
    config = config_lib.base()
    # Columns of runs.jsonl to judge by, with commas between; the first that a task has
    # counts. '': valid_accuracy, valid_perplexity, valid_loss.
    config.report.metric = ""
    # Entry that the others are tested against; '': the one with the best mean rank.
    config.report.baseline = ""
    # Value of the metric that 'time to a target' asks for; None: on each task what the
    # median entry reaches. As --config.report.target=0.9.
    # Weight of a new value in smoothed curves, as 0.3 in the study; 0: not smoothed.
    config.report.smooth = 0.0
    # CSV file with published results: task,method,metric,mean and perhaps std_error.
    config.report.compare = ""
    # Other formats to write the tables in: tensorboard, parquet.
    config.report.export = ""
    # How often the bootstrap draws runs anew.
    config.report.bootstrap = 2000
    # Where to write; '': the folder report of the first working directory.
    config.report.folder = ""
    return config
