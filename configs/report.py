r"""What a report shows; `--mode=report` takes this file where no --config is given.

  python main.py --mode=report --workdir=runs/quickstart
  python main.py --mode=report --workdir=runs/a,runs/b \
      --config.report.baseline=adamw_cosine --config.report.smooth=0.3

Cost: about ten seconds for a thousand runs. It reads the tables of the working
directories, trains nothing, and writes report/index.html into the first of them.
docs/report.md explains the page and every option.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """Nothing is asked for: all options stay as `config.base` has them."""
    return config_lib.base()
