"""`python -m benchmarks NAME`: a table, or one JSON object with `--json`."""

import argparse
import json
import sys

from benchmarks import finetune, generate, gpu, pipeline, pretrain, prompting, shakespeare, tasks, tokenize
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError

BENCHMARKS = {
    "finetune": finetune,
    "generate": generate,
    "gpu": gpu,
    "pipeline": pipeline,
    "pretrain": pretrain,
    "prompting": prompting,
    "shakespeare": shakespeare,
    "tasks": tasks,
    "tokenize": tokenize,
}  # each has a docstring, add_arguments(parser), run(options), format_result(result)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        chosen = names.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        chosen.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        module.add_arguments(chosen)
    options = parser.parse_args(arguments)
    be_quiet()
    module = BENCHMARKS[options.name]
    try:
        result = module.run(options)
    except HallmarkError as error:
        sys.exit(f"hallmark: benchmarks {options.name}: {error}")
    print(json.dumps(result, indent=2) if options.json else module.format_result(result))


if __name__ == "__main__":
    main()
