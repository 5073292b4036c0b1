# SPDX-License-Identifier: Apache-2.0
# The front door: sets up .venv on first use, then calls scons or pytest. `make help` lists all.

PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
# Variables of `scons xsplice`, passed on when given: make xsplice XEN=/src/xen PATCH=fix.patch
NAMES := XEN PATCH HOTFIX NAME SIGNER KEY CERT DEPENDS SUPERSEDES ACCEPT RELEASE RELEASES LOADER DIFFER LINKER ON EXPECT OPTIONS LINE_NEUTRAL VERBOSE BUILD
# What else is said on the command line goes to scons as well, which refuses what it does not know.
OWN := PYTHON VENV SCONSFLAGS AGREEMENT XEN_TREE BASE DEBIAN
ODD := $(foreach name,$(filter-out $(NAMES) $(OWN),$(.VARIABLES)),\
         $(if $(filter command,$(firstword $(origin $(name)))),$(name)))
SETTINGS = $(foreach name,$(NAMES) $(ODD),$(if $($(name)),'$(name)=$(subst ','\'',$($(name)))'))
SCONS = '$(BIN)/scons' -Q $(SETTINGS) $(SCONSFLAGS)
# The hypervisor that the tests are about: Debian's, built as Debian does.
DEBIAN := 4.17.5+72-g01140da4e8-1
BASE := debian-$(DEBIAN)
XEN_TREE = $$('$(BIN)/xsplice' base path '$(BASE)')

.PHONY: help setup xsplice xsplice-verify test test-xen test-qemu xen-tree bench agreement lint clean
.DEFAULT_GOAL := help

help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

$(READY): pyproject.toml .ci/needs
	@PYTHON='$(PYTHON)' .ci/needs core
	@echo 'Setting up $(VENV) (once)'
	@'$(PYTHON)' -m venv '$(VENV)'
	@'$(BIN)/python' -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch '$@'

setup: $(READY) ## make the virtual environment with all Python packages

xsplice: $(READY) ## build a signed live patch (XEN=, PATCH=; without them: the embedded core's demo)
	@$(SCONS) xsplice

xsplice-verify: $(READY) ## build it and prove it against the reference hypervisor core
	@$(SCONS) xsplice-verify

test: $(READY) ## run the tests that need no Xen tree (about 5 minutes)
	@'$(BIN)/python' -m pytest -q -n 2 -m 'not xen and not qemu'

xen-tree: $(READY) ## fetch and build Debian's Xen 4.17.5 as a base in the cache folder
	@PYTHON='$(PYTHON)' .ci/needs core xen
	@'$(BIN)/xsplice' base add '$(BASE)' --debian '$(DEBIAN)' --targets tests --replace

test-xen: xen-tree ## run the tests on the real Xen tree
	@XSPLICE_XEN_TREE="$(XEN_TREE)" '$(BIN)/python' -m pytest -q -n 2 -m 'xen and not qemu' tests

test-qemu: xen-tree ## run the tests that boot a real Xen under QEMU
	@.ci/needs qemu
	@XSPLICE_QEMU=1 XSPLICE_XEN_TREE="$(XEN_TREE)" '$(BIN)/python' -m pytest -q -m qemu tests

agreement: xen-tree ## hold the model against a real Xen, case by case (AGREEMENT="--seed 3 --count 2500")
	@.ci/needs qemu
	@'$(BIN)/python' tests/xen/agreement.py --tree "$(XEN_TREE)" $(AGREEMENT)

bench: xen-tree ## measure speed as ratios in one run
	@XSPLICE_XEN_TREE="$(XEN_TREE)" '$(BIN)/python' tests/bench.py

lint: $(READY) ## ruff, mypy, codespell
	@'$(BIN)/ruff' check . && '$(BIN)/ruff' format --check .
	@'$(BIN)/mypy' && '$(BIN)/codespell'

clean: ## remove build/ and the tools' caches; the cache of Xen trees stays
	@rm -rf build .sconsign*.dblite .mypy_cache .ruff_cache .pytest_cache .hypothesis
