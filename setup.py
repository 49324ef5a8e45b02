"""Puts the shipped configs into the package; pyproject.toml says everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ to lrjax/configs, where an installed lrjax finds them by name."""

    def run(self) -> None:
        """Build the package, then add the configs, unless it is an editable one."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "lrjax", "configs")
            folder.mkdir(parents=True, exist_ok=True)
            for file in Path("configs").glob("*.py"):
                shutil.copy(file, folder)


setup(cmdclass={"build_py": BuildWithConfigs})
