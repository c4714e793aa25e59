/* Raw streams, packets, datagrams, pipes and terminals. */
#include <errno.h>
#include <string.h>

#include "function.h"
#include "../waist/os.h"

enum { MESSAGE_PLACE = 3, MESSAGE_NAME = 3, MESSAGE_PID, MESSAGE_UID, MESSAGE_GID, MESSAGE_PIDFD, MESSAGE_FIRST };
enum { CUT = 2, CREDENTIALS = 4, PIDFD = 8 }; /* flags, besides TRUNCATED */

FUNCTION_OF_TWO(pass_credentials, fd, bool, on, os_pass_credentials(fd, on))
FUNCTION_OF_TWO(pass_pidfd, fd, bool, on, os_pass_pidfd(fd, on))
FUNCTION_OF_INT(pending, fd, os_pending(fd))
FUNCTION_OF_INT(next_size, fd, os_next_size(fd))

FUNCTION(name)
{
	int fd;
	bool peer;
	struct array out;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bool(environment, argument[1], &peer));
	TRY(read_array(environment, argument[2], napi_uint8_array, &out));
	return os_name(fd, peer, out.data, out.length);
}

/* The arguments of both: fd, bytes, start, end, results. */
static int read_receive(
	struct environment *environment, const napi_value *argument, int *fd, struct array *bytes, struct array *results)
{
	TRY(read_int(environment, argument[0], fd));
	TRY(read_bytes(environment, argument + 1, bytes));
	TRY(read_array(environment, argument[4], napi_int32_array, results));
	return results->length < MESSAGE_FIRST + 2 * OS_MAX_RIGHTS ? -EINVAL : 0;
}

static int put_results(struct environment *environment, int32_t *results, int received, struct os_rights *rights)
{
	int32_t kept = 0;
	for (size_t i = 0; i < rights->count; i++) {
		int fd = held_take(&environment->held, rights->fds[i]);
		if (fd >= 0)
			rights->fds[kept++] = fd;
		else
			rights->truncated = true;
	}
	results[RESULT_BYTES] = received;
	results[RESULT_DESCRIPTORS] = kept;
	results[RESULT_FLAGS] = rights->truncated ? TRUNCATED : 0;
	results[MESSAGE_NAME] = 0;
	return received;
}

FUNCTION(receive_placed)
{
	int fd;
	size_t place;
	struct array bytes, out;
	TRY(read_receive(environment, argument, &fd, &bytes, &out));
	int32_t *results = out.data;
	struct os_rights rights = {.fds = results + MESSAGE_FIRST, .capacity = out.length - MESSAGE_FIRST};
	int received = os_receive_placed(fd, bytes.data, bytes.length, &rights, &place);
	put_results(environment, results, received, &rights);
	results[MESSAGE_PLACE] = (int32_t) place;
	return received;
}

FUNCTION(receive_message)
{
	int fd;
	bool wants_pidfd;
	struct array bytes, out, name;
	struct os_message message;
	TRY(read_receive(environment, argument, &fd, &bytes, &out));
	TRY(read_array(environment, argument[5], napi_uint8_array, &name));
	TRY(read_bool(environment, argument[6], &wants_pidfd));
	if (name.length < sizeof message.name)
		return -EINVAL;
	int32_t *results = out.data;
	struct iovec chunk = {.iov_base = bytes.data, .iov_len = bytes.length};
	struct os_rights rights = {.fds = results + MESSAGE_FIRST, .capacity = out.length - MESSAGE_FIRST};
	int received = os_receive_message(fd, &chunk, &message, &rights, wants_pidfd);
	put_results(environment, results, received, &rights);
	results[RESULT_BYTES] = received < 0 ? received : (int32_t) message.size;
	results[RESULT_FLAGS] |= (message.cut ? CUT : 0) | (message.credentials ? CREDENTIALS : 0) | (message.has_pidfd ? PIDFD : 0);
	results[MESSAGE_NAME] = (int32_t) message.name_length;
	results[MESSAGE_PID] = message.pid;
	results[MESSAGE_UID] = message.uid;
	results[MESSAGE_GID] = message.gid;
	results[MESSAGE_PIDFD] = message.pidfd;
	if (message.has_pidfd && message.pidfd >= 0)
		results[MESSAGE_PIDFD] = held_take(&environment->held, message.pidfd);
	memcpy(name.data, message.name, message.name_length);
	return received;
}

FUNCTION(send_message)
{
	int fd;
	struct array bytes, fds, name = {0};
	napi_valuetype type;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	TRY(read_fds(environment, argument + 4, &fds));
	CHECK(napi_typeof(environment->env, argument[7], &type));
	if (type != napi_null)
		TRY(read_array(environment, argument[7], napi_uint8_array, &name));
	struct iovec chunk = {.iov_base = bytes.data, .iov_len = bytes.length};
	return os_send_message(fd, &chunk, fds.data, fds.length, name.data, name.length);
}

FUNCTION(read_now)
{
	int fd;
	struct array bytes;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	return os_read(fd, bytes.data, bytes.length);
}

FUNCTION(write_now)
{
	int fd;
	struct array bytes;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	return os_write(fd, bytes.data, bytes.length);
}

const struct function message_functions[] = {
	{"passCredentials", call_pass_credentials}, {"passPidfd", call_pass_pidfd},
	{"pending", call_pending}, {"nextSize", call_next_size}, {"name", call_name},
	{"receivePlaced", call_receive_placed}, {"receiveMessage", call_receive_message},
	{"sendMessage", call_send_message}, {"readNow", call_read_now}, {"writeNow", call_write_now}, {NULL, NULL}
};
