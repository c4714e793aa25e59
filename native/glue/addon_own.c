/* Descriptors: who owns them, and what they are open on. */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../waist/os.h"
#include "closed_batches.h"
#include "function.h"
#include "watcher.h"

/*
 * So few are looked at before they are closed: to wake a helper thread takes longer than that and closing what can't wait. From more
 * on waking pays.
 */
enum { FEW = 8 };

enum outcome { NOT_HELD, STILL_SHARED, TAKEN_OUT };

/* An owner is done with the descriptor; the last one takes it out of the table, in order to close it. */
static enum outcome take_out(struct environment *environment, int fd)
{
	if (!held_has(&environment->held, fd, HELD))
		return NOT_HELD;
	if (!held_drop(&environment->held, fd))
		return STILL_SHARED;
	if (held_has(&environment->held, fd, WATCHED))
		watcher_forget(environment, fd);
	return TAKEN_OUT;
}

static int close_one(struct environment *environment, int fd)
{
	switch (take_out(environment, fd)) {
	case TAKEN_OUT: return os_close(fd);
	case STILL_SHARED: return 0;
	default: return -EBADF;
	}
}

FUNCTION(hold)
{
	int fd;
	TRY(read_int(environment, argument[0], &fd));
	TRY(os_set_cloexec(fd));
	return held_adopt(&environment->held, fd);
}

FUNCTION(release)
{
	int fd;
	TRY(read_int(environment, argument[0], &fd));
	if (!held_has(&environment->held, fd, HELD))
		return -EBADF;
	/* The number would stay with the others */
	if (!held_drop(&environment->held, fd)) {
		held_share(&environment->held, fd);
		return -EBUSY;
	}
	return 0;
}

FUNCTION_OF_INT(share, fd, held_share(&environment->held, fd))
FUNCTION_OF_INT(separate, fd, held_separate(&environment->held, fd))
FUNCTION_OF_INT(close_number, fd, close_one(environment, fd))

FUNCTION(close_many)
{
	struct array fds;
	int closed = 0;
	TRY(read_fds(environment, argument, &fds));
	for (size_t i = 0; i < fds.length; i++) {
		closed += close_one(environment, ((int32_t *) fds.data)[i]) != -EBADF;
	}
	return closed;
}

FUNCTION(close_later)
{
	struct array fds;
	int tag;
	TRY(read_fds(environment, argument, &fds));
	TRY(read_int(environment, argument[3], &tag));
	struct closer_batch *batch = calloc(1, sizeof *batch + fds.length * sizeof *batch->fds);
	if (batch == NULL)
		return -ENOMEM;
	batch->tag = tag;
	for (size_t i = 0; i < fds.length; i++) {
		int fd = ((int32_t *) fds.data)[i];
		enum outcome outcome = take_out(environment, fd);
		if (outcome == NOT_HELD)
			continue;
		if (outcome == TAKEN_OUT && (fds.length > FEW || !os_closes_at_once(fd))) {
			batch->fds[batch->count++] = fd;
			continue;
		}
		if (outcome == TAKEN_OUT)
			os_close(fd);
		batch->closed++;
	}
	int count = (int) batch->count + batch->closed;
	if (batch->count > 0 || tag > 0)
		closed_batches_submit(environment, batch);
	else
		free(batch);
	return count;
}

FUNCTION(pending_closes)
{
	(void) environment;
	(void) argument;
	return closer_pending();
}

FUNCTION(held)
{
	(void) argument;
	return environment->held.count;
}

FUNCTION_OF_INT(duplicate, fd, held_take(&environment->held, os_dup(fd)))

/* Both ends or none. */
static int hold_ends(struct environment *environment, const int32_t *ends, struct array *out)
{
	int32_t *numbers = out->data;
	for (int i = 0; i < 2; i++) {
		numbers[i] = held_take(&environment->held, ends[i]);
		if (numbers[i] >= 0)
			continue;
		os_close(ends[1 - i]);
		held_clear(&environment->held, ends[1 - i], HELD);
		return -ENOMEM;
	}
	return 0;
}

FUNCTION(make_pipe)
{
	int32_t ends[2];
	struct array out;
	TRY(read_array(environment, argument[0], napi_int32_array, &out));
	TRY(out.length < 2 ? -EINVAL : os_pipe(ends));
	return hold_ends(environment, ends, &out);
}

FUNCTION(make_socketpair)
{
	int type;
	int32_t ends[2];
	struct array out;
	TRY(read_int(environment, argument[0], &type));
	TRY(read_array(environment, argument[1], napi_int32_array, &out));
	TRY(out.length < 2 ? -EINVAL : os_socketpair(type, ends));
	return hold_ends(environment, ends, &out);
}

FUNCTION_OF_INT(kind, fd, os_kind(fd))
FUNCTION_OF_INT(is_pipe, fd, os_is_pipe(fd))

FUNCTION(resize)
{
	int fd, columns, rows;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_int(environment, argument[1], &columns));
	TRY(read_int(environment, argument[2], &rows));
	return os_resize(fd, columns, rows);
}

FUNCTION_OF_INT(pidfd, pid, held_take(&environment->held, os_pidfd(pid)))
FUNCTION_OF_INT(terminal_side, fd, os_terminal_side(fd))
FUNCTION_OF_INT(status_flags, fd, os_status_flags(fd))
FUNCTION_OF_TWO(nonblocking, fd, bool, on, os_nonblocking(fd, on))

FUNCTION(reopen)
{
	int fd;
	TRY(read_int(environment, argument[0], &fd));
	int opened = os_reopen(fd);
	return opened <= 0 ? opened : held_take(&environment->held, opened);
}

FUNCTION_OF_TWO(lock, fd, bool, on, os_lock(fd, on))

/* Once in a process, not in each environment: the numbers of a service manager are used again after they were closed. */
FUNCTION(activation)
{
	static atomic_flag given = ATOMIC_FLAG_INIT;
	bool on;
	(void) environment;
	TRY(read_bool(environment, argument[0], &on));
	if (on)
		return atomic_flag_test_and_set(&given) ? -EALREADY : 0;
	atomic_flag_clear(&given);
	return 0;
}

FUNCTION(limit)
{
	(void) environment;
	(void) argument;
	return os_limit();
}

const struct function own_functions[] = {
	{"hold", call_hold}, {"release", call_release}, {"share", call_share}, {"separate", call_separate},
	{"close", call_close_number}, {"closeMany", call_close_many}, {"closeLater", call_close_later},
	{"pendingCloses", call_pending_closes}, {"held", call_held}, {"dup", call_duplicate}, {"pipe", call_make_pipe},
	{"socketpair", call_make_socketpair}, {"kind", call_kind}, {"isPipe", call_is_pipe}, {"resize", call_resize}, {"pidfd", call_pidfd},
	{"terminalSide", call_terminal_side}, {"statusFlags", call_status_flags}, {"nonblocking", call_nonblocking},
	{"reopen", call_reopen}, {"lock", call_lock}, {"limit", call_limit},
	{"activation", call_activation}, {NULL, NULL}
};
