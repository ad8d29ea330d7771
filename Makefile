.PHONY: help check test bundle
B ?= clgnet

help:  ## list these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

check:  ## ruff with its formatter, mypy, and the rules of the house
	ruff check .
	ruff format --check .
	mypy
	pytest -q tests/test_house.py

test:  ## all tests on CPU
	pytest -q

bundle:  ## verify bundle B and train it for one short epoch (make bundle B=clgnet)
	python -m medkit.cli verify $(B)
	python -m medkit.cli run $(B) train small --run_name make --max_epochs 1
