/* The functions of the `Native` interface in src/os/native.ts, which documents them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "function.h"
#include "../waist/os.h"
#include "watcher.h"

/* The version of the package, which a test compares with package.json. */
#define SHIM_VERSION "0.1.0"

enum { MAX_ARGUMENTS = 8, MAX_CHUNKS = 64 };

napi_value call(napi_env env, napi_callback_info info, body *body)
{
	napi_value argument[MAX_ARGUMENTS], value; /* those not given are undefined */
	size_t count = MAX_ARGUMENTS;
	void *environment;
	if (napi_get_cb_info(env, info, &count, argument, NULL, &environment) != napi_ok)
		return NULL;
	int result = ((struct environment *) environment)->ending ? -EBADF : body(environment, argument);
	return result == THREW || napi_create_int32(env, result, &value) != napi_ok ? NULL : value;
}

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

static int pin(struct environment *environment, napi_value value, napi_ref *reference)
{
	CHECK(napi_create_reference(environment->env, value, 1, reference));
	return 0;
}

/* What setup() was given lives as long as the binding: nothing here holds the realm that it came from. */
static int keep(struct environment *environment, const char *name, napi_value value)
{
	napi_value binding;
	napi_property_descriptor property = {.utf8name = name, .value = value, .attributes = napi_default};
	CHECK(napi_get_reference_value(environment->env, environment->binding, &binding));
	CHECK(napi_define_properties(environment->env, binding, 1, &property));
	return 0;
}

FUNCTION(setup)
{
	struct array area, results;
	int headroom;
	napi_valuetype type;
	napi_value resource, name;
	if (environment->dispatch_reference != NULL)
		return wrong_argument(environment->env, "setup() was called before");
	TRY(read_array(environment, argument[0], napi_uint8_array, &area));
	TRY(read_int(environment, argument[1], &headroom));
	TRY(read_array(environment, argument[2], napi_int32_array, &results));
	CHECK(napi_typeof(environment->env, argument[3], &type));
	if (headroom < 0 || (size_t) headroom >= area.length || results.length < RESULT_FIRST + 2 * OS_MAX_RIGHTS
		|| type != napi_function)
		return wrong_argument(environment->env, "setup(area, headroom, results, dispatch): too small, or not a function");
	CHECK(napi_create_object(environment->env, &resource));
	CHECK(napi_create_string_utf8(environment->env, "PASSFD", NAPI_AUTO_LENGTH, &name));
	CHECK(napi_async_init(environment->env, resource, name, &environment->context));
	TRY(keep(environment, "area", argument[0]));
	TRY(keep(environment, "results", argument[2]));
	TRY(keep(environment, "dispatch", argument[3]));
	CHECK(napi_create_reference(environment->env, argument[3], 0, &environment->dispatch_reference));
	environment->area = area.data;
	environment->area_length = area.length;
	environment->headroom = (size_t) headroom;
	environment->results = results.data;
	environment->results_length = results.length;
	return 0;
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
		environment_close_later(environment, batch);
	else
		free(batch);
	return count;
}

FUNCTION_OF_INT(spin, microseconds, environment_spin(environment, microseconds))

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

FUNCTION(make_pipe)
{
	int32_t ends[2];
	struct array out;
	TRY(read_array(environment, argument[0], napi_int32_array, &out));
	TRY(out.length < 2 ? -EINVAL : os_pipe(ends));
	return hold_ends(environment, ends, &out);
}

FUNCTION_OF_INT(make_socket, type, held_take(&environment->held, os_socket(type)))

FUNCTION(bind_unix)
{
	int fd, mode;
	struct array name;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_uint8_array, &name));
	TRY(read_int(environment, argument[2], &mode));
	return os_bind(fd, name.data, name.length, mode);
}

FUNCTION_OF_TWO(listen_on, fd, int, backlog, os_listen(fd, backlog))
FUNCTION_OF_INT(accept_one, fd, held_take(&environment->held, os_accept(fd)))

FUNCTION(connect_to)
{
	int fd;
	struct array name;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_uint8_array, &name));
	return os_connect(fd, name.data, name.length);
}

FUNCTION(bind_inet)
{
	bool udp;
	char host[128];
	size_t length;
	int port, backlog, flags;
	TRY(read_bool(environment, argument[0], &udp));
	CHECK(napi_get_value_string_utf8(environment->env, argument[1], host, sizeof host, &length));
	TRY(read_int(environment, argument[2], &port));
	TRY(read_int(environment, argument[3], &backlog));
	TRY(read_int(environment, argument[4], &flags));
	if (length == sizeof host - 1 || strlen(host) != length) /* cut off, or with a NUL inside */
		return -EINVAL;
	return held_take(&environment->held, os_bind_inet(udp, host, port, backlog, flags));
}

FUNCTION_OF_INT(kind, fd, os_kind(fd))

FUNCTION(peer)
{
	int fd;
	struct array out;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_int32_array, &out));
	return os_peer(fd, out.data, out.length);
}

FUNCTION_OF_TWO(pass_rights, fd, bool, on, os_pass_rights(fd, on))
FUNCTION_OF_TWO(send_buffer, fd, int, bytes, os_send_buffer(fd, bytes))
FUNCTION_OF_TWO(shut_down, fd, int, how, os_shutdown(fd, how))

FUNCTION(resize)
{
	int fd, columns, rows;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_int(environment, argument[1], &columns));
	TRY(read_int(environment, argument[2], &rows));
	return os_resize(fd, columns, rows);
}

FUNCTION_OF_INT(pidfd, pid, held_take(&environment->held, os_pidfd(pid)))
FUNCTION_OF_INT(peer_pidfd, fd, held_take(&environment->held, os_peer_pidfd(fd)))
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

FUNCTION(limit)
{
	(void) environment;
	(void) argument;
	return os_limit();
}

FUNCTION(send_bytes)
{
	int fd;
	struct array bytes, fds;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	TRY(read_fds(environment, argument + 4, &fds));
	struct iovec chunk = {.iov_base = bytes.data, .iov_len = bytes.length};
	return os_send(fd, &chunk, 1, fds.data, fds.length);
}

FUNCTION(send_vector)
{
	int fd;
	uint32_t count;
	int64_t skip;
	struct array chunk, fds;
	struct iovec chunks[MAX_CHUNKS];
	TRY(read_int(environment, argument[0], &fd));
	CHECK(napi_get_array_length(environment->env, argument[1], &count));
	CHECK(napi_get_value_int64(environment->env, argument[2], &skip));
	TRY(read_fds(environment, argument + 3, &fds));
	if (count > MAX_CHUNKS)
		count = MAX_CHUNKS;
	for (uint32_t i = 0; i < count; i++) {
		napi_value element;
		CHECK(napi_get_element(environment->env, argument[1], i, &element));
		TRY(read_array(environment, element, napi_uint8_array, &chunk));
		chunks[i] = (struct iovec) {.iov_base = chunk.data, .iov_len = chunk.length};
	}
	if (skip < 0 || count == 0 || (uint64_t) skip > chunks[0].iov_len)
		return -EINVAL;
	chunks[0].iov_base = (uint8_t *) chunks[0].iov_base + skip;
	chunks[0].iov_len -= (size_t) skip;
	return os_send(fd, chunks, count, fds.data, fds.length);
}

FUNCTION_OF_INT(receive, id, watcher_receive(environment, id))
FUNCTION_OF_TWO(watch, fd, bool, reads, watcher_watch(environment, fd, reads))
FUNCTION_OF_TWO(interest, id, int, events, watcher_interest(environment, id, events))

FUNCTION(target)
{
	int id;
	struct array bytes;
	napi_valuetype type;
	napi_ref reference;
	TRY(read_int(environment, argument[0], &id));
	CHECK(napi_typeof(environment->env, argument[1], &type));
	if (type == napi_null)
		return watcher_target(environment, id, NULL, NULL, 0);
	TRY(read_bytes(environment, argument + 1, &bytes));
	TRY(pin(environment, argument[1], &reference));
	int result = watcher_target(environment, id, reference, bytes.data, bytes.length);
	if (result < 0)
		CHECK(napi_delete_reference(environment->env, reference));
	return result;
}

FUNCTION_OF_INT(unwatch, id, watcher_unwatch(environment, id))
FUNCTION_OF_INT(ref, id, watcher_keep_alive(environment, id, true))
FUNCTION_OF_INT(unref, id, watcher_keep_alive(environment, id, false))

/* Each function keeps the binding, in whose environment it works, from being collected. */
static bool export_functions(napi_env env, napi_value binding, const struct function *functions, void *environment)
{
	for (; functions->name != NULL; functions++) {
		napi_value value;
		const char *name = functions->name;
		napi_property_descriptor property = {.utf8name = "binding", .value = binding, .attributes = napi_default};
		if (napi_create_function(env, name, NAPI_AUTO_LENGTH, functions->call, environment, &value) != napi_ok
			|| napi_define_properties(env, value, 1, &property) != napi_ok
			|| napi_set_named_property(env, binding, name, value) != napi_ok)
			return false;
	}
	return true;
}

/* Each evaluation of passfd calls it once, and so has an environment of its own. Returns the binding. */
static napi_value create(napi_env env, napi_callback_info info)
{
	static const struct function functions[] = {
		{"setup", call_setup}, {"hold", call_hold}, {"release", call_release}, {"share", call_share},
		{"separate", call_separate}, {"close", call_close_number}, {"closeMany", call_close_many}, {"closeLater", call_close_later}, {"pendingCloses", call_pending_closes}, {"spin", call_spin},
		{"held", call_held}, {"dup", call_duplicate}, {"socketpair", call_make_socketpair}, {"pipe", call_make_pipe},
		{"socket", call_make_socket}, {"bind", call_bind_unix}, {"listen", call_listen_on},
		{"accept", call_accept_one}, {"connect", call_connect_to}, {"bindInet", call_bind_inet}, {"kind", call_kind},
		{"peer", call_peer}, {"passRights", call_pass_rights}, {"sendBuffer", call_send_buffer},
		{"shutdown", call_shut_down}, {"resize", call_resize},
		{"lock", call_lock}, {"limit", call_limit}, {"send", call_send_bytes}, {"sendVector", call_send_vector},
		{"receive", call_receive}, {"watch", call_watch}, {"interest", call_interest}, {"target", call_target},
		{"unwatch", call_unwatch}, {"ref", call_ref}, {"unref", call_unref},
		{"pidfd", call_pidfd}, {"peerPidfd", call_peer_pidfd}, {"terminalSide", call_terminal_side}, {"statusFlags", call_status_flags},
		{"nonblocking", call_nonblocking}, {"reopen", call_reopen}, {NULL, NULL}
	};
	napi_value binding;
	struct environment *environment;
	(void) info;
	if (napi_create_object(env, &binding) != napi_ok || (environment = environment_create(env, binding)) == NULL) {
		napi_throw_error(env, NULL, "passfd: the environment could not be set up");
		return NULL;
	}
	bool exported = export_functions(env, binding, functions, environment)
		&& export_functions(env, binding, message_functions, environment)
		&& export_functions(env, binding, memory_functions, environment)
		&& export_functions(env, binding, accept_functions, environment);
	return exported ? binding : NULL;
}

/* The module is one for all who load this file in a Node environment; what src/os/load.ts compares is its version. */
NAPI_MODULE_INIT()
{
	napi_value version, function;
	bool exported = napi_create_string_utf8(env, SHIM_VERSION, NAPI_AUTO_LENGTH, &version) == napi_ok
		&& napi_set_named_property(env, exports, "version", version) == napi_ok
		&& napi_create_function(env, "create", NAPI_AUTO_LENGTH, create, NULL, &function) == napi_ok
		&& napi_set_named_property(env, exports, "create", function) == napi_ok;
	return exported ? exports : NULL;
}
