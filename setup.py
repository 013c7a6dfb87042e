"""Adds to the wheel what the checkout has beside its packages: cards, split lists, configurations, pocket teacher."""

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("data/*/card.yaml", "data/*/splits/*", "data/pocket-teacher/*", "configs/**/*.yaml")


class BuildWithData(build_py):
    """Copies the files to pipeline/shipped/, where `pipeline.paths` looks for them; an editable install has them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source in sorted(path for pattern in SHIPPED for path in Path().glob(pattern)):
            target = Path(self.build_lib, "pipeline", "shipped", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(source, target)


setup(cmdclass={"build_py": BuildWithData})
