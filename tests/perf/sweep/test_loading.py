"""Arms while they load: nothing that Ctrl-C has to wait for."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.perf.explicit_server import CONFIG, ExplicitServer
from tests.perf.fake_server import running
from tests.perf.sweep.test_sweep import arms, spec
from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.sweep.run.arm_server import ArmServer


def test_ctrl_c_does_not_wait_for_a_model_that_loads(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    source = tmp_path / "m"
    (source / "1").mkdir(parents=True)
    (source / "config.pbtxt").write_text(json.dumps(CONFIG))
    scratch.mkdir()
    fake = ExplicitServer(load_s=6.0)
    fake.repository |= {f"m__{arm.id}": CONFIG for arm in arms()}
    with running(fake):
        server = ArmServer(spec(), Server(host=fake.host, ports=Ports(fake.port, 0, 0)), source, scratch)
        server.placement = "side_by_side"
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        begin = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                server.load(arms())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - begin < 4.0
        assert sum(order.startswith("load") for order in fake.orders) <= 2, "no further one is begun"
