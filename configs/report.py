r"""Options of a report; the default config of `--mode=report` and `--mode=config`.

  python main.py --mode=report --workdir=runs/quickstart
  python main.py --mode=report --workdir=runs/a,runs/b \
      --config.report.baseline=adamw_cosine --config.report.smooth=0.3
  python main.py --mode=report --from=csv:results.csv

Cost: about ten seconds for a thousand runs. It reads the tables of the working
directories, trains nothing, and writes report/index.html into the first of them.
docs/report.md explains the page and every option.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """Return a config with every field at its default."""
    return config_lib.base()
