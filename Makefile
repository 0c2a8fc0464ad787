# make demo        plan toward docs/assets/push_goal.png with the shipped world model
# make test        the tests
# make test-slow   the tests that take too long for every change
# make lint        what pre-commit and CI check: ruff and mypy
# make docs        the documentation, in build/site; warnings are errors
# make reproduce   record, pretrain, train and evaluate from nothing (ENV=push, reacher, arm_push, ...)
# make setup       virtual environment in .venv, pinned dependencies, OpenGL library; the others do this first
# make clean       remove .venv and caches; runs/ stays

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENV ?= push

.PHONY: help setup demo test test-slow lint docs reproduce clean

help:
	@sed -n 's/^# make /make /p' Makefile

# The stamp is written last: an installation that was cut short starts again.
$(INSTALLED): pyproject.toml constraints.txt requirements.lock requirements-torch.lock scripts/setup.sh
	@scripts/setup.sh $(VENV)
	@touch $@

setup: $(INSTALLED)
	@scripts/check_graphics.sh $(BIN)/python

demo: setup
	$(BIN)/python -m planning.run env=push checkpoint=push goal=docs/assets/push_goal.png

# In two processes, each with the tests of whole files: in one, they take too long.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.docs: $(INSTALLED) requirements-docs.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-docs.lock
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Every command goes on where it was interrupted, and so does this. The oracle, with the simulator as the model, would
# take as long as all the rest; it says nothing about what was trained. The planners of some tasks take proposals from a
# head of the model.
reproduce: setup
	$(BIN)/python -m envs.collect env=$(ENV)
	$(BIN)/python -m worldmodel.pretrain env=$(ENV)
	$(BIN)/python -m worldmodel.train env=$(ENV)
	$(if $(filter push arm_%,$(ENV)),$(BIN)/python -m worldmodel.inverse env=$(ENV))
	$(BIN)/python -m planning.evaluate env=$(ENV) checkpoint=runs/$(ENV)/model oracle=false

clean:
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
	find configs envs planning tests worldmodel -name __pycache__ -type d -prune -exec rm -rf {} +
