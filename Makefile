# tapnet: one verb for each thing that a developer does. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Debian packages that the tests need; `make test` installs them when it is root.
APT    := atftp bind9-dnsutils busybox-static curl debootstrap dhcpcd5 dnsmasq-base ethtool iperf3 iproute2 \
          iputils-ping iputils-tracepath isc-dhcp-client lftp man-db mtr-tiny ndisc6 netcat-openbsd nftables openssh-client openssh-server passt procps samba smbclient \
          python3-venv qemu-system-x86 slirp4netns systemd systemd-container tcpdump tftp-hpa tshark udhcpc util-linux vde2 \
          traceroute vsftpd zstd
PYTEST ?= $(BIN)/python -m pytest
SECONDS_EACH ?= 30
WARNINGS := DeprecationWarning PendingDeprecationWarning SyntaxWarning ResourceWarning \
            pytest.PytestUnraisableExceptionWarning pytest.PytestUnhandledThreadExceptionWarning
SUITES ?= bookworm trixie sid
MATRIX ?=

# make install: where to. The program runs by $(PYTHON), which must be readable for the service's user.
PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= /etc
TREE  = $(DESTDIR)$(PREFIX)/lib/tapnet
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
SHARE = $(DESTDIR)$(PREFIX)/share
UNIT_FILES = tapnet@.service tapnet@.socket tapnet.target

# A .venv whose making failed is none: the next make begins anew.
.DELETE_ON_ERROR:

.PHONY: help setup run unit test test-long matrix guests guests-long lint format types arch bench fuzz clean install uninstall

help:
	@echo 'make run    set up and run the main job: a Linux guest behind an emulated NE2000 on the user-mode NAT'
	@echo 'make test   set up and run the tests (installs Debian packages by apt when root)'
	@echo 'make unit   the tests that need neither root nor a Debian package; make test-long  also those marked slow'
	@echo 'make matrix SUITES="bookworm trixie sid"   both commands and the service on fresh Debians (root; MATRIX=--help)'
	@echo 'make guests  build the kit of real VMs (root; .cache/guests); make guests-long  their long tests'
	@echo 'make install uninstall   PREFIX=/usr/local DESTDIR=: program, manual page, systemd units; nothing by pip elsewhere'
	@echo 'make lint types arch   ruff, mypy, import-linter'
	@echo 'make bench  benchmarks: results in .benchmarks/ as JSON; make fuzz  every parser and card, SECONDS_EACH=30'
	@echo 'make setup  the development environment in .venv; make clean  removes what make made'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo 'tapnet: Python 3.11 or newer is needed; ask for: apt-get install python3 python3-venv' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo 'apt-get install python3-venv'; \
	    said=$$({ apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y python3-venv; } 2>&1) \
	      || { printf '%s\n' "$$said" >&2; exit 2; }; \
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

# What the archive does not have is left out, once apt knows the archive at all: the tests of it say so.
.PHONY: apt
apt:
	@choose() { want=''; missing=''; absent=''; \
	  for p in $(APT); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || want="$$want $$p"; done; \
	  [ -n "$$want" ] || return 0; \
	  has=" $$(LC_ALL=C apt-cache policy python3-venv $$want 2>/dev/null \
	    | awk '/^[^ ]/ {p = $$1; sub(/:$$/, "", p)} /Candidate: [^(]/ {printf "%s ", p}')"; \
	  for p in $$want; do case "$$has" in \
	    *" $$p "*) missing="$$missing $$p";; \
	    *" python3-venv "*) absent="$$absent $$p";; \
	    *) missing="$$missing $$p";; esac; done; }; \
	choose; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    said=$$(apt-get -q update 2>&1) || { printf '%s\n' "$$said" >&2; exit 2; }; \
	    choose; echo "apt-get install$$missing"; \
	    said=$$(DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing 2>&1) \
	      || { printf '%s\n' "$$said" >&2; exit 2; }; \
	  else \
	    echo "tapnet: the tests need some packages; ask for: apt-get install$$missing" >&2; exit 2; \
	  fi; \
	fi; \
	if [ -n "$$absent" ]; then echo "tapnet: not in this Debian:$$absent; the tests of it are skipped"; fi

# Tests start tapnet hundreds of times, some with an environment in which Python may not keep what it compiled.
.PHONY: compiled
compiled: $(VENV)/dev.stamp
	@$(BIN)/python -m compileall -q tapnet nic_models slirp

test: apt compiled
	$(PYTEST) -m 'not slow' --durations=25

test-long: apt compiled
	$(PYTEST)

# Fewer examples of each property than make test, and no warning of ours; two halves side by side.
unit: compiled
	@$(MAKE) -s -j2 -k -Otarget unit-engines unit-tapnet

.PHONY: unit-engines unit-tapnet
unit-engines unit-tapnet:
	$(PYTEST) -m 'not slow and not packages' --hypothesis-profile quick $(WARNINGS:%=-W error::%) \
	  $(if $(filter unit-tapnet,$@),tests/tapnet,tests/nic_models tests/slirp)

# Needs no venv of its own: each tree makes one.
matrix:
	@$(MAKE) -s apt APT='debootstrap git systemd-container util-linux'
	@$(PYTHON) tests/matrix/run.py $(MATRIX) $(SUITES)

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
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.bench.vm; $(BIN)/python -m tests.bench.tap; $(BIN)/python -m tests.bench.swap; fi
	$(BIN)/python -m tests.bench.qtest

fuzz: $(VENV)/dev.stamp
	@for f in tests/fuzz/fuzz_*.py; do \
	  m=$$(basename $$f .py); echo "== $$m"; \
	  $(BIN)/python -m tests.fuzz.$$m --seconds $(SECONDS_EACH) || exit 1; done

# A tree of our own with the libraries that it needs, and a wrapper that knows it: the system's Python stays as it is.
.PHONY: installer
installer:
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'tapnet: install needs python3-venv' >&2; exit 2; }
	@is=$$($(PYTHON) -c 'import os, sys; print(os.path.realpath(sys._base_executable), sys.version)') || exit 2; \
	if [ "$$is" != "$$(cat build/install/made-by 2>/dev/null)" ]; then \
	  rm -rf build/install && $(PYTHON) -m venv build/install && echo "$$is" >build/install/made-by; fi

install: installer
	rm -rf '$(TREE)' build/lib build/bdist.*
	install -d '$(TREE)' '$(DESTDIR)$(PREFIX)/bin' '$(UNITS)' '$(SHARE)/man/man1' '$(SHARE)/tapnet/drop-ins' \
	  '$(DESTDIR)$(PREFIX)/lib/sysusers.d' '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d' '$(DESTDIR)$(SYSCONFDIR)/tapnet'
	build/install/bin/python -m pip install -q --disable-pip-version-check --target '$(TREE)' '.[fast]'
	rm -rf '$(TREE)/bin'
	build/install/bin/python -c 'import sys; print("#!" + sys._base_executable, "-I")' >'$(DESTDIR)$(PREFIX)/bin/tapnet'
	printf '%s\n' 'import sys' 'sys.path.insert(0, "$(PREFIX)/lib/tapnet")' 'from tapnet.__main__ import main' \
	  'sys.exit(main())' >>'$(DESTDIR)$(PREFIX)/bin/tapnet'
	chmod 755 '$(DESTDIR)$(PREFIX)/bin/tapnet'
	for f in $(UNIT_FILES); do \
	  sed 's|/usr/local/|$(PREFIX)/|g; s|/etc/tapnet|$(SYSCONFDIR)/tapnet|g' "systemd/$$f" >"$(UNITS)/$$f" || exit 1; done
	install -m 644 systemd/sysusers.conf '$(DESTDIR)$(PREFIX)/lib/sysusers.d/tapnet.conf'
	install -m 644 systemd/tmpfiles.conf '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/tapnet.conf'
	install -m 644 systemd/drop-ins/* '$(SHARE)/tapnet/drop-ins'
	install -m 644 docs/tapnet.1 '$(SHARE)/man/man1'
	@case '$(DESTDIR):$(PREFIX)' in \
	:/usr|:/usr/local) echo 'then, for the service: systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload';; \
	:*) echo 'for the service (systemd does not look below $(PREFIX)):'; \
	  echo '  ln -sf $(PREFIX)/lib/sysusers.d/tapnet.conf /etc/sysusers.d/; systemd-sysusers'; \
	  echo '  ln -sf $(PREFIX)/lib/tmpfiles.d/tapnet.conf /etc/tmpfiles.d/; systemd-tmpfiles --create'; \
	  echo '  systemctl link $(UNIT_FILES:%=$(PREFIX)/lib/systemd/system/%)';; \
	esac

# What install made; configurations in $(SYSCONFDIR)/tapnet stay.
uninstall:
	rm -rf '$(TREE)' '$(SHARE)/tapnet'
	rm -f '$(DESTDIR)$(PREFIX)/bin/tapnet' '$(SHARE)/man/man1/tapnet.1' \
	  '$(DESTDIR)$(PREFIX)/lib/sysusers.d/tapnet.conf' '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/tapnet.conf'
	cd '$(UNITS)' 2>/dev/null && rm -f $(UNIT_FILES) || true
	rmdir '$(DESTDIR)$(SYSCONFDIR)/tapnet' 2>/dev/null || true

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
