"""The commands: parse, call, print; no logic.

The words of ``run`` and ``exec`` are read by ``tapnet.options.parse``, because QEMU's spelling and their order
matter; click does the rest. What a command calls is imported when it is called, so that ``--help`` is fast.

Exit status: 2 for anything that the user got wrong, in one line on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable

import click

from . import __version__
from .config import MODES, Config
from .errors import HelpAsked, OptionError
from .options import parse as options
from .options import sources
from .options import tables as keys
from .system import journal, signals
from .text import nearest, printable, shown

SECTIONS: dict[str, tuple[str, ...]] = {
    "Network": ("net", "nic", "netdev", "device", "object", "mode"),
    "Machine": ("machine", "m", "qtest"),
    "NAT, old spellings": ("redir", "tftp", "bootp", "smb"),
    "Control": ("name", "config", "monitor", "qmp", "metrics", "ready-fd", "runas", "keep-uid"),
    "Traces": ("d", "D"),
}


def complain(error: object) -> None:
    """One line on standard error."""
    click.echo(f"{journal.prefix(logging.ERROR)}tapnet: {printable(str(error))}", err=True)


def dashed(option: keys.Option) -> str:
    """``option`` as help and manual show it: one dash where QEMU has it, two for ours."""
    names = [option.alias, option.name] if option.alias else [option.name]
    ours = option.name in ("mode", "config", "name", "metrics", "ready-fd", "runas", "keep-uid")
    return ", ".join(("--" if ours else "-") + name for name in names) + (
        f" {option.meta}" if option.meta else ""
    )


class WordsCommand(click.Command):
    """A command whose words click leaves alone: they arrive in ``ctx.args`` as they were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        tail = "[OPTIONS] [--] COMMAND [ARGS]..." if self.name == "exec" else "[OPTIONS]"
        formatter.write_usage(ctx.command_path, tail)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        marked = False
        for title, names in SECTIONS.items():
            rows = []
            for name in names:
                option = keys.OPTIONS[name]
                if self.name in option.commands:
                    note = " *" if option.later else ""
                    marked = marked or option.later
                    rows.append((dashed(option), option.help + note))
            with formatter.section(title):
                formatter.write_dl(rows, col_max=26)
        with formatter.section("Lists"):
            formatter.write_dl(
                [
                    ("-net help", "types of nets and cards"),
                    ("-net TYPE,help", "keys of one type"),
                    ("-net nic,model=help", "network cards"),
                    ("--help", "this text"),
                ],
                col_max=26,
            )
        formatter.write_paragraph()
        if marked:
            formatter.write_text("* read and checked, but not built yet.")
        formatter.write_text("tapnet(1) has all keys.")


class Commands(click.Group):
    """The group: a hint for an option without its command, and for a misspelt command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version", "-h"):
            try:
                sources.lookup(args[0], "exec")
            except OptionError:
                pass
            else:
                raise click.UsageError(f"{args[0]} belongs behind a command: tapnet run {args[0]} ...")
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = nearest(args[0], self.list_commands(ctx)) or " (tapnet --help lists them)"
            raise click.UsageError(f"unknown command {shown(args[0])}{near}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of this file


MODE_SECONDS = 150.0  # a script and a helper may take a minute each
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(cls=Commands, context_settings=CONTEXT, invoke_without_command=True)
@click.version_option(__version__, prog_name="tapnet", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A network for machines that cannot be plugged into one.

    Emulated network cards (NE2000, RTL8139, PCnet), a hub for each VLAN, and behind it a user-mode NAT that
    needs no privilege, or a TAP device on the real LAN. Options are spelt as QEMU spells them.

    \b
    tapnet exec -- curl http://10.0.2.2:8000/
    tapnet run -net nic,netns=/run/netns/guest -net user
    tapnet monitor info network
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def configure(ctx: click.Context, command: str) -> Config:
    """``ctx.args`` as a ``Config``. Ends the program for --help, lists, errors and what is not built yet."""
    try:
        config = options.parse(ctx.args, command, os.environ)
    except sources.UsageAsked:
        click.echo(ctx.get_help())
        ctx.exit(0)
    except HelpAsked as asked:
        click.echo(str(asked))
        ctx.exit(0)
    except OptionError as error:
        complain(error)
        ctx.exit(error.status)
    for line in config.unbuilt:
        complain(line)
    if config.unbuilt:
        ctx.exit(OptionError.status)
    return config


@cli.command(cls=WordsCommand)
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the emulator in the foreground, until SIGINT or SIGTERM.

    Without options: -net nic -net user. Options keep their order, may be repeated, and take one dash or two;
    a comma inside a value is doubled.
    """
    config = configure(ctx, "run")
    from .service import run as service

    words = list(ctx.args)

    def again(mode: str | None) -> Config:
        return options.parse(words if mode is None else [*words, "--mode", mode], "run", os.environ)

    ctx.exit(service.run(config, again))


@cli.command("exec", cls=WordsCommand)
@click.pass_context
def exec_(ctx: click.Context) -> None:
    """Run COMMAND as the guest of an emulated card.

    It runs in a namespace of its own whose only network is that card.

    Without options: -net nic -net user. Needs no root where user namespaces are allowed. Everything behind
    --, or from the first word that is no option on, is COMMAND.

    The exit status is COMMAND's; 125 if tapnet failed, 126 or 127 if COMMAND could not be run or found, 128+N
    if signal N ended it.
    """
    config = configure(ctx, "exec")
    if not config.command:
        raise OptionError("exec: needs a COMMAND: tapnet exec [options] -- COMMAND...")
    from .service import run as service

    ctx.exit(service.exec_(config, list(config.command), config.keep_uid))


INSTANCE = click.option(
    "-i", "instance", metavar="NAME|PID|PATH", help="The instance; needed if several run."
)


@cli.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@INSTANCE
@click.argument("words", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def monitor(ctx: click.Context, instance: str | None, words: tuple[str, ...]) -> None:
    """Send COMMAND to a running instance, or talk to it without one.

    "help" lists the commands; "info network" shows the VLANs.
    """
    from .monitor.client import main as client

    ctx.exit(client.main(instance, list(words)))


@cli.command(
    context_settings={"ignore_unknown_options": True},
    short_help="Capture a VLAN or one member as pcapng.",
)
@INSTANCE
@click.argument("target", metavar="VLAN|PORT")
@click.argument("file", metavar="[FILE]", default="-")
@click.pass_context
def capture(ctx: click.Context, instance: str | None, target: str, file: str) -> None:
    """Capture a VLAN or one member of a running instance as pcapng, until interrupted.

    Without FILE to standard output: tapnet capture 0 | tcpdump -nr -
    """
    from .monitor.client import capture as live

    ctx.exit(live.main(instance, target, file))


@cli.command()
@click.pass_context
def ps(ctx: click.Context) -> None:
    """List the instances that run."""
    from .monitor.client import main as client

    ctx.exit(client.ps())


@cli.command()
@click.argument("kind", metavar="user|tap", type=click.Choice(MODES))
@click.option("--vlan", type=int, metavar="N", help="Only on this VLAN.")
@INSTANCE
@click.pass_context
def mode(ctx: click.Context, kind: str, vlan: int | None, instance: str | None) -> None:
    """Swap a running instance between NAT and TAP.

    The guest does not restart: its link goes down for a moment, and it asks DHCP again. What does not work leaves
    all as it was.
    """
    from .monitor.client import main as client

    words = ["mode", kind] if vlan is None else ["mode", kind, str(vlan)]
    ctx.exit(client.main(instance, words, seconds=MODE_SECONDS))


@cli.command()
@click.option("--mode", "kind", type=click.Choice(MODES), help="Check what this mode needs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, kind: str | None, as_json: bool) -> None:
    """Check this host; each line is ok, or the command that mends it."""
    from .doctor import checks

    ctx.exit(checks.main((kind,), as_json) if kind else checks.main(as_json=as_json))


@cli.group(
    context_settings=CONTEXT,
    invoke_without_command=True,
    short_help="Put an uplink into a bridge, or take it out.",
)
@click.pass_context
def bridge(ctx: click.Context) -> None:
    """Let a bridge take over an uplink's addresses and routes, and give them back."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@bridge.command("up", short_help="Make BR with IF in it, and move to BR what IF has.")
@click.argument("name", metavar="BR")
@click.option("--uplink", metavar="IF", required=True, help="The interface to the LAN.")
@click.option(
    "--confirm-timeout",
    "confirm",
    type=click.FloatRange(1, 86400),
    metavar="SECONDS",
    help="Put all back after SECONDS unless `tapnet bridge confirm BR` comes before.",
)
@click.pass_context
def bridge_up(ctx: click.Context, name: str, uplink: str, confirm: float | None) -> None:
    """Make BR, put IF into it, and move IF's addresses, routes and rules to it.

    On any error, and on Ctrl-C, all is put back. A second run changes nothing.
    """
    from .lan import commands

    ctx.exit(commands.bridge_up(name, uplink, confirm))


@bridge.command("down")
@click.argument("name", metavar="BR")
@click.option("--force", is_flag=True, help="Even if guests are plugged into BR.")
@click.pass_context
def bridge_down(ctx: click.Context, name: str, force: bool) -> None:
    """Give the uplink back what BR has, and remove BR if `up` made it."""
    from .lan import commands

    ctx.exit(commands.bridge_down(name, force))


@bridge.command("confirm")
@click.argument("name", metavar="BR")
@click.pass_context
def bridge_confirm(ctx: click.Context, name: str) -> None:
    """Keep what `up --confirm-timeout` did."""
    from .lan import commands

    ctx.exit(commands.bridge_confirm(name))


@bridge.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def bridge_show(ctx: click.Context, as_json: bool) -> None:
    """List this host's bridges."""
    from .lan import commands

    ctx.exit(commands.bridge_show(as_json))


@cli.command(short_help="Bring a guest to a LAN that cannot be bridged.")
@click.argument("tap", metavar="TAP")
@click.option("--uplink", metavar="IF", required=True, help="The interface to the LAN.")
@click.pass_context
def route(ctx: click.Context, tap: str, uplink: str) -> None:
    """Bring TAP's guest to the LAN of an uplink that cannot be bridged (Wi-Fi), until SIGINT or SIGTERM.

    By proxy ARP and neighbour discovery, with a DHCP relay; the guest has an address of that LAN.
    """
    from .lan import commands

    ctx.exit(commands.route(tap, uplink))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def demo(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the main job, step by step.

    A Linux guest behind an emulated NE2000 leases an address, pings, looks up a name and downloads a page.

    On a terminal it leaves you in a shell of that guest. OPTIONS are those of exec.
    """
    from . import demo as show

    ctx.exit(show.main(list(words)))


def standard_streams() -> None:
    """Open what our caller closed of standard input, output and error to /dev/null: otherwise the next file or socket
    would take its number, and Python has no stream there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def environment() -> None:
    """Forget the LC_CTYPE that Python gives itself where no locale is set (PEP 538): COMMAND gets what we were given."""
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read().split(b"\0")
    except OSError:
        return
    if not any(word.startswith(b"LC_CTYPE=") for word in given):
        os.environ.pop("LC_CTYPE", None)


def main(argv: Iterable[str] | None = None) -> int:
    """Run the program with ``argv`` (sys.argv without the program's name). Answers the exit status."""
    signals.begin()
    standard_streams()
    environment()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        status = cli.main(args, prog_name="tapnet", standalone_mode=False)
    except click.ClickException as error:
        complain(" ".join(error.format_message().split()))  # choices come in lines of their own
        return OptionError.status
    except HelpAsked as asked:
        click.echo(str(asked))
        return asked.status
    except OptionError as error:
        complain(error)
        return error.status
    except (click.Abort, KeyboardInterrupt):
        return 130
    return status if isinstance(status, int) else 0
