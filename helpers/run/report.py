"""The report as it stands: `python -m helpers.run.report [--profile quick] [--seeds 0,1]`.

It says which notebooks of the profile have run, which failed and which have not run.  `make reproduce` writes
it at its start, after each notebook and when it is stopped.
"""

from helpers.run import options, plan


def main() -> None:
    args = options.parser(__doc__).parse_args()
    from helpers.run import index  # takes seconds, and a bad argument none

    print(index.build(args.profile, plan.runs(args.profile, args.seeds)))


if __name__ == "__main__":
    main()
