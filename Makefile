# daybook: event sourcing inside PostgreSQL
EXTENSION = daybook
EXTVERSION = 0.1
MODULE_big = daybook
PGFILEDESC = "daybook - event sourcing inside PostgreSQL"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

# The install script is the declarations of each capability, in the order of
# the flow of data: nothing refers to what stands after it.
SQL_PARTS = \
	src/daybook.sql \
	src/event_table/event_table.sql \
	src/append/append.sql \
	src/schema/schema.sql \
	src/sequencer/log.sql \
	src/sequencer/sequencer.sql \
	src/replay/replay.sql \
	src/fold/fold.sql \
	src/projection/projection.sql \
	src/projection/parking.sql \
	src/projection/rebuild.sql \
	src/projection/verify.sql \
	src/projection/projection_status.sql \
	src/subscription/subscription.sql

DATA_built = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = $(EXTENSION)--$(EXTVERSION).sql

# Tests begin in a database that has the extension.
REGRESS_OPTS = --load-extension=$(EXTENSION)
REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
ISOLATION = $(sort $(patsubst test/isolation/specs/%.spec,%,$(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=$(EXTENSION)
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-clobbered -Werror
# Byte code for JIT needs clang and serves no function of ours.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS) Makefile
	cat $(SQL_PARTS) > $@

$(OBJS): $(wildcard src/*.h src/*/*.h)

# Compares daybook with plain tables on a private server; bench/README.md says
# how to read what it prints.
.PHONY: bench
bench:
	$(srcdir)/bench/run $(BENCH)
