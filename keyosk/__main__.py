"""The program: the installed ``keyosk`` command, and ``python -m keyosk``."""

import sys


def main() -> None:
    """Import the commands and run one; a failed import is reported in one sentence, too."""
    try:
        from keyosk import cli  # noqa: PLC0415 - its failure is reported below
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:
        name = (error.name or "one of them").partition(".")[0]
        sys.exit(
            f"keyosk: Cannot start: of the Python packages that Keyosk needs, {name} is missing or "
            "broken. Install Keyosk again (pip install .)."
        )
    except OSError as error:
        sys.exit(f"keyosk: Cannot start: {error.filename or 'a file'}: {error.strerror}.")
    cli.main()


if __name__ == "__main__":
    main()
