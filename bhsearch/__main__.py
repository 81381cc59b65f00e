"""`python -m bhsearch`, the same as the console script `bhsearch`."""

from bhsearch.cli.main import main

if __name__ == "__main__":
    main()
