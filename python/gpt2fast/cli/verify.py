"""``gpt2fast verify``: an ONNX model against its test data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gpt2fast.cli.shared import print_json


@click.command(short_help="Run an ONNX model's test data.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--rtol", type=float, metavar="X", help="Allowed difference, relative. Default: 0.001.")
@click.option("--atol", type=float, metavar="X", help="Allowed difference, absolute. Default: 0.0001.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path, data: Path | None, rtol: float | None, atol: float | None, as_json: bool) -> None:
    r"""Run the sets of DATA (default: beside it) through MODEL and show the largest differences.

    \b
    gpt2fast verify model.onnx
    gpt2fast verify gpt2-10.tar.gz
    gpt2fast verify model.onnx other/test_data_set_0 --rtol 1e-4

    MODEL is an .onnx file, or a .tar.gz archive with its data. A value passes when it differs by at most
    atol + rtol times what is expected. The exit code is 0 if all values pass, 1 if not.
    """
    from gpt2fast.export import verify

    tolerances = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    differences = verify.verify_model(model, data, **tolerances)
    passed = all(difference.passed for difference in differences)
    if as_json:
        print_json({"passed": passed, "outputs": [asdict(difference) for difference in differences]})
    else:
        width = max(len(difference.output) for difference in differences)
        for one in differences:
            click.echo(
                f"{one.data_set}  {one.output:<{width}}  absolute {one.absolute:<8.2g}  "
                f"relative {one.relative:<8.2g}  {'passed' if one.passed else 'FAILED'}"
            )
        click.echo("passed" if passed else "FAILED")
    if not passed:
        click.get_current_context().exit(1)
