"""Virtual machines, as far as neither root nor QEMU is needed: the conversation, the command line, refusals."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import doctor, vm, vmimage
from lab.store import Silent

Answer = Callable[[dict[str, Any]], list[bytes]]


@pytest.fixture
def speak(tmp_path: Path) -> Iterator[Callable[[Answer], Path]]:
    """Start a server on a unix socket that answers each line with what a function makes of it."""
    servers = []

    def start(answer: Answer, greeting: bytes = b"") -> Path:
        path = tmp_path / "socket"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(greeting)
                with connection, connection.makefile("rb") as lines:
                    for line in lines:
                        for part in answer(json.loads(line.lstrip(b"\xff"))):
                            connection.sendall(part)

        threading.Thread(target=serve, daemon=True).start()
        return path

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def agent_that(answer: Callable[[dict[str, Any]], Any]) -> Answer:
    """An agent that first sends what was left from before a reboot, as a real one may."""

    def speaks(request: dict[str, Any]) -> list[bytes]:
        if request["execute"] == "guest-sync-delimited":
            mark = request["arguments"]["id"]
            return [line({"return": 7}), b'{"half', b"\xff" + line({"return": mark})]
        return [line(answer(request))]

    return speaks


def test_answers_of_before_a_reboot_are_not_taken_for_new_ones(speak: Any) -> None:
    agent = vm._Agent(speak(agent_that(lambda request: {"return": request["execute"]})))
    assert agent.ask("guest-ping", 5) == "guest-ping"
    assert agent.ask("guest-info", 5) == "guest-info"


def test_a_refusal_is_told_in_its_own_words(speak: Any) -> None:
    agent = vm._Agent(speak(agent_that(lambda request: {"error": {"desc": "no such pid"}})))
    with pytest.raises(vm.VMError, match="guest-exec-status: no such pid"):
        agent.ask("guest-exec-status", 5)


def test_no_answer_is_an_error_in_time_and_the_next_question_starts_anew(speak: Any) -> None:
    calls: list[str] = []

    def once_mute(request: dict[str, Any]) -> list[bytes]:
        calls.append(request["execute"])
        if calls.count("guest-ping") == 1 and request["execute"] == "guest-ping":
            return []
        return agent_that(lambda _: {"return": "here"})(request)

    agent = vm._Agent(speak(once_mute))
    with pytest.raises(OSError, match="guest-ping"):
        agent.ask("guest-ping", 0.2)
    assert agent.ask("guest-ping", 5) == "here"


def test_the_monitor_skips_events(speak: Any) -> None:
    def monitor(request: dict[str, Any]) -> list[bytes]:
        return [line({"event": "STOP"}), line({"return": {"status": request["execute"]}})]

    found = vm._Monitor(speak(monitor, line({"QMP": {}}))).ask("query-status", 5)
    assert found == {"status": "query-status"}


@pytest.fixture
def machine(tmp_path: Path, speak: Any) -> vm.VM:
    """A machine whose agent runs every command at once, and says what it was."""

    def answer(request: dict[str, Any]) -> Any:
        arguments = request.get("arguments", {})
        if request["execute"] == "guest-exec":
            state.update(arguments)
            return {"return": {"pid": 5}}
        out = " ".join(state["arg"][2:]).encode()
        return {"return": {"exited": True, "exitcode": 3 if "fail" in str(state["arg"]) else 0,
                           "out-data": base64.b64encode(out).decode()}}  # fmt: skip

    state: dict[str, Any] = {}
    made = object.__new__(vm.VM)
    made.name, made.ip, made.directory = "pi-01", "192.168.78.21", tmp_path
    made._agent = vm._Agent(speak(agent_that(answer)))
    return made


def test_a_command_returns_what_it_said(machine: vm.VM) -> None:
    assert machine.run("echo", "words").stdout == "echo words"
    assert machine.run("fail", check=False).returncode == 3


def test_a_failed_command_names_machine_command_and_code(machine: vm.VM) -> None:
    with pytest.raises(vm.VMError, match="pi-01: `fail now` ended with 3"):
        machine.run("fail", "now")


def test_every_machine_has_the_hardware_of_the_one_that_was_booted(tmp_path: Path) -> None:
    """Else its memory would not fit: QEMU refuses, or worse."""
    hardware = vm.VM.hardware("tcg")
    assert not [part for part in hardware if str(tmp_path) in part or "pi-" in part]
    image = vm.Image(tmp_path / "vm", "tcg", tmp_path / "booted")
    net = vm.Net(image, tmp_path, tmp_path / "checkout.raw")
    commands = []
    for name in ("nfs1", "pi-01"):
        made = object.__new__(vm.VM)
        made.name, made.net, made.directory, made._met = name, net, tmp_path / name, False
        commands.append(made.command())
        assert made.command()[: len(hardware)] == hardware
        assert made.command()[-2:] == ["-incoming", f"exec:cat '{tmp_path}/booted/memory'"]
        made._met = True
        assert "-incoming" not in made.command(), "a power cut must be followed by a real boot"
    assert commands[0] != commands[1]


def test_nets_side_by_side_do_not_meet(tmp_path: Path) -> None:
    image = vm.Image(tmp_path, "tcg")
    groups = {vm.Net(image, tmp_path, tmp_path).group for _ in range(20)}
    assert len(groups) == 20
    assert all(group.startswith("239.78.") for group in groups)


def test_a_missing_qemu_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "missing_packages", lambda wanted: ["qemu-system-x86", "qemu-utils"]
    )

    def no_network(wanted: Any) -> None:
        raise OSError("apt-get is not there")

    monkeypatch.setattr(doctor, "install_packages", no_network)
    with pytest.raises(vm.VMError) as refused:
        vm._install_packages(Silent())
    remedy = "apt-get install --no-install-recommends qemu-system-x86 qemu-utils"
    assert remedy in str(refused.value)


def test_missing_packages_are_found_by_what_they_bring(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("")
    wanted = {"a": str(there), "b": str(tmp_path / "not-there"), "c": "sh", "d": "no-such-program"}
    assert doctor.missing_packages(wanted) == ["b", "d"]


def test_the_image_holds_what_the_states_install() -> None:
    found = set(vmimage.packages())
    assert {"docker.io", "containerd", "nfs-kernel-server", "nfs-common", "rsync"} <= found
    assert {"qemu-guest-agent", vmimage.kernel_package()} <= found


def test_the_emulation_is_taken_without_kvm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vm.os, "access", lambda path, mode: False)
    assert vm.accelerator(tmp_path) == "tcg"
