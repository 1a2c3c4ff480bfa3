# Two commands do everything: `make rack` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help rack test build unit integration lab vm lint bench clean

PYTEST = .venv/bin/python -m pytest

help: ## show this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

rack: ## a rack on this machine: nfs1, cp1, pi-01; then plug in pi-02 and watch it become Ready
	@./rack up
	@./rack plug pi-02

test: lint build ## install what is needed, then lint and run the tests (vm is apart)
	@# Masters and minions wait more than they work: the single modules are tested meanwhile.
	@$(MAKE) --jobs=3 --output-sync=target unit integration
	@$(MAKE) --jobs=2 --output-sync=target lab

build: ## what racks are made of: root file systems, Kubernetes, packages, images (cached)
	@./rack build

unit: dev ## tests of single modules (five minutes)
	$(PYTEST) tests/unit

integration: integration-reconcile integration-others ## real salt-master and minions on this machine (ten minutes)

# About as long as all others together
RECONCILE = tests/integration/test_reconcile.py

.PHONY: integration-reconcile integration-others
integration-reconcile: dev
	$(PYTEST) $(RECONCILE)

integration-others: dev
	$(PYTEST) tests/integration --ignore=$(RECONCILE)

lab: lab-nodes lab-services ## racks of their own: real kubeadm, power cuts, killed masters (needs root)

# In two racks; what runs in one takes about as long as what runs in the other.
IN_CLUSTER = $(addprefix tests/lab/,test_container_storage.py test_firewall.py \
		test_mirror_sync.py test_mirror_pull_through.py) \
	$(wildcard tests/lab/test_services_*.py)

.PHONY: lab-nodes lab-services
lab-nodes: dev
	SALTBERRY_TEST_RACK=test $(PYTEST) tests/lab $(addprefix --ignore=,$(IN_CLUSTER))

lab-services: dev
	SALTBERRY_TEST_RACK=test-2 $(PYTEST) $(IN_CLUSTER)

vm: dev ## virtual machines with kernels of their own: the real NFS share (needs root)
	$(PYTEST) tests/vm

lint: dev ## ruff, mypy, yamllint, salt-lint, shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@# An execution and a state module may have one name, so each folder is checked by itself.
	@for folder in _modules _states _utils _pillar _cache _output; do .venv/bin/mypy $$folder || exit 1; done
	.venv/bin/yamllint --strict .
	.venv/bin/salt-lint $$(git ls-files 'salt/*.sls' 'pillar/*.sls' 'reactor/*.sls')
	.venv/bin/shellcheck rack tools/venv install/*.sh lab/kubernetes/build.sh lab/services/*.sh .ci/run \
		salt/services/metrics/files/accounts.sh salt/services/metrics/files/saltberry-throttled

bench: dev ## join, burst, migration, no-op runs, footprint, card writes against their peers (needs root)
	@tools/venv bench >/dev/null
	@for name in join burst migration converge footprint card; do .venv/bin/python -m bench.$$name || exit 1; done

clean: ## remove every rack, image and cache the lab made
	@./rack clean

.PHONY: dev
dev:
	@tools/venv dev >/dev/null
