# Compiling and linking.  Objects depend on a stamp of the flags, so a changed flag rebuilds what it affects.

STAMP := $(B)/flags.stamp
FLAG_LINE := $(CC) | $(CPPFLAGS) | $(CFLAGS_LIB) | $(CFLAGS_REF) | $(CFLAGS_CPU) | $(ISAS) | $(LDFLAGS) $(LDLIBS)
$(STAMP): FORCE
	@mkdir -p $(@D)
	@echo '$(FLAG_LINE)' | cmp -s - $@ || echo '$(FLAG_LINE)' > $@

Q := $(if $(V),,@)
say = @printf '  %-5s %s\n' $(1) $(2)
compile = $(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(1) -MMD -MP -c $< -o $@

$(PLAIN_OBJ) $(CLI_OBJ): $(B)/%.o: %.c $(STAMP) | $(GEN_H)
	$(call say,CC,$@)
	$(call compile,$(CFLAGS_LIB))

$(REF_OBJ) $(SUPPORT_OBJ) $(TEST_OBJ) $(BENCH_OBJ) $(FUZZ_OBJ): $(B)/%.o: %.c $(STAMP) | $(GEN_H)
	$(call say,CC,$@)
	$(call compile,$(CFLAGS_REF) -Itests)

# The flags are expanded late ($$): they may hold commas, which would end an argument of call.
define isa_rule
$(ISA_SRC:%.c=$(B)/%.$(1).o): $(B)/%.$(1).o: %.c $(STAMP) | $(GEN_H)
	$$(call say,CC,$$@)
	$$(call compile,$$(CFLAGS_CPU) -DHD_ISA=$(1) $$(ISA_$(1)))
endef
ifneq ($(ISA_SRC),)
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))
endif

# Static pattern rules with an empty target list are errors of make, hence the guards.
ifneq ($(PROTO),)
$(GEN_C): $(GEN)/%.pb-c.c: src/%.proto
	$(call say,PROTO,$<)
	$(Q)mkdir -p $(GEN) && $(PROTOC_C) -I src --c_out=$(GEN) $<
$(GEN_H): %.h: %.c ;
$(GEN_OBJ): $(B)/gen/%.o: $(GEN)/%.c $(STAMP)
	$(call say,CC,$@)
	$(call compile,$(CFLAGS_GEN))
endif

# The archive is made anew each time: an object whose source is gone must not linger in it.  q and not r, because files of
# different folders share names.
$(B)/libhadal.a: $(LIB_OBJ) $(B)/objects.list
	$(call say,AR,$@)
	$(Q)rm -f $@.$$$$ && $(AR) qcs $@.$$$$ $(LIB_OBJ) && mv -f $@.$$$$ $@
$(B)/objects.list: FORCE
	@mkdir -p $(@D)
	@echo '$(LIB_OBJ)' | cmp -s - $@ || echo '$(LIB_OBJ)' > $@

link = $(Q)$(CC) $(LDFLAGS) -o $@ $(1) $(B)/libhadal.a $(LDLIBS) $(2)

$(B)/hadal: $(CLI_OBJ) $(B)/libhadal.a
	$(call say,LINK,$@)
	$(call link,$(CLI_OBJ))

ifneq ($(TEST_BIN),)
$(TEST_BIN): $(B)/%: $(B)/%.o $(SUPPORT_OBJ) $(B)/libhadal.a
	$(call say,LINK,$@)
	$(call link,$< $(SUPPORT_OBJ),-lcmocka)
endif
ifneq ($(BENCH_BIN),)
$(BENCH_BIN): $(B)/%: $(B)/%.o $(SUPPORT_OBJ) $(B)/libhadal.a
	$(call say,LINK,$@)
	$(call link,$< $(SUPPORT_OBJ),-lcmocka)
endif

compile_commands: compile_commands.json
compile_commands.json: FORCE
	@tools/compile_commands '$(CC) $(CPPFLAGS) $(CFLAGS_LIB) -Itests -DHD_ISA=base' \
	    $(LIB_SRC) $(CLI_SRC) $(SUPPORT_SRC) $(TEST_SRC) $(FUZZ_SRC) $(BENCH_SRC) > $@

list-tests:
	@printf '%s\n' $(TEST_BIN) $(REPLAY_BIN) $(TEST_SCRIPTS)

-include $(patsubst %.o,%.d,$(LIB_OBJ) $(CLI_OBJ) $(SUPPORT_OBJ) $(TEST_OBJ) $(BENCH_OBJ) $(FUZZ_OBJ))
