"""A Dask cluster of SLURM jobs, each a worker that trains a block at a time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from lrjax.config import Cluster
from lrjax.core import UsageError, shown

# Workers end at random between a third-last and a last part of the walltime, so that
# not all end at once, and SLURM kills none.
_PARTS = 20  # of a walltime
_LONGEST = 600  # seconds of a part
_NEEDED = ("LRJAX_", "JAX_COMPILATION_CACHE_DIR")  # variables that jobs need, too
_FORMATS = (  # of sbatch --time
    r"(?P<minutes>\d+)",
    r"(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?",
)
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def start(cluster: Cluster) -> Any:
    """Start a cluster whose jobs are replaced when their walltime has ended.

    Raises:
      UsageError: if dask-jobqueue or SLURM is not installed, or the walltime is wrong.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise UsageError(
            "config.cluster.address=slurm needs dask-jobqueue: "
            "pip install 'lrjax[cluster]'"
        ) from error
    arguments = options(cluster)
    if not shutil.which("sbatch"):
        raise UsageError("config.cluster.address=slurm: sbatch is not installed here")
    started = SLURMCluster(**arguments)
    started.adapt(minimum_jobs=cluster.workers, maximum_jobs=cluster.workers)
    return started


def options(cluster: Cluster) -> dict[str, Any]:
    """Arguments of dask-jobqueue, added to those of the site's configuration.

    Raises:
      UsageError: if the walltime is not one of SLURM.
    """
    from dask import config
    from distributed import Security

    def site(name: str, default: Any) -> Any:
        return config.get(f"jobqueue.slurm.{name}", None) or default

    security = Security()
    extra = [f"--gres=gpu:{cluster.gpus}"] if cluster.gpus else []
    return {
        "python": site("python", shlex.quote(sys.executable)),
        "cores": 1,  # threads of the worker
        "processes": 1,
        "job_cpu": cluster.cores,
        "memory": cluster.memory,
        "walltime": cluster.walltime,
        "queue": cluster.queue or None,
        "account": cluster.account or None,
        "security": security if security.require_encryption else None,
        "job_extra_directives": [
            *site("job-extra-directives", []),
            *extra,
            *cluster.extra,
        ],
        "job_script_prologue": [*site("job-script-prologue", []), *_environment()],
        "worker_extra_args": [*site("worker-extra-args", []), *_worker_flags(cluster)],
        "scheduler_options": {
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            **site("scheduler-options", {}),
        },
    }


def _environment() -> list[str]:
    """Lines of a job script that set variables, whatever their values hold."""
    root = shlex.quote(str(Path(__file__).parents[2]))
    lines = [f'export PYTHONPATH={root}"${{PYTHONPATH:+:$PYTHONPATH}}"']
    for name, value in sorted(os.environ.items()):
        if name.startswith(_NEEDED):
            lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def _worker_flags(cluster: Cluster) -> list[str]:
    """Flags of `dask worker`, which override those of dask-jobqueue."""
    seconds = _seconds(cluster.walltime)
    part = min(seconds // _PARTS, _LONGEST)
    return [
        # Blocks are checked against free memory beforehand; SLURM has its own limit.
        "--memory-limit 0",
        "--no-dashboard --dashboard-address 127.0.0.1:0",
        f"--lifetime {seconds - 2 * part}s --lifetime-stagger {part}s",
    ]


def _seconds(walltime: str) -> int:
    """The length of a walltime as SLURM reads it.

    Raises:
      UsageError: if it is in none of SLURM's formats.
    """
    for pattern in _FORMATS:
        if found := re.fullmatch(pattern, walltime, re.ASCII):
            parts = found.groupdict(default="0")
            seconds = sum(int(n) * _SECONDS[unit] for unit, n in parts.items())
            if seconds:
                return seconds
    raise UsageError(
        f"config.cluster.walltime={shown(walltime)}: must be a time as in 04:00:00 or "
        "2-00:00:00"
    )
