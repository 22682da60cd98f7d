"""keyosk completion: scripts with which shells complete commands, options and names."""

import os
from typing import Any, Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from keyosk.cli.refusals import Refused

_PROGRAM: Final = "keyosk"
_VARIABLE: Final = "_KEYOSK_COMPLETE"

#: In place of click's script, which lets bash split words at colons, as in scopes.
_BASH: Final = r"""
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} response kind value colon=""
    local word=${line##*[[:space:]]}
    # Bash puts the completion in the place of what stands after the last colon.
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then colon=${word%%"${word##*:}"}; fi
    COMPREPLY=()
    response=$(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$colon"}") ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH

    def source(self) -> str:
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        if not words or line[-1:].isspace():
            return words[1:], ""
        return words[1:-1], words[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value}"


_SHELLS: Final = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


def register() -> None:
    """Register our script for bash with click. Raises ``Refused`` where no shell is asking."""
    if os.environ[_VARIABLE].endswith("_complete") and "COMP_WORDS" not in os.environ:
        raise Refused(
            f"{_VARIABLE} is for shells that complete a line, with the line in COMP_WORDS. Unset "
            "it; the lines for your shell: keyosk completion --help"
        )
    add_completion_class(_Bash, "bash")


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    """Print the lines that make SHELL complete commands, options and names.

    \b
    bash:  source <(keyosk completion bash)    in ~/.bashrc
    zsh:   source <(keyosk completion zsh)     in ~/.zshrc, after compinit
    fish:  keyosk completion fish | source     in ~/.config/fish/config.fish
    """  # noqa: D301 - click takes the character for a paragraph whose lines stay
    root = click.get_current_context().find_root().command
    click.echo(_SHELLS[shell](root, {}, _PROGRAM, _VARIABLE).source())
