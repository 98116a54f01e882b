# make demo: a real model, pruned, measured and speaking. make test: everything that is checked.
BUILD := build/release
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := build-essential cmake ninja-build pkg-config ccache clang-format \
  libdnnl-dev nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev libsentencepiece-dev libcpp-httplib-dev libssl-dev libxxhash-dev \
  libgtest-dev libgmock-dev libbenchmark-dev
DEMO_PACKAGES := python3-pip unzip debian-faq

.PHONY: build demo test asan bench format lint deps demo-deps clean

build: deps
	cmake --preset release
	cmake --build --preset release --target swiftprune_cli
	@echo "built $(BUILD)/swiftprune; next: $(BUILD)/swiftprune --help"

demo: demo-deps build
	tools/demo.sh $(BUILD)/swiftprune

test: deps
	cmake --preset ci
	cmake --build --preset ci
	ctest --test-dir build/ci --output-on-failure -j 2

# What reads untrusted files and requests, under the address and undefined-behaviour sanitizers.
asan: deps
	cmake --preset asan
	cmake --build --preset asan --target asan_tests
	ctest --test-dir build/asan --output-on-failure -L asan

bench: deps
	cmake --preset release
	cmake --build --preset release
	@for program in $(BUILD)/bench/*_bench; do echo "== $$program"; done; echo "run them one by one: docs/performance.md says how"

format:
	clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

lint:
	clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	tools/check_includes.sh

# Installs only what is missing, and says what.
define install
	@missing=""; for p in $(1); do dpkg -s $$p 2>/dev/null | grep -q '^Status: install ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing Debian packages:$$missing"; \
	  $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; fi
endef
deps:
	$(call install,$(PACKAGES))
demo-deps:
	$(call install,$(DEMO_PACKAGES))

clean:
	rm -rf build demo
