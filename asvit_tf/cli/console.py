"""What all commands share: one JSON object on standard output, one line for an error, an exit status."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from asvit_tf.dataloaders.imagefiles import duplicates, skipped
from asvit_tf.errors import NotLearnedError, OneClassError, StoppedError, UserError
from asvit_tf.hardware import environment
from asvit_tf.hardware.choice import Chosen
from asvit_tf.storage import jsonable, write_error
from asvit_tf.tasks import baselines

CONTEXT: dict[str, Any] = dict(
    token_normalize_func=lambda name: name.replace("_", "-"),  # `--save_dir` and `--save-dir` are the same flag.
    help_option_names=["-h", "--help"],
    max_content_width=110,
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


class Choice(click.Choice):
    """A choice whose error lists the values as they are written; names of options are normalized, values are not."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return super().get_invalid_choice_message(value, None)


@contextlib.contextmanager
def only_result_on_stdout() -> Iterator[None]:
    """Sends whatever libraries print to standard error, so that standard output stays one JSON object."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    click.echo(json.dumps(jsonable(value), allow_nan=False))


def quiet_tensorflow() -> None:
    """Keeps TensorFlow's start-up notices off the screen, unless the user has set a level.

    Raises:
      UserError: Importing it would abort the process.
    """
    environment.prepare()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def scoring_hardware(hardware: str) -> Chosen:
    """Takes the devices of a command that only scores; says which, unless it is the CPU of a machine without GPUs.

    Raises:
      UserError: What the option asks for cannot be used.
    """
    from asvit_tf.doctor import devices

    chosen = devices.take(hardware)
    if chosen.gpus or chosen.note:
        click.echo(f"hardware: {chosen}", err=True)
    return chosen


def echo_skipped(result: Mapping[str, Any]) -> None:
    """Says which image files were not read, and why, and, of a data set, which images it holds more than once.

    In the words of all commands; nothing where all were read, and none is there twice.
    """
    for words in (skipped.in_words(result), duplicates.in_words(result.get("duplicates"))):
        if words:
            click.echo(words)


def end_by_verdict(metrics: Mapping[str, Any]) -> None:
    """Ends a command by what an evaluation shows of its network; says so where the images are too few to show anything.

    Raises:
      NotLearnedError: The network learned nothing.
    """
    baselines.require_learned(metrics)
    if metrics.get("too_few_examples"):
        click.echo(f"asvit: {baselines.in_words(metrics)}", err=True)


def setting(settings: type, name: str, text: str, **options: Any) -> Callable:
    """An option `--name` whose default is that of a dataclass of settings."""
    default = getattr(settings, name.replace("-", "_"))
    return click.option(f"--{name}", default=default, show_default=True, help=text, **options)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or "tensorflow" not in sys.modules:  # Else it is no error of TensorFlow's.
        return isinstance(error, MemoryError)
    from asvit_tf.training import failures

    return failures.is_out_of_memory(error)


def main(command: click.Command, arguments: list[str] | None = None, name: str = "asvit") -> int:
    """Runs a command; returns the exit status."""
    try:
        return command.main(arguments, prog_name=name, standalone_mode=False, **CONTEXT) or 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        message, status = error.format_message(), 2
    except (NotLearnedError, OneClassError, StoppedError) as error:
        message, status = str(error), 1
    except UserError as error:
        message, status = str(error), 2
    except OSError as error:
        explained = write_error(error, error.filename or "the disk")
        if not isinstance(explained, StoppedError):  # Reading may be refused, too.
            raise
        message, status = str(explained), 1
    except (click.Abort, KeyboardInterrupt):
        message, status = "stopped; run it again to continue", 130
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        message = "the memory does not suffice; give smaller batches or images, or end other programs that use it"
        status = 1
    # A name that is no UTF-8 has characters that cannot be printed.
    printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
    click.echo(f"{name}: " + " ".join(printable.split()), err=True)
    return status
