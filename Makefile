# Two commands do everything: `make up` and `make test`. The rest are their parts.
LAB ?= topologies/lab.yaml
CARGO ?= cargo
PGPROV = target/release/pgprov

.PHONY: verify-fresh bench-ha verify-ha verify-labs up destroy verify test test-fast test-e2e lint bench bench-load setup setup-test build guest image fmt docs

up: setup build image ## install what is missing, build, build the image once, bring the lab up
	$(PGPROV) up $(LAB)

destroy: build
	$(PGPROV) destroy $(LAB)

test: setup-test lint test-fast test-e2e ## everything: style, unit, integration, real VMs

setup:
	scripts/setup

# Tests start a libvirtd of their own and leave the machine's alone.
setup-test:
	scripts/setup --no-start --test

build: guest
	$(CARGO) build --release --locked --bin pgprov

# Programs for the hosts: static, so that they run in any guest. pgprov looks for them in target/guest, beside itself.
GUEST = pgagent pghost pgload
GUEST_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
guest:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile guest --target $(GUEST_TARGET) $(addprefix -p ,$(GUEST))
	install -D -t target/guest $(addprefix target/$(GUEST_TARGET)/guest/,$(GUEST))

image: build
	$(PGPROV) image build $(LAB)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

test-fast: guest
	$(CARGO) test --workspace --locked

# VMs, their networks and a libvirtd exist only inside a network namespace, which goes with everything in it. The images
# are built before, outside: there is no internet in there.
test-e2e: setup-test guest
	$(CARGO) build --locked --bin pgprov --test e2e
	target/debug/pgprov image build debian-13
	target/debug/pgprov image build debian-12
	scripts/sandbox e2e -- scripts/e2e $(ARGS)

verify: verify-ha verify-labs ## long campaigns: an hour of a warehouse, the failover machine in full bounds, faults on machines (hours)
	PGLOAD_STATEMENTS=6000 $(CARGO) test --release --locked -p pgload --test it constraints_hold
	PGAGENT_VERIFY=full $(CARGO) test --locked -p pgagent-core -- --nocapture

# Every fault of a failover that docs/failover.md names, on real VMs: hours. ARGS selects by name.
verify-ha: setup-test guest
	$(CARGO) build --locked --bin pgprov --test e2e
	target/debug/pgprov image build debian-13
	PGPROV_E2E_UNWATCHED=1 PGPROV_GUEST_DIR=$(CURDIR)/target/guest scripts/sandbox e2e -- scripts/e2e --campaign $(ARGS)

# The end-to-end cases that take too long for every day. ARGS selects by name.
verify-labs: guest
	scripts/setup --no-start --test --vagrant
	$(CARGO) build --locked --bin pgprov --test e2e
	target/debug/pgprov image build debian-13
	target/debug/pgprov image build debian-13 --assets examples/pgbouncer
	target/debug/pgprov image build debian-13 --assets examples/containers
	scripts/stock-image
	scripts/compose
	scripts/container-images
	scripts/sandbox e2e -- scripts/e2e --thorough $(ARGS)

# The README's commands on a Debian 12 and a 13 that have nothing yet. Needs root and systemd-nspawn.
verify-fresh:
	scripts/setup --no-start
	scripts/fresh-machine 12
	scripts/fresh-machine 13

bench-ha: ## how long clients cannot write, by fault: ROUNDS runs of each
	$(MAKE) verify-ha ARGS=times PGPROV_ROUNDS=$(or $(ROUNDS),20)

bench: build image ## labs against bare VMs, ansible and Vagrant; ARGS: render, up, hosts, ansible, vagrant
	scripts/setup --no-start --vagrant --ansible
	scripts/stock-image
	scripts/plain-image
	$(CARGO) bench --locked --no-run --bench labs
	scripts/sandbox bench -- scripts/bench $(ARGS)

bench-load: ## pgload against pgbench; ROUNDS of ROUND_SECONDS each
	$(CARGO) bench --locked -p pgload --bench pgbench

fmt:
	$(CARGO) fmt --all

docs: ## regenerate docs/cli.md and the pictures in docs/
	INSTA_UPDATE=always $(CARGO) test --test it docs
	INSTA_UPDATE=always $(CARGO) test -p pgagent-core --test documents
