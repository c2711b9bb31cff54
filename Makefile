# tapnet: one verb for each thing that a developer does. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Debian packages that the tests need; `make test` installs them when it is root.
APT    := atftp bind9-dnsutils busybox-static curl debootstrap dhcpcd5 dnsmasq-base ethtool iperf3 iproute2 \
          iputils-ping iputils-tracepath isc-dhcp-client lftp man-db mtr-tiny netcat-openbsd nftables openssh-client openssh-server passt procps \
          python3-venv qemu-system-x86 slirp4netns systemd systemd-container tcpdump tftp-hpa tshark udhcpc util-linux vde2 \
          traceroute vsftpd
PYTEST ?= $(BIN)/python -m pytest
SECONDS_EACH ?= 30

.PHONY: help setup run test test-long guests guests-long lint format types arch bench fuzz clean

help:
	@echo 'make run    set up and run the main job: a Linux guest behind an emulated NE2000 on the user-mode NAT'
	@echo 'make test   set up and run the tests (installs Debian packages by apt when root)'
	@echo 'make test-long  also the tests marked slow'
	@echo 'make guests  build the kit of real VMs (root; .cache/guests); make guests-long  their long tests'
	@echo 'make lint types arch   ruff, mypy, import-linter'
	@echo 'make bench  benchmarks: results in .benchmarks/ as JSON; make fuzz  every parser and card, SECONDS_EACH=30'
	@echo 'make setup  the development environment in .venv; make clean  removes what make made'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo 'tapnet: Python 3.11 or newer is needed; ask for: apt-get install python3 python3-venv' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y python3-venv; \
	  else \
	    echo 'tapnet: python3-venv is missing; ask for: apt-get install python3-venv' >&2; exit 2; \
	  fi; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[dev,fast]'
	@touch $@ $(VENV)/run.stamp

setup: $(VENV)/dev.stamp

run: $(VENV)/run.stamp
	@$(BIN)/tapnet demo

.PHONY: apt
apt:
	@missing=''; for p in $(APT); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    echo "apt-get install$$missing"; \
	    apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing >/dev/null; \
	  else \
	    echo "tapnet: the tests need some packages; ask for: apt-get install$$missing" >&2; exit 2; \
	  fi; \
	fi

test: apt $(VENV)/dev.stamp
	$(PYTEST) -m 'not slow'

test-long: apt $(VENV)/dev.stamp
	$(PYTEST)

guests: apt $(VENV)/dev.stamp
	$(BIN)/python -m tests.guests.kit

guests-long: guests
	$(PYTEST) tests/guests --timeout 1800

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

arch: $(VENV)/dev.stamp
	$(BIN)/lint-imports

bench: apt $(VENV)/dev.stamp
	$(PYTEST) tests/bench --benchmark-enable --benchmark-only --benchmark-save=tapnet --benchmark-disable-gc
	$(BIN)/python -m tests.bench.end_to_end
	$(BIN)/python -m tests.bench.wires
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.bench.vm; fi
	$(BIN)/python -m tests.bench.qtest

fuzz: $(VENV)/dev.stamp
	@for f in tests/fuzz/fuzz_*.py; do \
	  m=$$(basename $$f .py); echo "== $$m"; \
	  $(BIN)/python -m tests.fuzz.$$m --seconds $(SECONDS_EACH) || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
