# Compilers and flags of each flavour.
#
# -ffast-math appears nowhere: NaN must fail every comparison.  Contraction of a*b+c is written out everywhere because
# compilers disagree about its default; only the kernels of src/ops/cpu may fuse.  -fno-strict-aliasing because an
# allocator that returns through void ** is used with pointers of every type.  assert stays on in every flavour.

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
CLANG ?= clang
PKG_CONFIG ?= pkg-config
PROTOC_C ?= protoc-c

PACKAGES := yaml-0.1 libzstd zlib libprotobuf-c libpcre2-8
PACKAGE_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
PACKAGE_LIBS := $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null || echo -lyaml -lzstd -lz -lprotobuf-c -lpcre2-8)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-psabi \
            -Werror=implicit-function-declaration -Werror=incompatible-pointer-types -Werror=int-conversion
CPPFLAGS := -Iinclude -Isrc -I$(GEN) -D_GNU_SOURCE $(EXTRA_CPPFLAGS)
C_BASE := -std=c11 -g -fno-math-errno -fno-trapping-math -fno-strict-aliasing $(WARNINGS) $(PACKAGE_CFLAGS) $(EXTRA_CFLAGS)

SANITIZER_COMMON := -fno-omit-frame-pointer
ifeq ($(FLAVOUR),release)
  OPT := -O3
  REF_OPT := -O2
  THREADS := -fopenmp
else ifeq ($(FLAVOUR),san)
  # Both at once: what the ordinary test run has time for.
  OPT := -O1
  THREADS := -fopenmp
  INSTRUMENT := -fsanitize=address,undefined -fno-sanitize-recover=undefined $(SANITIZER_COMMON)
  CPPFLAGS += -DHD_DEBUG=1
else ifeq ($(FLAVOUR),asan)
  OPT := -O1
  THREADS := -fopenmp
  INSTRUMENT := -fsanitize=address $(SANITIZER_COMMON)
  CPPFLAGS += -DHD_DEBUG=1
else ifeq ($(FLAVOUR),ubsan)
  OPT := -O1
  THREADS := -fopenmp
  INSTRUMENT := -fsanitize=undefined -fno-sanitize-recover=all $(SANITIZER_COMMON)
  CPPFLAGS += -DHD_DEBUG=1
else ifeq ($(FLAVOUR),tsan)
  # libgomp is opaque to TSan, so parallel loops run on POSIX threads there.
  OPT := -O1
  THREADS := -fopenmp-simd
  INSTRUMENT := -fsanitize=thread $(SANITIZER_COMMON)
  CPPFLAGS += -DHD_DEBUG=1 -DHD_THREADS_PTHREAD
else ifeq ($(FLAVOUR),coverage)
  OPT := -O1
  THREADS := -fopenmp
  INSTRUMENT := --coverage -fprofile-update=atomic
else
  $(error FLAVOUR=$(FLAVOUR): want release, san, asan, ubsan, tsan or coverage)
endif
REF_OPT ?= $(OPT)

CFLAGS_LIB := $(C_BASE) $(OPT) $(THREADS) $(INSTRUMENT) -ffp-contract=off
CFLAGS_REF := $(C_BASE) $(REF_OPT) $(THREADS) $(INSTRUMENT) -ffp-contract=off
CFLAGS_CPU := $(C_BASE) $(OPT) $(THREADS) $(INSTRUMENT) -ffp-contract=fast
CFLAGS_GEN := -std=c11 -g $(OPT) $(INSTRUMENT) $(PACKAGE_CFLAGS)
LDFLAGS := $(THREADS) $(INSTRUMENT) $(EXTRA_LDFLAGS)
LDLIBS := $(PACKAGE_LIBS) -lpthread -lm

# The instruction sets src/ops/cpu is compiled for; the choice between them is made at run time.
MACHINE := $(shell $(CC) -dumpmachine)
ISA_base :=
ISA_avx2 := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4 -mprefer-vector-width=512
ifneq ($(filter x86_64-%,$(MACHINE)),)
ISAS := base avx2 avx512
else
ISAS := base
endif
