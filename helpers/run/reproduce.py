"""`make reproduce`: run the Snakefile on this machine, going on where the last run stopped."""

import argparse
import logging
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import ROOT
from helpers.lab import profiles


# What Snakemake adds to a failure that the step itself has explained.
ECHOES = ("RuleException", "WorkflowError:\nAt least one job", "Exiting because a job")


class Progress(logging.Handler):
    """Snakemake's log for a person: one line a step, and errors in full."""

    step = total = 0

    def emit(self, record):
        event, message = getattr(record, "event", None), record.getMessage()
        if event == "run_info":
            self.total = record.stats["total"] - 1
        elif event == "job_info" and record.rule_name != "all":  # which does nothing
            self.step += 1
            print(f"[{self.step}/{self.total}] {record.rule_msg}", flush=True)
        elif record.levelno >= logging.ERROR and event != "job_error" and not message.startswith(ECHOES):
            print(message, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(prog="python -m helpers.run.reproduce", description=__doc__)
    parser.add_argument("--profile", default="quick", choices=profiles.NAMES)
    parser.add_argument("--seeds", default="0", help="one or more: 0,1,2")
    parser.add_argument("--cores", default="1", help="how many steps at once")
    args = parser.parse_args()

    from snakemake.cli import main as snakemake

    os.chdir(ROOT)
    folder = Path("reports", args.profile)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Snakemake's own lock outlives a killed run and must then be removed by hand; this one does not.
        with FileLock(folder / ".lock", timeout=0):
            snakemake(
                ["--cores", args.cores, "--nolock", "--ignore-incomplete", "--keep-going"]
                + ["--rerun-triggers", "input", "mtime"]
                # files up to this size are compared by content, so that touching one changes nothing
                + ["--max-checksum-file-size", "1000000000"]
                + ["--config", f"profile={args.profile}", f"seeds=[{args.seeds}]", "friendly=true"]
            )
    except Timeout:
        sys.exit(f"Another `make reproduce` with profile {args.profile} is running here.")
    except SystemExit as end:  # how Snakemake returns
        if end.code:
            sys.exit("Not finished: see the messages above. The next `make reproduce` goes on from here.")
    print(f"Done. Open {folder}/index.html in a browser.")


if __name__ == "__main__":
    main()
