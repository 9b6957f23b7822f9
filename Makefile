# Targets in the order of the engine's way, then the data's way. `make` lists them.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# targets share one environment and one repository: two of them at once, as with -j, would write over each other
.NOTPARALLEL:

VENV ?= .venv
PYTHON ?=
CHECKPOINT ?= training/wan-mini
REPOSITORY ?= model_repository
PRECISION ?=
TEXT_ENCODER_PRECISION ?=
VAE_PRECISION ?=
SIZES ?=
EXPERT_BATCH ?= 1
WORKSPACE_GIB ?=
VAE_TF32 ?=
BF16_SHARDS ?=
FP8_RANGES ?=
PLANS_INTO ?=
LORA_HIGH ?=
LORA_LOW ?=
LORA_SCALE ?= 1.0
LORA_INTO ?= $(CHECKPOINT:%/=%)-lora
LORA_OPTIONS ?=
# not from the environment, where shells and platforms set such names for themselves: gRPC asks nobody for a key
HOST = 127.0.0.1
HTTP_HOST =
METRICS_HOST =
GRPC_PORT ?= 8001
HTTP_PORT ?= 8000
METRICS_PORT ?= 8002
PORT = 8080
TRACES_URL ?=
URL = $(if $(findstring :,$(HOST:[%=)),[$(HOST)],$(HOST)):$(GRPC_PORT)
LOG =
IMAGE ?= wan-t2v:0.1.0

# fields of a request; an empty one is left to the server. PROMPT is not from the environment, where zsh has its own
PROMPT = a red ball rolls left
NEGATIVE_PROMPT ?=
# as they were typed: make would take a dollar sign in them for a variable
override PROMPT := $(value PROMPT)
override NEGATIVE_PROMPT := $(value NEGATIVE_PROMPT)
export PROMPT NEGATIVE_PROMPT
SIZE ?=
FRAMES ?=
STEPS ?=
SEED ?=
GUIDANCE_SCALE ?=
GUIDANCE_SCALE_2 ?=
FLOW_SHIFT ?=
FPS ?=
SOLVER ?=
STEP_PROFILE ?=
STEP_CACHE ?=
GUIDANCE_SKIP ?=

ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): a path without spaces is needed)
endif

# what runs here asks no proxy about servers on this machine
override no_proxy := $(or $(no_proxy),$(NO_PROXY)),127.0.0.1,localhost,::1
override NO_PROXY := $(no_proxy)
export no_proxy NO_PROXY

python := $(VENV)/bin/python
# a switch: 1 is on, and 0 or nothing is off
on = $(filter-out 0 no off false,$(1))
log = $(if $(LOG),--log "$(LOG)")
# what a graph computes in: of the experts, the text encoder, the VAE
precision = $(if $(PRECISION),--precision $(PRECISION)) \
	$(if $(TEXT_ENCODER_PRECISION),--text-encoder-precision $(TEXT_ENCODER_PRECISION)) \
	$(if $(VAE_PRECISION),--vae-precision $(VAE_PRECISION))
# what `plans` takes besides folders; it is checked before the export, which takes minutes for A14B
plan_options = $(precision) --expert-batch $(EXPERT_BATCH) $(if $(SIZES),--sizes "$(SIZES)") \
	$(if $(WORKSPACE_GIB),--workspace-gib $(WORKSPACE_GIB)) $(if $(call on,$(VAE_TF32)),--vae-tf32)
check_plans = $(if $(filter plans,$(MAKECMDGOALS)),$(python) -m export plans --check-only --checkpoint "$(1)" $(plan_options))
# set for some targets below, and empty for the others: without this line the environment would set it
must_install =
# what is exported: the checkpoint, or the one beside it that LoRAs were merged into
loras = $(LORA_HIGH)$(LORA_LOW)
merged = $(if $(loras),$(LORA_INTO),$(CHECKPOINT))
# whether plans without SIZES get theirs from a merged folder, which keeps serving defaults of its own
size_from_merge = $(if $(loras),$(if $(SIZES),,yes))
merge = $(python) -m export merge-lora --checkpoint "$(CHECKPOINT)" --into "$(LORA_INTO)" --scale $(LORA_SCALE) \
	$(if $(LORA_HIGH),--high "$(LORA_HIGH)") $(if $(LORA_LOW),--low "$(LORA_LOW)") $(LORA_OPTIONS)
fields = $(if $(NEGATIVE_PROMPT),--negative-prompt "$$NEGATIVE_PROMPT") $(if $(SIZE),--size $(SIZE)) \
	$(if $(FRAMES),--frames $(FRAMES)) $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED)) \
	$(if $(GUIDANCE_SCALE),--guidance-scale $(GUIDANCE_SCALE)) \
	$(if $(GUIDANCE_SCALE_2),--guidance-scale-2 $(GUIDANCE_SCALE_2)) \
	$(if $(FLOW_SHIFT),--flow-shift $(FLOW_SHIFT)) $(if $(FPS),--fps $(FPS)) \
	$(if $(SOLVER),--solver $(SOLVER)) $(if $(STEP_PROFILE),--step-profile $(STEP_PROFILE)) $(if $(STEP_CACHE),--step-cache $(STEP_CACHE)) \
	$(if $(GUIDANCE_SKIP),--guidance-skip $(GUIDANCE_SKIP)) \
	-- "$$PROMPT"

.PHONY: help setup setup-dev mini export calibrate a14b-dry-run a14b-plans-rehearsal parity plans compile-check serve studio gateway gateway-pictures generate demo adherence quality pictures train-mini distill-mini test test-fast nightly fuzz faults soak lint bench bench-gateway bench-all gpu perf lock placement-table sbom image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## the virtual environment for demo, serve, generate and export, packages pinned (PYTHON=..., VENV=...)

setup-dev: $(VENV)/.dev-ready ## ... and for tests, checks, builds and training; what needs it makes it by itself

packages = pyproject.toml client/pyproject.toml constraints.txt set_up_environment.sh find_python.sh

$(VENV)/.ready: $(packages)
	@PYTHON="$(PYTHON)" ./set_up_environment.sh "$(VENV)"

$(VENV)/.dev-ready: $(packages) deploy/install_tools.sh deploy/monitoring/install_promtool.sh
	@PYTHON="$(PYTHON)" ./set_up_environment.sh "$(VENV)" dev

# what the gateway needs beside the rest: setup stays lean
$(VENV)/.gateway-ready: gateway/pyproject.toml $(VENV)/.ready
	@$(python) -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt -e './gateway[test,marking,tracing]'
	@touch $@

mini: setup ## make the benchmark's checkpoint, checkpoints/wan-mini, with random weights (kept if it is there)
	@test -f checkpoints/wan-mini/model_index.json || $(python) -m export mini

export: setup $(if $(filter checkpoints/wan-mini,$(CHECKPOINT:%/=%)),mini) ## checkpoint to checked graphs in the model repository (CHECKPOINT=..., REPOSITORY=..., PRECISION=..., FP8_RANGES=file, BF16_SHARDS=1; LORA_HIGH=file, LORA_LOW=file, LORA_SCALE=1.0)
	@$(if $(size_from_merge),,$(call check_plans,$(CHECKPOINT)))
	@$(if $(loras),$(merge))
	@$(if $(size_from_merge),$(call check_plans,$(merged)))
	@$(python) -m export onnx --checkpoint "$(merged)" --repository "$(REPOSITORY)" $(precision) \
		$(if $(call on,$(BF16_SHARDS)),--bf16-shards) $(if $(FP8_RANGES),--fp8-ranges "$(FP8_RANGES)") $(must_install)

calibrate: setup-dev $(if $(filter checkpoints/wan-mini,$(CHECKPOINT:%/=%)),mini) ## measure the experts' ranges in generations, for PRECISION=fp8 or int8 (CHECKPOINT=..., FP8_RANGES=file; LORA_HIGH=file, LORA_LOW=file)
	@$(if $(loras),$(merge))
	@$(python) -m export calibrate --checkpoint "$(merged)" $(if $(FP8_RANGES),--fp8-ranges "$(FP8_RANGES)")

a14b-dry-run: setup ## export the shapes of A14B without its weights, and check the graphs (PRECISION=...)
	@$(python) -m export dry-run $(precision)

a14b-plans-rehearsal: setup-dev ## from the shapes of A14B to plans and a loaded server, without weights or a GPU (OUT=...)
	@$(python) -m deploy.rehearsal $(if $(OUT),--out "$(OUT)")

# these serve what they export, so a checkpoint that cannot be served here is refused and not passed over
demo adherence pictures test: must_install := --must-install

# whatever was exported last is served, wan-mini if nothing was; but what is named in this call is exported first
named = $(strip $(foreach name,CHECKPOINT PRECISION TEXT_ENCODER_PRECISION VAE_PRECISION BF16_SHARDS LORA_HIGH LORA_LOW,\
	$(if $(filter environment command,$(origin $(name))),$(call on,$($(name))))))
.PHONY: installed
installed: must_install := --must-install
installed: $(if $(named),export,setup)
	@test -f "$(REPOSITORY)/prepare/1/manifest.json" || $(MAKE) --no-print-directory export

parity: export ## compare the exported graphs with the checkpoint's modules, the experts also along a generation
	@$(python) -m export parity --checkpoint "$(merged)" $(precision)

plans: setup-dev export ## exported graphs to TensorRT plans (PRECISION=..., SIZES=480x832x81,..., EXPERT_BATCH=1, WORKSPACE_GIB=..., VAE_TF32=1, PLANS_INTO=repository)
	@$(python) -m export plans --checkpoint "$(merged)" $(plan_options) \
		$(if $(PLANS_INTO),--repository "$(PLANS_INTO)")

compile-check: setup-dev export ## compile every graph at every precision with TensorRT-RTX, without a GPU (SMALLEST_COVER=1: few)
	@$(python) -m export compile-check --checkpoint "$(merged)" $(if $(call on,$(SMALLEST_COVER)),--smallest-cover)

serve: installed ## run the server until Ctrl-C (HOST=... for gRPC, HTTP_HOST=..., METRICS_HOST=..., GRPC_PORT=..., HTTP_PORT=..., METRICS_PORT=..., 0 for a free port; TRACES_URL=..., LOG=...; CONFIG_NAME=..., MODELS="...", CUDA_POOL_BYTES=..., START_LIMIT_S=... as placement prints them; CHECKPOINT=... or PRECISION=... exports it first)
	@$(python) -m embedded.serve --repository "$(REPOSITORY)" --host $(HOST) --grpc-port $(GRPC_PORT) \
		--http-port $(HTTP_PORT) --metrics-port $(METRICS_PORT) $(if $(HTTP_HOST),--http-host $(HTTP_HOST)) \
		$(if $(METRICS_HOST),--metrics-host $(METRICS_HOST)) $(if $(TRACES_URL),--traces-url "$(TRACES_URL)") $(log) \
		$(if $(CONFIG_NAME),--config-name "$(CONFIG_NAME)") $(if $(MODELS),--models $(MODELS)) \
		$(if $(CUDA_POOL_BYTES),--cuda-pool-bytes $(CUDA_POOL_BYTES)) $(if $(START_LIMIT_S),--start-limit-s $(START_LIMIT_S))

studio: installed $(VENV)/.gateway-ready ## run the server and a page for making videos, on loopback, until Ctrl-C (PORT=..., DATA=..., TRACES_URL=..., LOG=...)
	@$(python) -m embedded.studio --repository "$(REPOSITORY)" --port $(PORT) --data "$(or $(DATA),out/studio)" \
		$(if $(TRACES_URL),--traces-url "$(TRACES_URL)") $(log)

gateway: setup $(VENV)/.gateway-ready ## videos as jobs over HTTP before a server elsewhere (URL=host:8001, HOST=..., PORT=..., DATA=..., TRACES_URL=...)
	@$(python) -m wan_t2v_gateway --url $(URL) --host $(HOST) --port $(PORT) --data "$(or $(DATA),out/gateway)" \
		$(if $(TRACES_URL),--traces-url "$(TRACES_URL)")

gateway-pictures: setup-dev $(VENV)/.gateway-ready installed ## the page in light, dark and phone width, to look at; needs Debian's chromium (OUT=...)
	@$(python) -m tests.unit.gateway.page_pictures --repository "$(REPOSITORY)" --out "$(or $(OUT),out/gateway-pictures)"

generate: setup ## ask a running server for a video (PROMPT=..., OUT=..., URL=..., and the fields of a request)
	@$(VENV)/bin/wan-t2v generate --url $(URL) --out "$(or $(OUT),out/video.mp4)" $(fields)

demo: export ## set up, export, serve and generate: a prompt to out/demo.mp4 (PROMPT=..., OUT=..., LOG=..., and the fields of a request)
	@$(python) -m embedded.demo --repository "$(REPOSITORY)" --out "$(or $(OUT),out/demo.mp4)" $(log) $(fields)

adherence: setup-dev export ## score how often videos follow 54 held-out prompts, through a server (SEEDS=1, OUT=...)
	@$(python) -m training.judge.through_server --repository "$(REPOSITORY)" --out "$(or $(OUT),out/adherence.png)" \
		$(if $(SEEDS),--seeds $(SEEDS))

quality: setup-dev $(if $(filter command line,$(origin URL)),,export) ## what each step profile saves and how far its videos are from exact ones (PROFILES=..., ALSO="int8=folder bf16=openvino", URL=..., PROMPTS=file, COUNT=..., OUT=...)
	@$(python) -m benchmarks.quality.run --repository "$(REPOSITORY)" --out "$(or $(OUT),out/quality)" \
		$(if $(filter command line,$(origin URL)),--url $(URL)) $(if $(PROFILES),--profiles $(PROFILES)) $(addprefix --also ,$(ALSO)) $(if $(PROMPTS),--prompts "$(PROMPTS)") $(if $(COUNT),--count $(COUNT))

pictures: setup-dev export ## generate the README's pictures through a server (OUT=...)
	@$(python) -m training.judge.pictures --repository "$(REPOSITORY)" --out "$(or $(OUT),docs/pictures)"

train-mini: setup-dev ## train wan-mini: hours on two CPU cores, resumable (TRAIN_OPTIONS=...)
	@$(python) -m training all $(TRAIN_OPTIONS)

distill-mini: setup-dev ## train the LoRAs that make wan-mini a four-step model: two CPU hours, resumable (TRAIN_OPTIONS=...)
	@$(python) -m training.distill $(TRAIN_OPTIONS)

reruns = $(if $(RERUNS),--reruns $(RERUNS) --rerun-show-tracebacks -rR)
# without a server a test has one thread, three at a time since some only wait; each file stays in one process, for what its tests share
without_server = OMP_NUM_THREADS=1 $(python) -m pytest -n 3 --dist loadfile --max-worker-restart=0 -m "not server and not nightly"

# each server has its own processes, ports and shared memory, so two run at a time, in the order of tests/conftest.py
with_servers = $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m "server and not nightly"

test: setup-dev $(VENV)/.gateway-ready export ## run all tests, or TESTS="..." as pytest takes them
ifdef TESTS
	@$(python) -m pytest $(TESTS)
else
	@$(without_server) $(reruns)
	@$(with_servers) $(reruns)
endif

slow_units = export gateway training benchmarks/gpu wan_t2v/engines wan_t2v/test_preview.py wan_t2v/serving/models/test_vae_decoder.py

test-fast: setup-dev installed ## contracts, and the units that need no export, program or database: about a minute
	@$(without_server) --quiet tests/contract tests/unit $(slow_units:%=--ignore tests/unit/%)

nightly: setup-dev $(VENV)/.gateway-ready installed ## what takes too long for each change: the whole compile gate, dry run, fuzz, faults, soak
	@$(python) -m pytest -m nightly --timeout 14400
	@$(MAKE) --no-print-directory compile-check
	@$(MAKE) --no-print-directory a14b-dry-run
	@$(MAKE) --no-print-directory a14b-plans-rehearsal
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory faults
	@$(MAKE) --no-print-directory soak

fuzz: setup-dev $(VENV)/.gateway-ready installed ## thousands of bad requests through each endpoint, the gateway and around them: each must be refused rightly (COUNT=..., KINDS=..., FUZZ_SEED=..., OUT=...)
	@$(python) -m tests.stress.fuzz --repository "$(REPOSITORY)" $(if $(COUNT),--count $(COUNT)) \
		$(if $(KINDS),--kinds $(KINDS)) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)) $(if $(OUT),--out "$(OUT)")

faults: setup-dev $(VENV)/.gateway-ready installed ## kill every Python process of a server in the middle of requests, and worse; a table (MODELS="denoiser ...", KINDS=..., OUT=...)
	@$(python) -m tests.stress.faults --repository "$(REPOSITORY)" $(if $(MODELS),--models $(MODELS)) \
		$(if $(KINDS),--kinds $(KINDS)) $(if $(OUT),--out "$(OUT)")

soak: setup-dev installed ## mixed load for MINUTES=30: is memory flat, is no answer lost or doubled? (SOAK_SEED=..., OUT=...)
	@$(python) -m tests.stress.soak --repository "$(REPOSITORY)" --out "$(or $(OUT),out/soak.json)" \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

lint: setup-dev $(VENV)/.gateway-ready ## style and types
	@$(python) -m ruff check . && $(python) -m ruff format --check . && $(python) -m mypy && \
		$(python) -m mypy client/wan_t2v_client && $(python) -m mypy gateway/wan_t2v_gateway

bench: setup-dev installed mini ## time a generation and its step profiles against diffusers, and the endpoints against each other; a quiet machine
	@$(python) -m benchmarks.latency.generation --repository "$(REPOSITORY)"
	@$(python) -m benchmarks.latency.profiles --repository "$(REPOSITORY)" \
		$(addprefix --also ,$(wildcard build/training-wan-mini-int8))
	@$(python) -m benchmarks.latency.endpoints --repository "$(REPOSITORY)"

bench-gateway: setup-dev $(VENV)/.gateway-ready ## measure what the gateway adds to a video, and how much it bears; a quiet machine (OUT=..., QUICK=1 to rehearse)
	@$(python) -m gateway.benchmark --out "$(or $(OUT),out/bench-gateway)" $(if $(call on,$(QUICK)),--quick)

bench-all: setup-dev installed mini ## run all benchmarks but the GPU's, about 13 minutes, into out/bench (OUT=..., QUICK=1 to rehearse)
	@$(python) -m benchmarks.suite --repository "$(REPOSITORY)" --out "$(or $(OUT),out/bench)" $(if $(call on,$(QUICK)),--quick)

gpu: setup-dev ## measure a GPU: server, attention, an expert, FP8, the VAE, TensorRT; under 9 minutes (OUT=..., REPOSITORY=...)
	@$(python) -m benchmarks.gpu.run --repository "$(REPOSITORY)" $(if $(OUT),--out "$(OUT)")

perf: setup-dev installed ## run perf_analyzer on both endpoints, with the composing models
	@$(python) -m benchmarks.load.perf_analyzer --repository "$(REPOSITORY)"

lock: setup-dev ## pin the image's Python packages anew, with hashes (deploy/requirements.lock)
	@$(VENV)/bin/uv pip compile pyproject.toml deploy/requirements.in --extra export --extra fp8 --extra tracing -c constraints.txt \
		--python-version 3.12 --python-platform x86_64-manylinux_2_39 --only-binary :all: --generate-hashes \
		--custom-compile-command 'make lock' --quiet --output-file deploy/requirements.lock

placement-table: setup-dev ## write the chart's table of what fits on which GPUs
	@$(python) -m deploy.placement_table

sbom: setup-dev ## bill of materials of the image's Python packages, build/sbom.cdx.json
	@$(python) -m deploy.sbom

image: ## build the production image with Docker (IMAGE=..., docs/run/production.md)
	docker build --file deploy/Dockerfile --tag "$(IMAGE)" --build-arg REVISION="$$(git rev-parse HEAD)" .

# jobs, keys and videos are somebody's data, not results
clean: ## remove what was built and measured, but not the environment nor the gateway's data (out/gateway, out/studio)
	rm -rf build checkpoints/wan-mini
	@if [ -d out ]; then find out -mindepth 1 -maxdepth 1 ! -name gateway ! -name studio -exec rm -rf {} +; fi
	find model_repository -path '*/1/*' ! -name model.py ! -name .gitkeep -delete
