"""`python -m bhsearch.predict`, the same command as `bhsearch predict`."""

from bhsearch.cli import terminal
from bhsearch.cli.predict import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.predict")
