"""Shell scripts in the place of SLURM's commands, with a queue in a file that a test reads and changes."""

from __future__ import annotations

from pathlib import Path

_SCRIPTS = {
    "sbatch": r"""
for script; do :; done
job=$(($(cat "$here/submitted" 2>/dev/null | wc -l) + 1))
echo $job >> "$here/submitted"
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
if [ "$(cat "$here/refused" 2>/dev/null)" = $job ]; then
    echo 'sbatch: error: invalid partition specified: nosuch' >&2
    exit 1
fi
printf '%s\037%s\037%s\n' $job "$name" "$script" >> "$here/queue"
[ ! -e "$here/away-after-$job" ] || mv "$here/away-after-$job" "$here/away"
if [ "$(cat "$here/slow" 2>/dev/null)" = $job ]; then
    exec sleep 600
fi
echo $job
""",
    "squeue": r"""
if [ -e "$here/away" ]; then
    n=$(cat "$here/away")
    if [ "$n" = 1 ]; then rm "$here/away"; elif [ "$n" ]; then echo $((n - 1)) > "$here/away"; fi
    echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2
    exit 1
fi
case "$*" in
    *--states=all*) cat "$here/states" 2>/dev/null || sed 's/^\([0-9]*\).*/\1 N\/A PENDING 0 None/' "$here/queue" ;;
    *) cat "$here/queue" 2>/dev/null || true ;;
esac
""",
    "scancel": r"""
if [ -e "$here/unkillable" ]; then
    echo 'scancel: error: Kill job error on job id 1: Access denied' >&2
    exit 1
fi
echo "$@" >> "$here/cancelled"
: > "$here/queue"
""",
}


class FakeSlurm:
    """The scripts, and the state of their queue.

    Args:
        folder: Folder for both; the scripts are found in its subfolder `bin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir(parents=True)
        for name, script in _SCRIPTS.items():
            (self.programs / name).write_text(f"#!/bin/sh\nhere='{folder}'{script}")
            (self.programs / name).chmod(0o755)

    def put(self, name: str, text: str = "") -> None:
        """Change what the scripts do.

        Args:
            name: `away` or `away-after-JOB` with the number of failures of squeue, which has no end without one;
                `unkillable`; `refused` or `slow` with the number of a job; or `states` with what squeue lists.
            text: See `name`.
        """
        (self.folder / name).write_text(text)

    def words(self, name: str) -> list[str]:
        """Return the words in a file: the ids of jobs that were `submitted` or `cancelled`."""
        file = self.folder / name
        return file.read_text().split() if file.exists() else []
