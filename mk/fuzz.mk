# Fuzz targets.  tests/fuzz/fuzz_NAME.c defines LLVMFuzzerTestOneInput.  With gcc it becomes a replay program that runs
# the files of tests/fuzz/corpus/NAME; with clang (`make fuzzers`) a libFuzzer program under ASan and UBSan.

ifneq ($(REPLAY_BIN),)
$(REPLAY_BIN): $(B)/%: $(B)/%.o $(B)/tests/fuzz/replay.o $(SUPPORT_OBJ) $(B)/libhadal.a
	$(call say,LINK,$@)
	$(call link,$< $(B)/tests/fuzz/replay.o $(SUPPORT_OBJ),-lcmocka)
$(B)/tests/fuzz/replay.o: tests/fuzz/replay.c $(STAMP)
	$(call say,CC,$@)
	$(call compile,$(CFLAGS_REF) -Itests)
-include $(B)/tests/fuzz/replay.d
endif

F := $(BUILD_ROOT)/fuzz
FUZZ_FLAGS := -std=c11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer \
              -ffp-contract=off -fno-strict-aliasing -Wno-unknown-pragmas -Wno-psabi $(PACKAGE_CFLAGS) -DHD_DEBUG=1 -DHD_THREADS_PTHREAD
FUZZ_LIB_OBJ := $(patsubst %.c,$(F)/%.o,$(PLAIN_SRC) $(REF_SRC)) \
                $(foreach isa,$(ISAS),$(ISA_SRC:%.c=$(F)/%.$(isa).o)) $(GEN_C:$(GEN)/%.c=$(F)/gen/%.o)
FUZZER_BIN := $(FUZZ_SRC:%.c=$(F)/%)

fuzzers: $(FUZZER_BIN)

fuzz_compile = $(Q)mkdir -p $(@D) && $(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS) $(1) -MMD -MP -c $< -o $@
$(patsubst %.c,$(F)/%.o,$(PLAIN_SRC) $(REF_SRC) $(SUPPORT_SRC) $(FUZZ_SRC)): $(F)/%.o: %.c | $(GEN_H)
	$(call say,CLANG,$@)
	$(call fuzz_compile,-fsanitize=fuzzer-no-link -Itests)
define fuzz_isa_rule
$(ISA_SRC:%.c=$(F)/%.$(1).o): $(F)/%.$(1).o: %.c | $(GEN_H)
	$$(call say,CLANG,$$@)
	$$(call fuzz_compile,-fno-sanitize=all -DHD_ISA=$(1) $(ISA_$(1))) # no parser here, and clang takes minutes to instrument a kernel
endef
ifneq ($(ISA_SRC),)
$(foreach isa,$(ISAS),$(eval $(call fuzz_isa_rule,$(isa))))
endif
ifneq ($(PROTO),)
$(GEN_C:$(GEN)/%.c=$(F)/gen/%.o): $(F)/gen/%.o: $(GEN)/%.c
	$(call say,CLANG,$@)
	$(call fuzz_compile,-w)
endif
ifneq ($(FUZZER_BIN),)
$(FUZZER_BIN): $(F)/%: $(F)/%.o $(SUPPORT_SRC:%.c=$(F)/%.o) $(F)/libhadal.a
	$(call say,LINK,$@)
	$(Q)$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $< $(SUPPORT_SRC:%.c=$(F)/%.o) $(F)/libhadal.a $(LDLIBS) -lcmocka
$(F)/libhadal.a: $(FUZZ_LIB_OBJ)
	$(Q)rm -f $@ && $(AR) qcs $@ $^
endif

-include $(wildcard $(patsubst %.o,%.d,$(FUZZ_LIB_OBJ) $(FUZZ_SRC:%.c=$(F)/%.o)))
