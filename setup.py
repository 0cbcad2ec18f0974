"""What pyproject.toml cannot say of the wheel: main.py and configs/ go into the package, and tests stay out."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# These make the README of the results.
OF_THE_CHECKOUT = {("reptile_jax.results", name) for name in ("__main__", "runs", "search", "tables")}


class BuildPy(build_py):
    """Copies the package into a wheel."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Leaves out what only a checkout can run."""
        found = super().find_package_modules(package, package_dir)
        return [x for x in found if not x[1].endswith("_test") and (package, x[1]) not in OF_THE_CHECKOUT]

    def run(self) -> None:
        """Adds the program and its configs."""
        super().run()
        if not self.editable_mode:
            for file in (Path("main.py"), *Path("configs").glob("*.py")):
                target = Path(self.build_lib, "reptile_jax", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildPy})
