"""The commands as a user types them."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

import tapnet
from tapnet import cli
from tapnet.cli import main
from tests.waiting import BOUND_S

COMMANDS = [
    "run",
    "exec",
    "monitor",
    "capture",
    "ps",
    "mode",
    "doctor",
    "bridge",
    "bridge up",
    "route",
    "demo",
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: tapnet {command}".rstrip())
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["", "bridge"])
def test_no_line_of_a_list_of_commands_is_cut_short(command, capsys):
    main([*command.split(), "--help"])
    lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert lines[1:] and not [line for line in lines if line.endswith("...")]


@pytest.mark.parametrize("command", ["run", "exec"])
def test_every_option_is_in_the_help(command, capsys):
    from tapnet.options.tables import OPTIONS

    main([command, "-net", "user", "-help"])
    out = capsys.readouterr().out
    for option in OPTIONS.values():
        assert (f"-{option.name}" in out) == (command in option.commands), option.name


def test_no_command_shows_the_help(capsys):
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tapnet {tapnet.__version__}\n"


ERRORS = [
    (["rnu"], 'tapnet: unknown command "rnu" (did you mean "run"?)'),
    (["xyzzy"], 'tapnet: unknown command "xyzzy" (tapnet --help lists them)'),
    (["-net", "user"], "tapnet: -net belongs behind a command: tapnet run -net ..."),
    (["run", "-nett", "user"], 'tapnet: unknown option "-nett" (did you mean "-net"?)'),
    (["run", "-net", "user,hostfw=x"], 'tapnet: -net user: unknown key "hostfw" (did you mean "hostfwd"?)'),
    (["run", "-net", "tap,vhost=on"], "tapnet: -net tap: vhost= is not built yet"),
    (["run", "--keep-uid"], "tapnet: --keep-uid belongs to tapnet exec"),
    (["run", "x"], 'tapnet: unexpected word "x" (a COMMAND belongs to tapnet exec)'),
    (["exec"], "tapnet: exec: needs a COMMAND: tapnet exec [options] -- COMMAND..."),
    (["exec", "-net", "user", "--"], "tapnet: exec: needs a COMMAND: tapnet exec [options] -- COMMAND..."),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS, ids=[" ".join(argv) for argv, _ in ERRORS])
def test_errors_are_one_line_and_status_2(argv, message, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", message + "\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["mode", "both"],
        ["mode"],
        ["doctor", "--mode", "x"],
        ["ps", "x"],
        ["doctor", "--jsn"],
        ["bridge", "x"],
    ],
)
def test_clicks_own_errors_are_one_line_too(argv, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("tapnet: ") and err.count("\n") == 1 and "\\x" not in err


def test_bridge_alone_shows_its_commands(capsys):
    assert main(["bridge"]) == 0
    out, err = capsys.readouterr()
    assert "confirm" in out and err == ""


def test_two_lines_for_two_engines_that_are_not_there(capsys):
    assert main(["run", "-net", "tap,vhost=on", "-net", "tap,poll-us=1,vhost=off"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tapnet: -net tap: vhost= is not built yet",
        "tapnet: -net tap: poll-us= is not built yet",
    ]


@pytest.mark.parametrize(
    "argv", [["run", "-net", "help"], ["exec", "-net", "nic,model=help"], ["run", "-M", "?"]]
)
def test_lists_go_to_standard_output(argv, capsys):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) > 2
    assert err == ""


def test_the_environment_sets_the_mode(monkeypatch, capsys):
    monkeypatch.setenv("TAPNET_MODE", "both")
    assert main(["run"]) == 2
    assert capsys.readouterr().err == 'tapnet: TAPNET_MODE "both": not one of user, tap\n'


def test_click_leaves_the_words_alone():
    """-nic must not be read as -n -i -c, nor --help behind COMMAND as ours."""
    seen = []

    @cli.cli.command("probe", cls=cli.WordsCommand)
    @cli.click.pass_context
    def probe(ctx):
        seen.append(list(ctx.args))

    try:
        words = ["-nic", "user", "-i", "--", "curl", "--help", "-net"]
        assert CliRunner().invoke(cli.cli, ["probe", *words]).exit_code == 0
    finally:
        del cli.cli.commands["probe"]
    assert seen == [words]


def test_help_is_fast_because_nothing_heavy_is_imported():
    code = (
        "import sys, tapnet.cli; tapnet.cli.main(['run', '--help']); "
        "sys.exit(any(m in sys.modules for m in ('asyncio', 'pyroute2', 'slirp', 'nic_models', 'dpkt')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=BOUND_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_tapnet():
    done = subprocess.run(
        [sys.executable, "-m", "tapnet", "run", "-nett"], capture_output=True, text=True, timeout=BOUND_S
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'tapnet: unknown option "-nett" (did you mean "-net"?)\n'
