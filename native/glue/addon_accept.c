/* For who accepts connections in order to pass them on. */
#include <errno.h>
#include <string.h>

#include "function.h"
#include "../waist/os.h"

/* Those that can't be entered for want of memory are closed, and left out. */
static int hold_all(struct environment *environment, int32_t *fds, int count, uint8_t *addresses)
{
	int kept = 0;
	for (int i = 0; i < count; i++) {
		int fd = held_take(&environment->held, fds[i]);
		if (fd < 0)
			continue;
		if (addresses != NULL && kept < i)
			memcpy(addresses + kept * OS_ADDRESS, addresses + i * OS_ADDRESS, OS_ADDRESS);
		fds[kept++] = fd;
	}
	return count > 0 && kept == 0 ? -ENOMEM : kept;
}

FUNCTION(accept_many)
{
	int fd, most;
	struct array fds, addresses = {0};
	napi_valuetype type;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_int32_array, &fds));
	TRY(read_int(environment, argument[2], &most));
	CHECK(napi_typeof(environment->env, argument[3], &type));
	if (type != napi_null)
		TRY(read_array(environment, argument[3], napi_uint8_array, &addresses));
	if (most < 1 || (size_t) most > fds.length)
		return -EINVAL;
	if (type != napi_null && (size_t) most > addresses.length / OS_ADDRESS)
		return -EINVAL;
	int count = os_accept_many(fd, fds.data, (size_t) most, addresses.data);
	return count <= 0 ? count : hold_all(environment, fds.data, count, addresses.data);
}

FUNCTION(peek)
{
	int fd;
	struct array bytes;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	return os_peek(fd, bytes.data, bytes.length);
}

FUNCTION(edge_set)
{
	(void) argument;
	return held_take(&environment->held, os_edge_set());
}

FUNCTION_OF_TWO(edge_add, set, int, fd, os_edge_add(set, fd))
FUNCTION_OF_TWO(edge_add_end, set, int, fd, os_edge_add_end(set, fd))
FUNCTION_OF_TWO(edge_remove, set, int, fd, os_edge_remove(set, fd))

FUNCTION(edge_ready)
{
	int set;
	struct array fds;
	TRY(read_int(environment, argument[0], &set));
	TRY(read_array(environment, argument[1], napi_int32_array, &fds));
	return os_edge_ready(set, fds.data, fds.length);
}

FUNCTION(inet_name)
{
	int fd;
	bool peer;
	struct array out, text;
	struct os_inet_name name;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bool(environment, argument[1], &peer));
	TRY(read_array(environment, argument[2], napi_int32_array, &out));
	TRY(read_array(environment, argument[3], napi_uint8_array, &text));
	TRY(os_inet_name(fd, peer, &name));
	if (out.length < 2 || text.length < name.length)
		return -ERANGE;
	((int32_t *) out.data)[0] = name.family;
	((int32_t *) out.data)[1] = name.port;
	memcpy(text.data, name.text, name.length);
	return (int) name.length;
}

FUNCTION_OF_INT(close_queue, fd, os_close_queue(fd))
FUNCTION_OF_INT(share_port, fd, os_share_port(fd))

FUNCTION(diagnosis)
{
	(void) argument;
	return held_take(&environment->held, os_diagnosis());
}

FUNCTION_OF_INT(handshakes, fd, os_handshakes(fd))
FUNCTION_OF_INT(queued, fd, os_queued(fd))
FUNCTION_OF_INT(quiet, fd, os_quiet(fd))

FUNCTION_OF_TWO(die_after_parent, seconds, int, parent, os_die_after_parent(parent, seconds))
FUNCTION_OF_TWO(signal_process, pidfd, int, number, os_signal(pidfd, number))
FUNCTION_OF_INT(collect, pid, os_collect(pid))

FUNCTION(is_reaper)
{
	(void) environment;
	(void) argument;
	return os_is_reaper();
}

FUNCTION(ended_child)
{
	(void) environment;
	(void) argument;
	return os_ended_child();
}

const struct function accept_functions[] = {
	{"acceptMany", call_accept_many}, {"peek", call_peek}, {"edgeSet", call_edge_set}, {"edgeAdd", call_edge_add}, {"edgeAddEnd", call_edge_add_end},
	{"edgeRemove", call_edge_remove}, {"edgeReady", call_edge_ready}, {"inetName", call_inet_name},
	{"closeQueue", call_close_queue}, {"sharePort", call_share_port}, {"diagnosis", call_diagnosis},
	{"handshakes", call_handshakes}, {"queued", call_queued}, {"quiet", call_quiet},
	{"dieAfterParent", call_die_after_parent}, {"signal", call_signal_process}, {"isReaper", call_is_reaper},
	{"endedChild", call_ended_child}, {"collect", call_collect}, {NULL, NULL}
};
