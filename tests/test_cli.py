"""The command line: what reaches the processes, and what people are told."""

import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from omni.cli import main, make_parser, overrides_of
from omni.doctor import find_all
from omni.errors import SettingsError
from omni.finding import Finding
from omni.gpus import parse_gpu
from omni.process import ROOT, settings_of
from omni.settings import Settings, load_settings
from omni.table import render_table
from omni.up import address, child_specs, free_port, needs_gpu, worker_gpus
from tests.conftest import clean_environment


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "omni.cli", *words],
        cwd=cwd,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def settings_from(*words: str) -> Settings:
    """Return what `omni up` with *words* would run with."""
    args = make_parser().parse_args(["up", "--settings", "/dev/null", *words])
    args.overrides += overrides_of(args)
    return settings_of(args)


def test_flags_of_up_are_settings() -> None:
    settings = settings_from(
        *("--port", "0", "--host", "0.0.0.0", "--http", "--compile", "--workers", "3")
    )

    assert settings.service.gateway_port == 0 and settings.service.compile
    assert settings.web.host == "0.0.0.0" and not settings.web.https
    assert settings.fabric.workers == 3


def test_a_flag_is_nearer_than_a_set() -> None:
    assert settings_from("--port", "1", "--set", "service.gateway_port=2").service.gateway_port == 1


def test_directories_count_from_the_project() -> None:
    settings = settings_from("--set", "fabric.run_dir=elsewhere")

    assert settings.fabric.run_dir == str(ROOT / "elsewhere")
    assert settings.service.data_dir == str(ROOT / "data")


def test_a_model_that_is_no_directory_here_stays_a_name() -> None:
    assert settings_from("--model", "openbmb/MiniCPM-o-4_5").model.model_path == (
        "openbmb/MiniCPM-o-4_5"
    )
    assert settings_from("--model", "/").model.model_path == "/"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["up", "--set", "web.https=maybe"], ["web.https", "'maybe'", "true or false"]),
        (["up", "--port", "99999"], ["service.gateway_port", "65535"]),
        (["status", "--set", "fabric.run_dir=/tmp/omni-nobody"], ["omni up"]),
        (["drain", "--set", "fabric.run_dir=/tmp/omni-nobody"], ["omni up"]),
        (["bench", "nothing"], ["there is no bench 'nothing'"]),
        (["model", "paint"], ["omni model fetch [ID] [--to DIR] | omni model check DIR"]),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(words: list[str], told: list[str]) -> None:
    done = run(*words)

    assert done.returncode in (1, 78)
    assert all(text in done.stderr for text in told), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("flags", [[], ["--drain"]], ids=["at once", "drained"])
def test_down_without_anything_running_is_no_fault(flags: list[str]) -> None:
    """With --drain it gave up for want of a broker, and stopped nothing of what one had left."""
    done = run("down", *flags, "--set", "fabric.run_dir=/tmp/omni-nobody")

    assert done.returncode == 0 and "not running" in done.stdout


def test_settings_prints_the_file() -> None:
    assert run("settings").stdout == (ROOT / "settings.toml").read_text("utf-8")


@pytest.mark.parametrize("module", ["omni.broker", "omni.gpu_worker", "omni.web"])
def test_a_process_that_gets_a_wrong_setting_says_so(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--set", "web.https=maybe"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 78
    assert "web.https" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["broker", "worker", "web"])
def test_a_process_reads_the_settings_file_of_the_directory_it_is_started_in(
    command: str, tmp_path: Path
) -> None:
    """It went to the project's directory first, and looked there."""
    (tmp_path / "mine.toml").write_text('[web]\nhttps = "maybe"\n')

    done = run(command, "--settings", "mine.toml", cwd=tmp_path)

    assert done.returncode == 78 and f"{tmp_path / 'mine.toml'}: web.https" in done.stderr


def test_the_doctor_looks_at_relative_paths_from_where_the_processes_do(tmp_path: Path) -> None:
    files = ["web.ssl_certfile=settings.toml", "web.ssl_keyfile=settings.toml"]

    done = run("doctor", *(word for text in files for word in ("--set", text)), cwd=tmp_path)

    assert "certificate" in done.stdout and "is no file" not in done.stdout


def test_a_part_of_benches_is_not_offered_as_one() -> None:
    names = run("bench").stdout.strip().removeprefix("omni bench NAME [arguments]; there are: ")

    assert "fabric" in names.split(", ") and "report" not in names.split(", ")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    printed = capsys.readouterr().out
    for word in ("up", "down", "status", "drain", "doctor", "broker", "worker", "web", "talk"):
        assert word in printed
    assert "model fetch" in printed and "tiny-checkpoint" in printed and "precompile" in printed


# --- what up starts ------------------------------------------------------------------------------


def test_the_broker_comes_first_and_the_web_last() -> None:
    specs = child_specs(load_settings(overrides=["fabric.workers=2"]), ["--set", "a.b=c"])

    assert [spec.name for spec in specs] == ["broker", "worker-0", "worker-1", "web-0"]
    assert all(spec.arguments[-2:] == ("--set", "a.b=c") for spec in specs)


def test_each_worker_of_the_gpu_engine_has_its_own_gpu() -> None:
    settings = load_settings(overrides=["model.model_path=/x"])

    specs = child_specs(settings, [], ["0", "3"])

    assert [spec.arguments for spec in specs[1:-1]] == [
        ("--index", "0", "--gpu", "0"),
        ("--index", "1", "--gpu", "3"),
    ]


def test_visible_devices_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(overrides=["model.model_path=/x"])
    for chosen, gpus in (("2,5", ["2", "5"]), ("2,-1,5", ["2"]), ("-1", [""]), ("", [""])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)

        assert worker_gpus(settings) == gpus


def test_the_pocket_engine_takes_no_gpu() -> None:
    assert worker_gpus(Settings(), ["0", "1"]) == [""]
    assert not needs_gpu(Settings().model)


def test_more_workers_than_gpus_are_refused() -> None:
    settings = load_settings(overrides=["model.model_path=/x", "fabric.workers=3"])

    with pytest.raises(SettingsError, match="fabric.workers = 3"):
        worker_gpus(settings, ["0", "1"])


def test_port_zero_is_a_free_one() -> None:
    assert free_port("127.0.0.1", 0) > 0


def test_the_address_is_one_that_can_be_opened() -> None:
    settings = load_settings(overrides=["web.host=::1", "service.gateway_port=1"])

    assert address(settings) == "https://[::1]:1"
    plain = evolve(settings, web=evolve(settings.web, https=False, host="127.0.0.1"))
    assert address(plain) == "http://127.0.0.1:1"


# --- pieces --------------------------------------------------------------------------------------


def test_a_gpu_is_read_from_nvidia_smi() -> None:
    gpu = parse_gpu("1, NVIDIA H100 80GB HBM3, 81559, 80000, 580.159.03")

    assert gpu is not None and gpu.index == "1" and gpu.total_mib == 81559
    assert parse_gpu("No devices were found") is None
    assert parse_gpu("0, GPU, [N/A], [N/A], 1") is None


def test_a_table_is_aligned_and_leaves_out_empty_columns() -> None:
    table = render_table(("a", "b", "c"), [("long", "", "1"), ("语音", "", "2")], indent="")

    assert table.splitlines() == ["a     c", "long  1", "语音  2"]


def findings(*overrides: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in find_all(load_settings(overrides=overrides))}


def test_the_doctor_says_how_to_mend_what_is_wrong() -> None:
    found = findings("model.model_path=/nowhere", "web.ssl_certfile=/nowhere/cert.pem")

    assert found["certificate"].mark == "!!" and "/nowhere/cert.pem" in found["certificate"].text
    assert "no such directory" in found["model"].text
    assert found["engine"].text == "minicpmo"


def test_the_doctor_looks_at_the_model_that_it_is_asked_for(tmp_path: Path) -> None:
    done = run("doctor", "--model", str(tmp_path))

    assert done.returncode == 1
    assert str(tmp_path / "config.json") in done.stdout


def test_the_doctor_finds_nothing_wrong_with_what_is_installed() -> None:
    found = findings("service.gateway_port=0")

    assert found["fabric"].mark == found["python"].mark == found["port"].mark == "ok"
