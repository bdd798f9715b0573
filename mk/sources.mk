# What is built from what.

find_c = $(sort $(if $(wildcard $(1)),$(shell find $(1) -name '$(2)' -not -path '*/cuda/*')))

SRC_ROOTS := $(if $(MODULES),$(addprefix src/,$(MODULES)),src)
TEST_ROOTS := $(if $(MODULES),tests/support $(addprefix tests/,$(MODULES)),tests)

SRC_ALL := $(call find_c,$(SRC_ROOTS),*.c)
CLI_SRC := $(filter src/cli/%,$(SRC_ALL))
LIB_SRC := $(filter-out src/cli/%,$(SRC_ALL))
ISA_SRC := $(filter-out src/ops/cpu/dispatch%,$(filter src/ops/cpu/%,$(LIB_SRC)))
REF_SRC := $(filter src/ops/ref/%,$(LIB_SRC))
PLAIN_SRC := $(filter-out $(ISA_SRC) $(REF_SRC),$(LIB_SRC))

PROTO := $(call find_c,$(SRC_ROOTS),*.proto)
GEN_C := $(PROTO:src/%.proto=$(GEN)/%.pb-c.c)
GEN_H := $(GEN_C:.c=.h)
GEN_OBJ := $(GEN_C:$(GEN)/%.c=$(B)/gen/%.o)

TEST_SRC := $(filter-out tests/mutate/%,$(call find_c,$(TEST_ROOTS),test_*.c))
TEST_SCRIPTS := $(call find_c,$(TEST_ROOTS),test_*.sh)
SUPPORT_SRC := $(filter-out tests/support/test_%,$(wildcard tests/support/*.c))
FUZZ_SRC := $(if $(MODULES),,$(wildcard tests/fuzz/fuzz_*.c))
BENCH_SRC := $(if $(MODULES),,$(wildcard bench/bench_*.c))

PLAIN_OBJ := $(PLAIN_SRC:%.c=$(B)/%.o)
REF_OBJ := $(REF_SRC:%.c=$(B)/%.o)
ISA_OBJ := $(foreach isa,$(ISAS),$(ISA_SRC:%.c=$(B)/%.$(isa).o))
CLI_OBJ := $(CLI_SRC:%.c=$(B)/%.o)
SUPPORT_OBJ := $(SUPPORT_SRC:%.c=$(B)/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$(B)/%.o)
BENCH_OBJ := $(BENCH_SRC:%.c=$(B)/%.o)
FUZZ_OBJ := $(FUZZ_SRC:%.c=$(B)/%.o)

TEST_BIN := $(TEST_SRC:%.c=$(B)/%)
BENCH_BIN := $(BENCH_SRC:%.c=$(B)/%)
REPLAY_BIN := $(FUZZ_SRC:%.c=$(B)/%)
LIB_OBJ := $(PLAIN_OBJ) $(REF_OBJ) $(ISA_OBJ) $(GEN_OBJ)
